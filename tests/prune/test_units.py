"""Structured pruning in one call: smaller, and the same as with zeros in place of the units."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax

import jsparse as js
from jsparse import importance
from jsparse.export import Record, rebuild
from jsparse.prune import costs, units
from tests.support.zoo import modules
from tests.support.zoo_cases import CASES, masked, outputs, prepared, shapes, vectors

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


MEANS = {"decoder", "loops", "sizes in the code"}  # they take means over units
SLOW = sorted({*CASES} - MEANS - {"resnet"})


@pytest.mark.parametrize(
    "name", ["resnet", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_the_outputs_are_those_of_the_masked_model(name: str) -> None:
    case = CASES[name]
    model = prepared(case.make, {})
    small, record = units(model, case.inputs(0, 2), density=0.6)
    fresh = case.inputs(1, 3)
    expected = outputs(masked(model, record), fresh)
    np.testing.assert_allclose(outputs(small, fresh), expected, rtol=1e-4, atol=1e-5)
    again = rebuild(prepared(case.make, {}), Record.from_dict(record.to_dict()))
    assert shapes(again) == shapes(small) != shapes(model)


def standardized(x: Array) -> Array:
    """A layer norm as it is written by hand."""
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)


class Normed(nnx.Module):
    """A residual stream with a layer norm."""

    def __init__(self, norm: Callable[[Array], Array], rngs: nnx.Rngs):
        self.a, self.norm = nnx.Linear(3, 8, rngs=rngs), norm
        self.b, self.out = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.a(x)
        return self.out(x + nnx.relu(self.b(self.norm(x))))


@pytest.mark.parametrize("norm", [nnx.LayerNorm(8, rngs=nnx.Rngs(0)), standardized])
def test_a_layer_norm_is_over_the_units_that_are_left(norm: Callable[[Array], Array]) -> None:
    model, x = (
        Normed(norm, nnx.Rngs(0)),
        np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32),
    )
    small, record = units(model, x, density=0.5)
    kept = list(record.cuts["out/kernel"].keep[0])
    a, b, out = (np.asarray(layer.kernel[...]) for layer in (model.a, model.b, model.out))
    stream = x @ a[:, kept]
    expected = (stream + np.maximum(standardized(stream) @ b[np.ix_(kept, kept)], 0)) @ out[kept]
    np.testing.assert_allclose(small(x), expected, rtol=1e-4, atol=1e-5)
    assert record.widths["a/kernel:1"].startswith("8 -> 4; the mean at tests/prune/test_units.py")


class Complex(nnx.Module):
    """Complex weights, whose outputs count by their size."""

    def __init__(self, rngs: nnx.Rngs):
        real, imaginary = jax.random.normal(rngs.params(), (2, 3, 8))
        self.a, self.out = nnx.Param(lax.complex(real, imaginary)), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(jnp.abs(lax.complex(x, x) @ self.a[...]))


def test_complex_weights_count_by_their_size() -> None:
    model, x = Complex(nnx.Rngs(0)), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    group = [js.groups(model, x)["a:1"]]
    size = lambda model: np.abs(np.asarray(model.a[...]))
    plain = importance.Joined(scale=None)
    (found,) = importance.Norm(2, joined=plain)(model, group)
    own = (size(model) ** 2).sum(0) + (np.asarray(model.out.kernel[...]) ** 2).sum(1)
    np.testing.assert_allclose(found, own, rtol=1e-5)
    loss = lambda model, batch: jnp.square(model(batch)).mean()
    each = [dataclasses.replace(group[0], members=(member,)) for member in group[0].members]
    for slopes in (importance.Taylor, importance.Fisher):
        first, second = slopes(loss, [x], joined=plain)(model, each)
        np.testing.assert_allclose(first, second, rtol=1e-4)  # a factor on either does the same
    for other in (importance.LAMP(), importance.MedianDistance()):
        assert other(model, group)[0].shape == (8,)
    small, record = units(model, x, density=0.5)
    np.testing.assert_allclose(small(x), masked(model, record)(x), rtol=1e-4, atol=1e-5)


def mlp(*widths: int) -> nnx.Sequential:
    layers = [
        nnx.Linear(i, o, rngs=nnx.Rngs(n)) for n, (i, o) in enumerate(itertools.pairwise(widths))
    ]
    return nnx.Sequential(*layers)


def scores(*given: list[float]) -> importance.Importance:
    return lambda model, groups: [np.asarray(one, np.float64) for one in given]


def left(record: Record) -> list[int]:
    return [int(text.split(" -> ")[-1].split()[0].rstrip(",")) for text in record.widths.values()]


def test_each_group_or_the_model_as_a_whole() -> None:
    by = scores([1, 2, 3, 4], [5, 6, 7, 8])
    model = mlp(3, 4, 4, 2)
    each, over = (
        units(model, (1, 3), density=0.5, importance=by, scope=scope)[1]
        for scope in (js.Whole(), js.WholeModel())
    )
    assert each.cuts["layers/0/kernel"].keep == {1: (2, 3)}
    assert each.cuts["layers/1/kernel"].keep == {0: (2, 3), 1: (2, 3)}
    assert left(over) == [1, 4]  # no layer loses its last unit
    options = {"importance": by, "scope": js.WholeModel(), "least_width": 2}
    assert left(units(model, (1, 3), density=0.5, **options)[1]) == [2, 4]
    options["importance"] = scores([1, 1, 1, 1], [1, 1, 1, 1])  # equals fall evenly
    assert left(units(model, (1, 3), density=0.5, **options)[1]) == [2, 2]


class Values(nnx.Module):
    """Attention whose code wants values to be as wide as queries."""

    def __init__(self, rngs: nnx.Rngs):
        self.q, self.k, self.v = (nnx.LinearGeneral(3, (2, 6), rngs=rngs) for _ in range(3))
        self.out = nnx.LinearGeneral((2, 6), 2, axis=(-2, -1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(jax.nn.dot_product_attention(self.q(x), self.k(x), self.v(x)))


def test_groups_that_the_code_wants_alike_keep_the_same_width() -> None:
    by = scores([9, 9], [1, 2, 3, 4, 5, 6], [3, 3, 7, 7, 7, 7])  # heads, queries, values
    options = {"density": 0.6, "importance": by, "scope": js.WholeModel()}
    small, record = units(Values(nnx.Rngs(0)), (1, 4, 3), **options)
    assert small.q.kernel.shape == small.v.kernel.shape == (3, 2, 3)
    assert record.widths["q/kernel:2"] == "6 -> 3 (rounded from 2)" and not record.stayed
    with pytest.raises(ValueError, match=r"keep; q/kernel:2: as wide as one that stays"):
        units(Values(nnx.Rngs(0)), (1, 4, 3), density=0.6, keep="v/kernel")


class Divided(nnx.Module):
    """Hidden units in parts, with a layer for each."""

    def __init__(self, ends: Callable[[int], Any], lengths: list[int], rngs: nnx.Rngs):
        self.ends, self.a = ends, nnx.Linear(3, sum(lengths), rngs=rngs)
        self.layers = modules([nnx.Linear(length, 2, rngs=rngs) for length in lengths])

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.a(x))
        parts = jnp.split(x, self.ends(x.shape[-1]), axis=-1)
        made = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        return jnp.stack(made).sum(0)


PARTS = [
    (lambda width: 3, [4, 4, 4], [2, 2, 2]),
    (lambda width: [width // 3], [3, 6], [1, 2]),
    (lambda width: [width * 5 // 16], [10, 22], [5, 11]),
]


@pytest.mark.parametrize(("ends", "lengths", "expected"), PARTS)
def test_parts_of_an_axis_keep_their_shares(
    ends: Callable[[int], Any],
    lengths: list[int],
    expected: list[int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = Divided(ends, lengths, nnx.Rngs(0))
    by = scores(*([float(n)] * length for n, length in enumerate(lengths)))  # the first goes first
    small, record = units(model, (1, 3), density=0.5, importance=by, scope=js.WholeModel())
    assert left(record) == expected and not record.stayed
    assert not capfd.readouterr().out
    x = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_allclose(small(x), masked(model, record)(x), rtol=1e-4, atol=1e-5)


def test_parts_whose_proportions_the_code_changes_stay() -> None:
    model = Divided(lambda width: [math.isqrt(width)], [4, 12], nnx.Rngs(0))  # 2 of 8 by chance
    assert left(units(model, (1, 3), density=0.5)[1]) == [2, 6]
    with pytest.raises(ValueError, match=r"no unit can be removed: held are a/kernel: "):
        units(model, (1, 3), density=0.3)


def shuffled(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b], -1).reshape(len(a), 2, -1).swapaxes(1, 2).reshape(len(a), -1)


class Stage(nnx.Module):
    """A stage of ShuffleNet v2, of linear layers: each block passes half of its inputs on."""

    def __init__(self, width: int, blocks: int, rngs: nnx.Rngs):
        half = width // 2
        self.a, self.b = (nnx.Linear(3, half, rngs=rngs) for _ in range(2))
        self.blocks = modules([nnx.Linear(half, half, rngs=rngs) for _ in range(blocks - 1)])
        self.out = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = shuffled(nnx.relu(self.a(x)), self.b(x))
        for block in self.blocks:
            half = x.shape[-1] // 2
            x = shuffled(x[:, :half], nnx.relu(block(x[:, half:])))
        return self.out(x)


def test_stages_of_shuffled_halves_shrink_if_they_are_wide_enough() -> None:
    model = Stage(16, 3, nnx.Rngs(0))
    small, record = units(model, (1, 3), density=0.5)
    assert small.out.kernel.shape == (8, 2)  # of 16, in steps of 2 to the power of 3
    assert left(record) == [1, 1, 2]
    x = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_allclose(small(x), masked(model, record)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no unit can be removed"):
        units(Stage(8, 3, nnx.Rngs(0)), (1, 3), density=0.5)


@pytest.mark.parametrize(("density", "width"), [(0.5, 8), (0.1, 8), (0.65, 16), (0.95, 20)])
def test_widths_are_rounded_to_the_nearest_that_is_allowed(density: float, width: int) -> None:
    by = scores(list(range(20)))
    _, record = units(mlp(3, 20, 2), (1, 3), density=density, importance=by, round_to=8)
    wanted = round(20 * density)
    given = f"20 -> {width}" if width < 20 else "20, all"
    assert record.widths == {"layers/0/kernel:1": f"{given} (rounded from {wanted})"}
    assert record.cost == ()


def test_a_budget_is_met_by_as_few_units_as_it_takes() -> None:
    model = mlp(3, 16, 16, 2)
    count = lambda sizes: sizes.operations
    whole = 3 * 16 + 16 * 16 + 16 * 2
    _, record = units(model, (1, 3), budget=0.5, cost=count)
    a, b = left(record)
    assert record.cost == (whole, 3 * a + a * b + 2 * b)
    assert 3 * a + a * b + 2 * b <= 0.5 * whole < 3 * (a + 1) + (a + 1) * (b + 1) + 2 * (b + 1)
    small, _ = units(model, (1, 3), budget=0.5, cost=lambda sizes: np.array(sizes.parameters))
    size = lambda model: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert size(small) <= 0.5 * size(model)


def test_what_keep_names_stays_whole_and_scores_of_inf_too() -> None:
    model = mlp(3, 4, 4, 2)
    _, record = units(model, (1, 3), density=0.5, keep="layers/2/.*")
    assert list(record.widths) == ["layers/0/kernel:1"] and left(record) == [2]
    by = scores([1, np.inf, np.inf, np.inf], [1, 2, 3, 4])
    assert left(units(model, (1, 3), density=0.5, importance=by)[1]) == [3, 2]


def test_what_cannot_be_done_is_said() -> None:
    model = mlp(3, 4, 2)
    with pytest.raises(ValueError, match="both 1, which removes nothing"):
        units(model, (1, 3))
    with pytest.raises(ValueError, match="half the operations; budgt by name would go to the mod"):
        units(model, (1, 3), budgt=0.5)
    refused: list[tuple[Any, str]] = [(costs.tiles(), "0"), (lambda sizes: np.inf, "inf")]
    for cost, whole in refused:
        with pytest.raises(ValueError, match=f"cost of the whole model is {whole}, of which no"):
            units(model, (1, 3), budget=0.5, cost=cost)
    with pytest.raises(ValueError, match=r"budget 0.1 cannot be met: at the least widths 0\.25"):
        units(model, (1, 3), budget=0.1)
    with pytest.raises(ValueError, match="no unit can be removed"):
        units(mlp(3, 2), (1, 3), budget=0.5)
    with pytest.raises(ValueError, match="layers/0/kernel:1: named by keep"):
        units(model, (1, 3), budget=0.5, keep=".*")
    with pytest.raises(ValueError, match="importance must give 4 scores for layers/0/kernel:1"):
        units(model, (1, 3), density=0.5, importance=scores([1, 2]))
    with pytest.raises(ValueError, match="1 of 4 scores of layers/0/kernel:1 are NaN, and its wei"):
        units(model, (1, 3), density=0.5, importance=scores([1, 2, 3, np.nan]))
    with pytest.raises(TypeError, match=r"pass density=0\.3"):
        units(model, (1, 3), sparsity=0.7)
    with pytest.raises(ValueError, match="the whole model is 5, and 5 at the least widths; give a"):
        units(model, (1, 3), budget=0.5, cost=lambda sizes: 5)
    for given in ({"density": 0.5}, {"budget": 0.5}):
        with pytest.raises(ValueError, match="layers/0/kernel:1: 4 of 4 scores are infinite"):
            units(model, (1, 3), importance=scores([np.inf] * 4), **given)


@pytest.mark.parametrize("value, kind", [(np.inf, "infinite"), (np.nan, "NaN")])
def test_weights_that_are_not_finite_are_named(value: float, kind: str) -> None:
    model = mlp(3, 4, 2)
    kernel = model.layers[0].kernel
    kernel[...] = kernel[...].at[1, 2].set(value)
    for each in (importance.Norm(2), importance.LAMP(), importance.MedianDistance()):
        with pytest.raises(ValueError, match=f": 1 of 12 entries of layers/0/kernel are {kind}"):
            units(model, (1, 3), density=0.5, importance=each)


def test_a_unit_that_is_not_finite_can_be_removed() -> None:
    model = mlp(3, 4, 2)
    bias = model.layers[0].bias
    bias[...] = bias[...].at[1].set(np.inf)
    small, record = units(model, (1, 3), density=0.5, importance=scores([2, -np.inf, 1, 3]))
    assert record.cuts["layers/0/bias"].keep == {0: (0, 3)}
    assert np.isfinite(small(jnp.ones((1, 3)))).all()


class Fraction(nnx.Module):
    """Heads as wide as a stream divided by their number, which the code has."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = (4, 8), (8, 8), (8, 8), (8, 3)
        self.enter, self.value, self.out, self.leave = (nnx.Linear(*n, rngs=rngs) for n in sizes)

    def __call__(self, x: Array) -> Array:
        x = self.enter(x)
        heads = self.value(x).reshape(len(x), 2, x.shape[-1] // 2)
        return self.leave(x + self.out(nnx.relu(heads).reshape(len(x), -1)))


def test_a_stream_shrinks_with_heads_that_are_a_fraction_of_it() -> None:
    model, x = Fraction(nnx.Rngs(0)), vectors(0, 4, 4)
    small, record = units(model, x, density=0.5)
    assert small.value.kernel.shape == (4, 4)
    np.testing.assert_allclose(small(x), masked(model, record)(x), atol=1e-5)


class GroupedQueries(nnx.Module):
    """Two heads of queries for each of keys, as wide as the stream divided by their number."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.shared = 4, 2
        sizes = (5, 24), (24, 24), (24, 12), (24, 12), (24, 24), (24, 3)
        layers = (nnx.Linear(*n, use_bias=False, rngs=rngs) for n in sizes)
        self.enter, self.query, self.key, self.value, self.out, self.leave = layers

    def __call__(self, x: Array) -> Array:
        x = self.enter(x)
        wide = x.shape[-1] // self.heads
        q = self.query(x).reshape(*x.shape[:2], self.heads, wide)
        k, v = (
            jnp.repeat(layer(x).reshape(*x.shape[:2], self.shared, wide), 2, axis=2)
            for layer in (self.key, self.value)
        )
        near = nnx.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * wide**-0.5, axis=-1)
        heads = jnp.einsum("bhts,bshd->bthd", near, v)
        return self.leave(x + self.out(heads.reshape(x.shape)))


def test_a_stream_shrinks_with_heads_of_which_some_are_at_fault_later() -> None:
    model, x = GroupedQueries(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (2, 5, 5))
    small, record = units(model, x, density=0.5)
    assert small.value.kernel.shape == (12, 6)
    np.testing.assert_allclose(small(x), masked(model, record)(x), atol=1e-5)
