"""What must shrink together, on nets of every kind: found, cut, and the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from experiments.networks.operations import conv_as_matmul
from jsparse._surgery import fold
from jsparse.export import Use
from jsparse.export._shrinking.attributes import stock
from jsparse.export._shrinking.groups import described, free, try_each
from jsparse.export._shrinking.units import Units
from tests.support.sampled import one_in
from tests.support.zoo_cases import CASES, prepared

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers
# (group, width, the weights that shrink with it, all or some); from the code of each net
WANTED = {
    "resnet": [
        ("stem/kernel:3", 6, {"blocks/0/a/kernel", "blocks/0/b/kernel", "blocks/1/skip/0/kernel"}),
        ("blocks/0/a/kernel:3", 6, {"blocks/0/an/scale", "blocks/0/b/kernel"}),
        ("blocks/1/b/kernel:3", 8, {"blocks/1/skip/0/bias", "head/kernel"}),
    ],
    "dense net": [
        ("a/kernel:3", 4, {"b/kernel", "cn/scale", "c/kernel", "head/kernel"}),
        ("b/kernel:3", 5, {"cn/mean", "c/kernel", "head/kernel"}),
    ],
    "u-net": [("up/kernel:3", 5, {"out/kernel"}), ("down/kernel:3", 4, {"mid/kernel"})],
    "mobile net": [("a/kernel:3", 8, {"an/scale", "b/kernel", "c/kernel"})],
    "grouped": [  # whole groups, an input of each, an output of each
        ("a/kernel:3", 2, {"b/kernel"}),
        ("a/kernel:3#2", 3, {"b/kernel", "c/kernel"}),
        ("b/kernel:3", 3, {"c/kernel"}),
    ],
    "lstm": [("rnn/cell/hf/kernel:1", 6, {"rnn/cell/io/kernel", "head/kernel"})],
    "decoder": [
        ("embed/embedding:1", 8, {"place", "attentions/0/query/kernel", "norms/0/scale"}),
        ("attentions/0/query/kernel:1", 4, {"attentions/0/out/kernel"}),
        ("attentions/0/query/kernel:2", 2, {"attentions/0/key/kernel"}),
        ("ups/0/kernel:1", 10, {"downs/0/kernel"}),
    ],
    "shared keys": [  # of two heads each: keys, queries of all keys
        ("query/kernel:1", 2, {"key/kernel", "value/kernel", "out/kernel"}),
        ("query/kernel:1#2", 2, {"out/kernel"}),
    ],
    "tied": [("w:1", 8, {"hidden"})],
    "group norm": [("a/kernel:3", 4, {"norm/scale", "b/kernel"})],
    "padded shortcut": [("stem/kernel:3", 4, {"a/kernel", "head/kernel"})],
}


def tried(name: str) -> Units:
    """The units of a net, of which some can be cut, with the outputs of zeros in their place."""
    units = Units(fold(prepared(CASES[name].make, {})), (CASES[name].inputs(0, 2),), stock)
    try_each(units)
    gone = {n: [0] for n in free(units)}
    assert gone
    assert units.checked(gone).faults == []
    return units


@pytest.mark.parametrize("name", one_in(2, WANTED))
def test_the_groups_of_a_net(name: str) -> None:
    groups = described(tried(name)).values()
    found = {group.name: group for group in groups if not group.held}
    for group, width, weights in WANTED[name]:
        assert found[group].width == width
        assert weights <= {member.path for member in found[group].members}
        for member in found[group].members:  # each unit has as many positions as any other
            counts = np.bincount(member.units[member.units >= 0], minlength=width)
            assert (counts == counts[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - set(WANTED)))
def test_the_groups_of_other_nets_can_be_cut(name: str) -> None:
    tried(name)


class Gates(nnx.Module):
    """A product of two halves of a layer, softmax over units, and a scale by the width."""

    def __init__(self, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(4, 12, rngs=rngs), nnx.Linear(6, 8, rngs=rngs)
        self.mix, self.out = nnx.Linear(8, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        a, b = jnp.split(self.up(x), 2, axis=-1)
        x = self.down(nnx.silu(a) * b)
        x = self.mix(x / jnp.sqrt(x.shape[-1]))
        return self.out(nnx.softmax(x))


def test_halves_go_together_and_a_softmax_holds_its_units() -> None:
    model = Gates(nnx.Rngs(0))
    found = js.groups(model, (2, 4))
    (up,) = [member for member in found["up/kernel:1"].members if member.path == "up/kernel"]
    assert up.units.tolist() == [*range(6), *range(6)]
    assert "`reduce_max`" in found["mix/kernel:1"].held
    units = Units(fold(model), (jnp.ones((2, 4)),), stock)
    try_each(units)
    small = units.checked({n: [0, 3] for n in free(units)})
    assert small.faults == []
    factors = {"down/kernel": 0.75**0.5, "down/bias": 0.75**0.5}  # x is over the root of 6, not 8
    assert small.factors == pytest.approx(factors)


class Encoder(nnx.Module):
    """Computes two codes, of which it returns one; training needs both."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.body, self.mean = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.deviation = nnx.Linear(8, 3, rngs=rngs)
        self.body.kernel[...] = self.body.kernel[...].at[:, 4:].set(0.0)

    def codes(self, x: Array) -> tuple[Array, Array]:
        h = nnx.relu(self.body(x))
        return self.mean(h), self.deviation(h)

    def __call__(self, x: Array) -> Array:
        return self.codes(x)[0]


def test_what_the_call_computes_and_does_not_return_keeps_its_width() -> None:
    model, x = Encoder(), jax.random.normal(jax.random.key(0), (2, 4))
    small, _ = js.shrink(model, x)
    assert small.deviation.kernel.shape == (4, 3)
    np.testing.assert_allclose(small.codes(x), model.codes(x), atol=1e-6)
    cut, record = js.prune.units(model, x, density=0.5)
    assert cut.deviation.kernel.shape == (4, 3)
    why = record.stayed["deviation/kernel"]
    assert why.startswith("`add` at tests/export/test_groups.py:") and "nothing in the call" in why
    assert js.groups(model, x)["deviation/kernel:1"].held == why


class Unused(nnx.Module):
    """Computes more than it returns, as the last block of N-BEATS does."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.enter, self.back = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.leave = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.relu(self.enter(x))
        x = x - self.back(h)
        return self.leave(h)


def test_weights_that_no_output_needs_shrink_with_what_they_read() -> None:
    small, record = js.prune.units(Unused(), jnp.ones((2, 4)), density=0.5)
    assert small.back.kernel.shape == (4, 4)
    assert dict(record.stayed) == {}


class Beside(nnx.Module):
    """A convolution as a matrix product; then a layer of width 1 beside a wider one."""

    def __init__(self, rngs: nnx.Rngs):
        options = {"conv_general_dilated": conv_as_matmul, "rngs": rngs}
        self.a, self.b = (nnx.Conv(n, 6, (3, 3), **options) for n in (2, 6))
        self.one, self.wide = nnx.Linear(6, 1, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.a(x)
        x = nnx.relu(x + self.b(nnx.relu(x))).mean((1, 2))
        wide = self.wide(x)
        return self.out(jnp.concatenate([self.one(x), wide + jnp.roll(wide, 1, -1)], -1))


def test_a_single_unit_stays_and_is_listed_where_it_is_all_there_is() -> None:
    found = js.groups(Beside(nnx.Rngs(0)), (2, 8, 8, 2))
    assert [(group.name, group.width) for group in found if not group.held] == [("a/kernel:3", 6)]
    single = [group.name for group in found if group.held == "it is a single unit"]
    assert single == [
        "wide/kernel:1",
        "out/kernel:0",
    ]  # a shift ties all of the first to each other


def test_sums_over_units_are_named_and_heads_count_as_their_width() -> None:
    found = js.groups(prepared(CASES["decoder"].make, {}), CASES["decoder"].inputs(0, 2))
    heads, width = (found[f"attentions/0/query/kernel:{axis}"].members for axis in (1, 2))
    stream = found["embed/embedding:1"].members
    for members, size in ((heads, 2), (width, 4), (stream, 1)):  # 4 heads of width 2
        assert {m.across for m in members if m.use & (Use.MAKES | Use.READS)} == {size}
    assert "tests/support/zoo.py" in found["embed/embedding:1"].means
    assert not found["ups/0/kernel:1"].means
    assert found["ups/0/kernel:1"].parameters == 8 * 10 + 10 + 10 * 8
