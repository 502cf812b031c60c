"""One hidden layer, half of it dead, and what happens to its units before the next layer."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax
from jax.sharding import PartitionSpec as P

import jsparse as js
from jsparse._variables import store
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import faults
from tests.support.zoo_cases import vectors

pytestmark = pytest.mark.standard_dtypes
SEGMENTS = jnp.array([0, 0, 1, 1])


class Net(nnx.Module):
    """Units [4, 16] of which the last 8 are 0, and an operation on them."""

    def __init__(self, operation: Callable[[Array], Array]):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(6, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.first.kernel[...] = self.first.kernel[...].at[:, 8:].set(0.0)
        self.operation = operation

    def __call__(self, x: Array) -> Array:
        return self.last(self.operation(nnx.relu(self.first(x))))


def halved(h: Array) -> Array:
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.5 * c[1]), (0, h))[1]


def counted(h: Array) -> Array:
    count = (h[0, 0] > 0).astype(jnp.int32)
    return lax.while_loop(lambda c: c[0] < count, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, h))[1]


THROUGH: dict[str, Callable[[Array], Array]] = {
    "segment sum": lambda h: jax.ops.segment_sum(h, SEGMENTS, 2),
    "segment sum at places of the input": lambda h: jax.ops.segment_sum(
        h, (h[:, 0] > 0).astype(jnp.int32), 2
    ),
    "segment maximum": lambda h: jax.ops.segment_max(h, SEGMENTS, 2),
    "segment minimum": lambda h: jax.ops.segment_min(h, SEGMENTS, 2),
    "set a row": lambda h: h.at[0].set(0.0),
    "add rows": lambda h: h.at[jnp.array([0, 2])].add(h[jnp.array([1, 3])]),
    "multiply a row": lambda h: h.at[1].multiply(3.0),
    "write into a cache": lambda h: lax.dynamic_update_slice(jnp.zeros((8, h.shape[1])), h, (2, 0)),
    "tile": lambda h: jnp.tile(h, (2, 1)),
    "slices of some units": lambda h: jnp.concatenate([h[:, 2:4], h[:, 2:]], axis=1),
    "stack": lambda h: jnp.stack([h, 2 * h], axis=1).sum(axis=1),
    "sort rows": lambda h: jnp.sort(h, axis=0),
    "rows in order": lambda h: jnp.take_along_axis(h, jnp.argsort(h, axis=0), axis=0),
    "highest rows": lambda h: lax.top_k(h.T, 2)[0].T,
    "sum of rows so far": lambda h: jnp.cumsum(h, axis=0),
    "highest so far, from the end": lambda h: lax.cummax(h, axis=0, reverse=True),
    "frequencies of rows": lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=0)[:2], axis=0),
    "branch": lambda h: lax.cond(h.sum() > 0, lambda h: h, lambda h: 2 * h, h),
    "one of three": lambda h: lax.switch(
        (h[0, 0] > 0).astype(jnp.int32), [lambda h: h, jnp.tanh, lambda h: 0 * h], h
    ),
    "loop": halved,
    "loop of unknown length": counted,
    "l2 norm": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "constants of its width": lambda h: h * np.full((1, h.shape[1]), 0.5, np.float32),
    "barrier": lambda h: lax.optimization_barrier(h),
    "half of a gate": lambda h: jax.nn.glu(jnp.concatenate([h, 1 + h], axis=-1)),
    "rows by the matrix of their group": lambda h: (
        h * lax.ragged_dot(h, jnp.ones((2, h.shape[1], 1)), jnp.array([1, 3]))
    ),
    "convolutions, each with a kernel of its own": lambda h: jax.vmap(
        lambda row: lax.conv_general_dilated(
            row[None, None],
            row.sum() * jnp.ones((1, h.shape[1], 16)),
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )[0, 0]
    )(h),
    "depthwise convolution": lambda h: lax.conv_general_dilated(
        h[None],
        jnp.ones((3, 1, h.shape[1])),
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=h.shape[1],
    )[0],
}
if hasattr(
    lax, "tile"
):  # older versions of JAX reshape, and axes of no length cannot be told apart
    THROUGH["tile of an empty array"] = lambda h: jnp.concatenate([h, jnp.tile(h[:0], (2, 1))])


@pytest.mark.parametrize("name", THROUGH)
def test_dead_units_go_through(name: str) -> None:
    model = Net(THROUGH[name])
    small, record = js.shrink(model, vectors(0, 4))
    assert small.first.kernel.shape == (6, 8)
    assert dict(record.stayed) == {}
    x = vectors(1, 4)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


def test_units_of_two_summed_axes_stay_where_the_first_ones_are_dead() -> None:
    rngs, alive = nnx.Rngs(0), jnp.outer(jnp.arange(4), jnp.arange(3))[None] > 0
    first = nnx.LinearGeneral(6, (4, 3), rngs=rngs)
    last = nnx.LinearGeneral((4, 3), 2, axis=(-2, -1), rngs=rngs)
    first.kernel[...] = jnp.where(alive, first.kernel[...], 0.0)
    model, x = nnx.Sequential(first, last), vectors(0, 4)
    small, _ = js.shrink(model, x)
    assert small.layers[0].out_features == (3, 2)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


def blended(h: Array) -> Array:
    return h - h.mean(axis=-1, keepdims=True)


def along_units(h: Array) -> Array:
    return jnp.cumsum(h, axis=1)


def gated(h: Array) -> Array:
    return jnp.roll(h, 8, axis=1) + h


def shared(h: Array) -> Array:
    scale = np.full((1, 16), 2.0, np.float32)
    return (h * scale).sum(axis=-1, keepdims=True) * scale


def written(h: Array) -> Array:
    return h + jnp.zeros((1, 16))


def constant(h: Array) -> Array:
    return h * np.full((1, 16), 0.5, np.float32)


def branching(h: Array) -> Array:
    return h if h.shape[-1] == 16 else jnp.tanh(h)


def unknown(h: Array) -> Array:
    return jnp.fft.fft(h, axis=-1).real


def ordered(h: Array) -> Array:
    weights = jnp.exp(-h.sum(axis=1))
    y = jnp.einsum("ln,pn,l->lp", h, jnp.tile(h, (3, 1)), weights)  # with n over and below p
    return jnp.pad(y, ((0, 0), (0, 4)))


STOPS = {
    ordered: "`dot_general` .* in which order an einsum multiplies",
    blended: "`sub` .* joins it with values that count",
    along_units: "`cumsum` .* needs the axis whole",
    gated: "`add` .* joins it with values that count",
    shared: "`mul` .* joins it with an array that counts elsewhere",
    written: "`add` .* fixes a size in the code",
    constant: "`mul` .* fixes a size in the code",
    unknown: "`fft` .* needs the axis whole",
    branching: "`dot_general` .* the smaller model calls `tanh` in its place",
}


@pytest.mark.parametrize("stop", STOPS, ids=lambda f: f.__name__)
def test_what_stops_dead_units_is_named_with_its_place(stop: Callable[[Array], Array]) -> None:
    model = Net(stop)
    small, record = js.shrink(model, vectors(0, 4))
    assert small.first.kernel.shape == (6, 16)
    np.testing.assert_allclose(small(vectors(1, 4)), model(vectors(1, 4)), rtol=1e-5)
    why = record.stayed["first/kernel"]
    assert why.startswith("8 of 16 dead units stay: ")
    assert re.search(STOPS[stop], why)
    if stop is not branching:
        lines, first = inspect.getsourcelines(stop)
        (line,) = re.findall(rf"{Path(__file__).name}:(\d+)", why)
        assert first <= int(line) < first + len(lines)


class Spread(nnx.Module):
    """A grouped convolution of which each group has another dead input."""

    def __init__(self, dead: list[int], rngs: nnx.Rngs):
        self.a = nnx.Conv(4, 12, (1, 1), use_bias=False, rngs=rngs)
        self.b = nnx.Conv(12, 8, (3, 3), feature_group_count=4, rngs=rngs)
        self.a.kernel[...] = self.a.kernel[...].at[..., jnp.array(dead)].set(0.0)

    def __call__(self, x: Array) -> Array:
        return self.b(nnx.relu(self.a(x)))


def test_groups_lose_inputs_only_at_the_same_places() -> None:
    x = jnp.ones((1, 5, 5, 4))
    small, record = js.shrink(Spread([1, 4, 7, 10], nnx.Rngs(0)), x)
    assert small.a.kernel.shape[-1] == 8 and not record.stayed
    small, record = js.shrink(Spread([0, 4, 8, 9], nnx.Rngs(0)), x)
    assert small.a.kernel.shape[-1] == 12
    assert re.match("4 of 12 .*`conv_general_dilated` at .* each group", record.stayed["a/kernel"])


class Shuffled(nnx.Module):
    """Channels that become pixels, with biases."""

    def __init__(self, same: bool, rngs: nnx.Rngs):
        self.a, self.b = nnx.Conv(2, 12, (3, 3), rngs=rngs), nnx.Linear(3, 2, rngs=rngs)
        self.a.kernel[...] = self.a.kernel[...].at[..., 1::3].set(0.0)
        bias = jnp.ones(12) if same else jnp.arange(12.0)
        self.a.bias[...] = bias

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.a(x))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return self.b(x.reshape(n, 2 * h, 2 * w, c // 4))


def test_shuffled_pixels_go_if_their_constants_are_one_number() -> None:
    x = jnp.ones((1, 3, 3, 2))
    small, record = js.shrink(Shuffled(True, nnx.Rngs(0)), x)
    assert small.b.in_features == 2 and not record.stayed
    small, record = js.shrink(Shuffled(False, nnx.Rngs(0)), x)
    assert small.b.in_features == 3
    assert re.match("4 of 12 .*`dot_general` at .* no bias", record.stayed["a/kernel"])


class Called(nnx.Module):
    """A block that is called twice, and what it reads the second time."""

    def __init__(self, again: Callable[[Array], Array], rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)
        self.a.kernel[...] = self.a.kernel[...].at[:, 4:].set(0.0)
        self.a.bias[...] = jnp.arange(8.0)
        self.again = again

    def __call__(self, x: Array) -> Array:
        first = self.b(nnx.relu(self.a(x)))
        return first + self.b(self.again(nnx.relu(self.a(first + x))))


def test_constants_of_a_block_called_twice_go_if_they_are_the_same() -> None:
    small, record = js.shrink(Called(lambda h: h, nnx.Rngs(0)), vectors(0, 4))
    assert small.b.in_features == 4 and not record.stayed
    small, record = js.shrink(Called(lambda h: 2.0 * h, nnx.Rngs(0)), vectors(0, 4))
    assert small.b.in_features == 8 and "no bias" in record.stayed["a/kernel"]


class Residual(nnx.Module):
    """A stream that a layer reads before it adds to it."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = (6, 8), (8, 8), (8, 3)
        self.a, self.b, self.c = (nnx.Linear(m, n, rngs=rngs) for m, n in sizes)
        self.a.kernel[...] = self.a.kernel[...].at[:, 4:].set(0.0)

    def __call__(self, x: Array) -> Array:
        x = self.a(x)
        return self.c(x + self.b(x))


def test_zeros_that_a_product_reads_are_followed_to_what_keeps_them() -> None:
    stayed = js.shrink(Residual(nnx.Rngs(0)), vectors(0, 4))[1].stayed["a/kernel"]
    assert re.fullmatch("4 of 8 dead units stay: `add` at .* joins it with .*", stayed)


class Frozen(nnx.Variable):
    """A weight that no optimizer moves."""


def test_weights_in_other_variables_are_weights() -> None:
    model = Net(lambda h: h)
    model.first.kernel = Frozen(model.first.kernel[...])
    small, _ = js.shrink(model, vectors(0, 4))
    assert isinstance(small.first.kernel, Frozen) and small.first.kernel.shape == (6, 8)


def test_variables_that_a_call_writes_are_none() -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__(lambda h: h)
            self.mean = nnx.Variable(jnp.zeros(16))

        def __call__(self, x: Array) -> Array:
            h = nnx.relu(self.first(x))
            self.mean[...] = self.mean[...] + h.mean(axis=0)
            return self.last(h + self.mean[...][None])

    _, record = js.shrink(Counting(), vectors(0, 4))
    assert not record.cuts and record.stayed["first/kernel"]


@pytest.mark.parametrize("dead", [[(0, 2)], [(0, 2), (1, 3)]])
def test_what_is_dead_in_some_layers_of_a_stack_is_said(dead: list[tuple[int, int]]) -> None:
    class Stack(nnx.Module):
        def __init__(self) -> None:
            draw = lambda n: jax.random.normal(jax.random.key(n), (2, 6, 6))
            self.up, self.down = nnx.Param(draw(0)), nnx.Param(draw(1))

        def __call__(self, x: Array) -> Array:
            kernels = self.up[...], self.down[...]
            layer = lambda x, w: (x + nnx.relu(x @ w[0]) @ w[1], None)
            return jax.lax.scan(layer, x, kernels)[0]

    model = Stack()
    for layer, unit in dead:
        model.up[...] = model.up[...].at[layer, :, unit].set(0.0)
    _, record = js.shrink(model, vectors(0, 4))
    why = f"{len(dead)} of 6 units are dead in some layers .*`dot_general` at .*test_shrink_op"
    assert not record.cuts and re.match(why, record.stayed["up"])
    members = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))

    class Ensemble(nnx.Module):
        def __init__(self) -> None:
            self.members = nnx.clone(model)
            for part in (self.members.up, self.members.down):
                store(part, jnp.stack([part[...], part[...] + 1.0]))

        def __call__(self, x: Array) -> Array:
            return members(self.members, x)

    _, record = js.shrink(Ensemble(), vectors(0, 4))
    assert not record.cuts and re.match(why, record.stayed["members/up"])


def test_inputs_that_give_no_numbers_are_refused() -> None:
    for read in (js.shrink, js.export.groups, js.export.stablehlo):
        with pytest.raises(ValueError, match=r"give (a batch|one) of 1 or more"):
            read(Net(nnx.tanh), jnp.ones((0, 6)))


@pytest.mark.parametrize("split", [False, True], ids=["activations", "weights"])
def test_what_shard_map_keeps_is_named(split: bool) -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    over = functools.partial(jax.shard_map, mesh=mesh, out_specs=P())

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(6, 8, use_bias=False, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(8, 3, rngs=nnx.Rngs(1))
            self.a.kernel[...] = self.a.kernel[...].at[:, 5:].set(0.0)

        def __call__(self, x: jax.Array) -> jax.Array:
            if split:
                return self.b(over(jnp.dot, in_specs=(P(), P()))(x, self.a.kernel[...]))
            return self.b(over(jnp.tanh, in_specs=P())(self.a(x)))

    small, record = js.shrink(Net(), jnp.ones((2, 6)))
    assert small.a.kernel.shape == (6, 8)
    assert record.stayed.keys() == {"a/kernel"}
    assert record.stayed["a/kernel"].startswith("3 of 8 dead units stay: `shard_map` at ")
    assert js.groups(Net(), jnp.ones((2, 6)))["a/kernel:1"].held.startswith("`shard_map` at ")


def test_a_random_key_that_the_code_holds_is_a_constant() -> None:
    keys = [jax.random.key(1)]

    class Noisy(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(6, 8, use_bias=False, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(8, 3, rngs=nnx.Rngs(1))
            self.a.kernel[...] = self.a.kernel[...].at[:, 5:].set(0.0)

        def __call__(self, x: jax.Array) -> jax.Array:
            y = self.b(self.a(x))
            return y + jax.random.normal(keys[0], y.shape)

    x = jnp.ones((2, 6))
    small, record = js.shrink(Noisy(), x)
    assert small.a.kernel.shape == (6, 5) and not record.stayed
    np.testing.assert_allclose(small(x), Noisy()(x), atol=1e-6)
    model = Noisy()
    full = trace(model, (x,))
    whole = Removal(full)
    for node in full.nodes():
        whole.pin(node)
    keys[0] = jax.random.key(2)
    found = faults(full, trace(model, (x,)), whole, {})
    assert [fault.op and fault.op.name for fault in found] == ["random_bits"]
