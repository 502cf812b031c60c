"""Groups that stay, and the operation that holds each of them."""

import inspect
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.export._shrinking.attributes import stock
from jsparse.export._shrinking.units import Units
from tests.support.zoo_cases import CASES, prepared

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


def test_a_group_that_stays_says_which_operation_holds_it(tmp_path: Path) -> None:
    found = js.groups(prepared(CASES["padded shortcut"].make, {}), (2, 8, 8, 3))
    assert "`pad` at tests/support/zoo.py" in found["a/kernel:3"].held
    assert found["head/kernel:1"].held == "the model returns them"
    assert found["stem/kernel:2"].held == "it is an input of the model"
    with pytest.raises(KeyError, match=r"no group 'stem'; there are 4: .*stem/kernel:2"):
        found["stem"]
    assert found[0] is next(iter(found)) and found[-1] is [*found][-1]
    with pytest.raises(KeyError, match=r"no group 4; there are 4: stem/kernel:3, "):
        found[4]
    text = found.page(tmp_path / "groups.html").read_text()
    layers = lambda group: {member.path.rpartition("/")[0] for member in group.members}
    assert text.count("<circle") == sum(len(layers(group)) for group in found)
    assert text.count("stroke-dasharray") == sum(bool(group.held) for group in found)
    places = [text.index(f">{layer}</text>") for layer in ("stem", "a", "head")]
    assert places == sorted(places) and "`pad` at tests/support/zoo.py" in text
    with pytest.raises(IsADirectoryError, match="pass a file"):
        found.page(tmp_path)


def grouped(rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(12, 12, (1,), feature_group_count=3, rngs=rngs)


class Shuffled(nnx.Module):
    """Grouped convolutions, and a shuffle between them after which their groups cross."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem, self.a, self.b = nnx.Linear(2, 12, rngs=rngs), grouped(rngs), grouped(rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        y = self.a(x)
        y = y.reshape(*y.shape[:-1], 3, 4).swapaxes(-1, -2).reshape(y.shape)
        return (x + self.b(y)).sum(-1)


def test_groups_that_a_shuffle_crosses_stay() -> None:
    found = js.groups(Shuffled(nnx.Rngs(0)), (1, 1, 2))
    free = [(group.name, group.width) for group in found if not group.held]
    assert free == [("stem/kernel:1", 4)]
    for name, op in {"a/kernel:2": "conv_general_dilated", "b/kernel:1": "reshape"}.items():
        assert f"`{op}` at tests/export/test_groups_held.py" in found[name].held
        assert found[name].held.endswith("ties its units to parts of others")


def test_outputs_of_grouped_convolutions_stay() -> None:
    rngs = nnx.Rngs(0)
    found = js.groups(nnx.Sequential(grouped(rngs), grouped(rngs)), (1, 1, 12))
    held = {group.name: group.held for group in found}
    assert held.pop("layers/0/kernel:2") == ""
    assert held == {
        "layers/0/kernel:1": "it is an input of the model",
        "layers/1/kernel:2": "the model returns them",
    }


class Spelled(nnx.Module):
    """A width spelled out in the code, in a line of several operations."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b((jnp.exp(self.a(x)) * 2).reshape(-1, 2, 4).reshape(-1, 8))


def test_a_size_in_the_code_names_the_operation_that_fails() -> None:
    held = js.groups(Spelled(nnx.Rngs(0)), (1, 3))["a/kernel:1"].held
    assert (
        "`reshape` at tests/export/test_groups_held.py" in held
        and "fixes a size in the code" in held
    )


class Given(Spelled):
    """The same, as sizes by name and over several lines."""

    def __call__(self, x: Array, sizes: tuple[int, ...] = ()) -> Array:
        x = jnp.exp(self.a(x))
        x = x.reshape(-1, *sizes) * 2
        return self.b(x.reshape(len(x), -1))


def test_a_size_by_name_names_the_operation_and_the_line_that_fail() -> None:
    found = js.groups(Given(nnx.Rngs(0)), (2, 3), sizes=(2, 4))
    held = [group.held for group in found if group.name.startswith("a/kernel:1")]
    first = inspect.getsourcelines(Given.__call__)[1]
    for op, line, text in zip(("dot_general", "reshape"), (3, 2), held, strict=True):
        said = f"`{op}` at tests/export/test_groups_held.py:{first + line} fixes a size in the code"
        assert text.startswith(said) and "by name" not in text


class OwnHeads(nnx.Module):
    """Has a number of heads, and the most that it may have."""

    def __init__(self, most: int) -> None:
        self.heads, self.most, rngs = 4, most, nnx.Rngs(0)
        self.key = nnx.Linear(6, 12, use_bias=False, rngs=rngs)
        self.leave = nnx.Linear(12, 5, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        apart = self.key(x).reshape(*x.shape[:-1], min(self.heads, self.most), 3)
        return self.leave(nnx.softmax(apart).reshape(*x.shape[:-1], -1))


def test_a_group_that_stays_names_the_attribute_to_mend() -> None:
    x = jnp.ones((2, 6))
    held = {group.width: group.held for group in js.groups(OwnHeads(4), x)}
    assert held[4].startswith("`reshape` at ")
    assert held[4].endswith("; `mend` may set heads (4), most (4)")

    def mend(module: nnx.Module) -> dict[str, int]:
        return {"heads": module.key.kernel.shape[1] // 3} if isinstance(module, OwnHeads) else {}

    for most, given in ((4, mend), (9, stock)):  # the latter is certain, and found by trying
        assert {g.width: g.held for g in js.groups(OwnHeads(most), x, mend=given)}[4] == ""
        small, _ = js.prune.units(OwnHeads(most), x, density=0.5, mend=given)
        assert small.heads == 2 and small(x).shape == (2, 5)


class Linear(nnx.Module):
    """Linear attention, whose queries and keys are never 0."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.width = 2, 3
        self.q, self.k, self.v, self.out = (nnx.Linear(6, 6, rngs=rngs) for _ in range(4))

    def __call__(self, x: Array) -> Array:
        apart = lambda y: y.reshape(*x.shape[:-1], self.heads, self.width)
        q, k, v = nnx.elu(apart(self.q(x))) + 1, nnx.elu(apart(self.k(x))) + 1, apart(self.v(x))
        total = jnp.einsum("btnd,bnd->btn", q, k.sum(1))
        read = jnp.einsum("btnd,bsnd,bsne->btne", q, k, v) / total[..., None]
        return self.out(read.reshape(*x.shape[:-1], -1))


def test_groups_are_free_only_where_units_can_be_removed() -> None:
    model, x = Linear(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (2, 5, 6))
    found = {group.name for group in js.groups(model, x) if not group.held}
    small, record = js.prune.units(model, x, density=0.5)
    assert found == {"q/kernel:1"} == record.widths.keys()  # the heads, not the width of queries
    assert small.heads == 1


def just_above_zero(x: Array) -> Array:
    return nnx.relu(x) + 1e-3  # two removed units would still give 1e-6


class Features(nnx.Module):
    """The same behind a layer."""

    def __init__(self, feature: Callable[[Array], Array], norm: nnx.Module):
        rngs = nnx.Rngs(0)
        self.feature, self.norm, self.enter = feature, norm, nnx.Linear(6, 6, rngs=rngs)
        self.q, self.k, self.v, self.out = (nnx.Linear(6, 6, rngs=rngs) for _ in range(4))

    def __call__(self, x: Array) -> Array:
        x = self.norm(self.enter(x))
        q, k = self.feature(self.q(x)), self.feature(self.k(x))
        return self.out(q @ (k.mT @ self.v(x)) / 5)


@pytest.mark.parametrize(
    ("feature", "norm"),
    [
        (just_above_zero, nnx.Linear(6, 6, rngs=nnx.Rngs(0))),
        (lambda x: nnx.elu(x) + 1, nnx.LayerNorm(6, rngs=nnx.Rngs(0))),
    ],
    ids=["less than rounding", "beside a layer norm"],
)
def test_units_whose_products_would_be_lost_stay(
    feature: Callable[[Array], Array], norm: nnx.Module
) -> None:
    model, x = Features(feature, norm), jax.random.normal(jax.random.key(0), (2, 5, 6))
    _, record = js.prune.units(model, x, density=0.5)
    assert {"enter/kernel:1", "v/kernel:1"} <= record.widths.keys()
    assert "q/kernel:1" not in record.widths
    assert "`dot_general` at tests/export/test_groups_held.py" in record.stayed["q/kernel"]
    assert record.stayed["q/kernel"].endswith("would lose terms other than 0 if they are cut")


class Joined(nnx.Module):
    """Several layers are called in one line, and the code fixes a size of one of them."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b, self.c = (nnx.Linear(4, 8, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        ends = jnp.concatenate(
            [jnp.tanh(self.a(x)), self.b(x) * jnp.ones((1, 8)), -self.c(x)], axis=-1
        )
        return self.out(ends)


def test_of_several_operations_in_one_line_the_one_that_fails_is_named() -> None:
    model, x = Joined(nnx.Rngs(0)), jnp.ones((2, 4))
    for layer in (model.a, model.b, model.c):
        layer.kernel[...] = layer.kernel[...].at[:, 5:].set(0.0)
    small, record = js.shrink(model, x)
    assert [layer.kernel.shape[1] for layer in (small.a, small.b, small.c)] == [5, 8, 5]
    (why,) = record.stayed.values()
    assert "`mul` at" in why and "fixes a size in the code" in why


def centered_in_two_groups(x: Array) -> Array:
    """As in the VAE of Stable Diffusion, the code says how many groups there are."""
    apart = x.reshape(len(x), 2, -1)
    return (apart - apart.mean(-1, keepdims=True)).reshape(x.shape)


@pytest.mark.parametrize("blocks", [2, 5])
def test_groups_that_stay_are_found_in_one_pass(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, rngs, tries = [], nnx.Rngs(0), []
    for _ in range(blocks):
        layers += [nnx.Linear(4, 4, rngs=rngs), centered_in_two_groups, nnx.silu]
    model = nnx.Sequential(*layers, nnx.Linear(4, 3, rngs=rngs))
    whole = Units.smaller
    monkeypatch.setattr(Units, "smaller", lambda self, gone: tries.append(0) or whole(self, gone))
    groups = js.groups(model, (2, 4))
    within = [group.name.partition(":")[0] for group in groups if not group.held]
    assert within == [f"layers/{3 * n}/kernel" for n in range(blocks)]
    assert len(groups) == 2 * blocks + 2
    assert len(tries) <= 7 * blocks + 3


class Prenormed(nnx.Module):
    """A layer norm, then heads whose number the module stores."""

    def __init__(self, rngs: nnx.Rngs):
        self.heads, self.norm = 2, nnx.LayerNorm(8, rngs=rngs)
        self.enter, self.value, self.out, self.leave = (
            nnx.Linear(n, m, rngs=rngs) for n, m in ((4, 8), (8, 8), (8, 8), (8, 3))
        )

    def __call__(self, x: Array) -> Array:
        x = self.enter(x)
        heads = self.value(self.norm(x)).reshape(len(x), self.heads, -1)
        return self.leave(x + self.out(nnx.relu(heads).reshape(len(x), -1)))


def test_a_mean_before_heads_does_not_hide_which_size_to_set() -> None:
    groups = js.groups(Prenormed(nnx.Rngs(0)), (2, 4))
    found = {group.name: group.width for group in groups if not group.held}
    assert found == {"enter/kernel:1": 8, "value/kernel:1": 2, "value/kernel:1#2": 4}
