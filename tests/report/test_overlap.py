"""Masks compared, paths through a network, empty units beside chance, weights before and after."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.report import effective, overlap, stability, structure
from tests.support.cases import Stacked

RNG = np.random.default_rng(0)


def random_mask(*shape: int, density: float = 0.4) -> np.ndarray:
    return (RNG.random(shape) < density).astype(np.float32)


def test_the_distance_is_that_of_sets() -> None:
    first = {"a": random_mask(7, 5), "b": random_mask(30, density=0.1)}
    second = {"a": random_mask(7, 5), "b": random_mask(30, density=0.2)}
    sets = [{(p, i) for p in m for i in np.flatnonzero(m[p])} for m in (first, second)]
    found = overlap(first, second)
    assert found.distance == pytest.approx(1 - len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert found.distance == overlap(second, first).distance
    row = found.rows["a"]
    assert row.both == len({x for x in sets[0] & sets[1] if x[0] == "a"})
    assert overlap(first, first).distance == 0 and overlap(first, first).total.fraction == 1


def test_the_two_ends() -> None:
    ends = overlap({"a": np.array([1.0, 0.0])}, {"a": np.array([0.0, 1.0])}).rows["a"]
    assert (ends.distance, ends.fraction) == (1.0, 0.0)
    empty = overlap({"a": np.zeros(3)}, {"a": np.zeros(3)}).rows["a"]
    assert (empty.distance, empty.fraction, empty.chance) == (0.0, 1.0, 0.0)


def test_random_masks_are_as_far_apart_as_chance_says() -> None:
    shape = (200, 100)
    row = overlap({"a": random_mask(*shape)}, {"a": random_mask(*shape, density=0.1)}).rows["a"]
    assert row.distance == pytest.approx(row.chance, abs=0.01)
    nested = random_mask(*shape)
    smaller = nested * random_mask(*shape, density=0.5)
    assert overlap({"a": nested}, {"a": smaller}).rows["a"].fraction == 1


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"a": np.ones(2)}, {"b": np.ones(2)}, "a has a mask on one side only"),
        ({}, {}, "there are no masks"),
        ({"a": np.ones(2)}, {"a": np.ones(3)}, r"shapes \(2,\) and \(3,\)"),
        ({"a": np.full(2, 0.5)}, {"a": np.ones(2)}, "only 0 and 1"),
    ],
)
def test_what_overlap_refuses(first: dict, second: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        overlap(first, second)


def on_paths(masks: list[np.ndarray]) -> list[np.ndarray]:
    """The weights on a path of dense layers, by walking all of them."""
    used = [np.zeros_like(m) for m in masks]
    for way in itertools.product(
        *(range(n) for n in [len(masks[0]), *(m.shape[1] for m in masks)])
    ):
        if all(m[way[k], way[k + 1]] for k, m in enumerate(masks)):
            for k, m in enumerate(used):
                m[way[k], way[k + 1]] = 1
    return used


def test_used_weights_are_those_on_a_path() -> None:
    for density in (0.2, 0.3, 0.5):
        masks = [random_mask(*s, density=density) for s in [(4, 6), (6, 5), (5, 6), (6, 3)]]
        names = [f"l{n}" for n in range(len(masks))]
        found = effective(dict(zip(names, masks, strict=True)), {}, names)
        for name, want in zip(names, on_paths(masks), strict=True):
            np.testing.assert_array_equal(found.rows[name].mask, want)
            assert found.rows[name].used == want.sum()
        total = found.total
        assert total.sparsity <= total.effective_sparsity <= 1


class Convolutions(nnx.Module):
    """A stride, a grouped layer, pooling and a reshape."""

    def __init__(self, rngs: nnx.Rngs):
        options = {"use_bias": False, "rngs": rngs}
        self.z_first = nnx.Conv(2, 4, (3, 3), strides=2, **options)
        self.grouped = nnx.Conv(4, 6, (3, 3), feature_group_count=2, **options)
        self.back = nnx.ConvTranspose(6, 6, (2, 2), transpose_kernel=True, **options)
        self.fc = nnx.Linear(6 * 4, 5, **options)
        self.head = nnx.Linear(5, 3, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.back(self.grouped(self.z_first(x)))
        x = x.reshape(1, 2, 2, 2, 2, 6).sum((2, 4))
        return self.head(self.fc(x.reshape(1, -1)))


def test_used_weights_of_convolutions_are_those_with_a_gradient() -> None:
    """With weights of one sign a gradient is zero exactly where no path leads through."""
    model = js.sparsify(Convolutions(nnx.Rngs(0)), (".*/kernel", js.Held()))
    chain = [f"{n}/kernel" for n in ("z_first", "grouped", "back", "fc", "head")]
    x = jnp.ones((1, 8, 8, 2))
    graphdef = nnx.split(model, nnx.Param, ...)[0]
    slope = jax.jit(jax.grad(lambda params, rest: nnx.merge(graphdef, params, rest)(x).sum()))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        masks = {}
        for path, mask in js.masks(model).items():
            # whole windows: a map is then alive everywhere or nowhere
            pairs = rng.random(mask.shape[-2:]) < 0.3
            masks[path] = jnp.broadcast_to(pairs.astype("f4"), mask.shape)
        held = js.hold(model, masks)
        for part in (getattr(held, path.split("/")[0]).kernel for path in chain):
            part.weight[...] = jnp.ones_like(part.weight[...])
        _, params, rest = nnx.split(held, nnx.Param, ...)
        gradients = nnx.merge(graphdef, slope(params, rest), rest)
        found = effective(js.masks(held), js.roles(held), chain)
        for path in chain:
            gradient = np.asarray(getattr(gradients, path.split("/")[0]).kernel.weight[...])
            np.testing.assert_array_equal(found.rows[path].mask, gradient != 0, err_msg=path)
        assert found.total.used < found.total.kept


def test_a_dense_chain_uses_all() -> None:
    masks = {"a": np.ones((3, 3, 1, 4)), "b": np.ones((3, 3, 1, 4)), "c": np.ones((16, 2))}
    found = effective(masks, {}, ["a", "b", "c"])
    assert found.total.used == found.total.size == 36 + 36 + 32


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ([], "chain is empty"),
        (["a", "x"], "x has no mask; available: a, b"),
        (["b", "a"], "b has 5 outputs and a has 3 inputs"),
        (["a", "s"], "stack of layers"),
        (["a", "r"], "recurrent"),
    ],
)
def test_what_effective_refuses(chain: list[str], words: str) -> None:
    masks = {
        "a": np.ones((3, 4)),
        "b": np.ones((4, 5)),
        "s": np.ones((2, 4, 4)),
        "r": np.ones((4, 4)),
    }
    roles = {"s": js.Role(stack=1), "r": js.Role(recurrent=True)}
    shown = {k: m for k, m in masks.items() if k in [*chain, "a", "b"]}
    with pytest.raises(ValueError, match=words):
        effective(shown, roles, chain)


def test_chance_is_that_of_drawn_masks() -> None:
    shape, kept, draws = (2, 3, 4), 5, 4000
    count = {"filters": [], "channels": [], "kernels": []}
    for _ in range(draws):
        mask = np.zeros(24)
        mask[RNG.choice(24, kept, replace=False)] = 1
        found = structure({"a": mask.reshape(shape)}, {}).rows["a"]
        for kind, values in count.items():
            values.append(found[kind].empty)
    for kind, values in count.items():
        spread = np.std(values)
        assert found[kind].chance == pytest.approx(np.mean(values), abs=4 * spread / draws**0.5)
        assert found[kind].spread == pytest.approx(spread, rel=0.06)


def test_empty_units_are_counted_by_role() -> None:
    mask = np.ones((3, 3, 4, 6))
    mask[..., :2, :] = 0  # two input channels
    mask[..., 5] = 0
    mask[:, :, 3, 1] = 0
    (row,) = structure({"a": mask}, {}).rows.values()
    assert {kind: one.empty for kind, one in row.items()} == {
        "filters": 1,
        "channels": 2,
        "kernels": 2 * 6 + 2 + 1,
    }
    assert row["filters"].chance < 1e-6 and row["kernels"].units == 24
    turned = structure({"a": mask}, {"a": js.Role(outputs=(-2,), inputs=(-1,))}).rows["a"]
    assert (turned["filters"].empty, turned["channels"].empty) == (2, 1)


def test_full_and_empty_masks() -> None:
    full = structure({"a": np.ones((4, 4))}, {}).rows["a"]["filters"]
    none = structure({"a": np.zeros((4, 4))}, {}).rows["a"]["filters"]
    assert (full.empty, full.chance, full.spread) == (0, 0.0, 0.0)
    assert (none.empty, none.chance) == (4, 4.0) and none.spread == pytest.approx(0, abs=1e-6)


def test_stacked_layers_have_a_row_each() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Held()))
    rows = structure(js.masks(model), js.roles(model)).rows
    assert list(rows) == [f"layers/kernel[{n}]" for n in range(3)]


def test_stability_looks_at_the_weights_that_are_kept() -> None:
    start = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    mask = jnp.zeros((4, 3)).at[0].set(1.0)
    end = js.hold(js.sparsify(start, ("kernel", js.Held())), {"kernel": mask})
    old = start.kernel[...]
    end.kernel.weight[...] = jnp.where(mask > 0, -old, 100.0)
    found = stability(start, end)
    assert found.total == found.rows["kernel"]
    assert (found.total.kept, found.total.same_sign) == (3, 0.0)
    assert found.total.moved == pytest.approx(2) and found.total.cosine == pytest.approx(-1)
    assert stability(end, end).total.moved == 0
    start.kernel[...] = jnp.zeros((4, 3))
    assert stability(start, end).total.moved == math.inf


def test_what_stability_refuses() -> None:
    dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no weight is sparse"):
        stability(dense, dense)
    other = js.sparsify(nnx.Sequential(dense), (".*/kernel", js.Held()))
    with pytest.raises(
        ValueError, match="layers/0/kernel is sparse after training, but does not exist before"
    ):
        stability(dense, other)


def test_all_four_print_and_give_plain_numbers() -> None:
    model = js.sparsify(nnx.Linear(12, 30, rngs=nnx.Rngs(0)), ("kernel", js.Top(density=0.1)))
    masks, roles = js.masks(model), js.roles(model)
    for found in (
        overlap(masks, masks),
        effective(masks, roles, ["kernel"]),
        structure(masks, roles),
        stability(model, model),
    ):
        json.dumps(found.to_dict())
        lines = str(found).splitlines()
        assert len({len(line) for line in lines}) == 1 and "kernel" in lines[2]
