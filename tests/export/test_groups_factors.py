"""Weights that take a factor, as a number in the code follows the width of a group."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

import jsparse as js
from jsparse._surgery import fold
from jsparse.export._shrinking.attributes import stock
from jsparse.export._shrinking.groups import described, free, try_each
from jsparse.export._shrinking.units import Units
from tests.support.zoo import modules

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


class Experts(nnx.Module):
    """Rows sorted by experts, each times the matrices of its own."""

    def __init__(self, rngs: nnx.Rngs):
        self.enter, self.leave = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.up = nnx.Param(jax.random.normal(rngs.params(), (3, 6, 8)))
        self.down = nnx.Param(jax.random.normal(rngs.params(), (3, 8, 6)))

    def __call__(self, x: Array) -> Array:
        x = self.enter(x)
        sizes = jnp.array([1, 0, len(x) - 1])
        y = jax.lax.ragged_dot(
            nnx.relu(jax.lax.ragged_dot(x, self.up[...], sizes)), self.down[...], sizes
        )
        return self.leave(x + y)


class Pieces(nnx.Module):
    """Attention as in a Set Transformer: heads are pieces of the batch, queries are added too."""

    def __init__(self, rngs: nnx.Rngs):
        self.query, self.key, self.value, self.out = (
            nnx.Linear(n, 12, rngs=rngs) for n in (4, 4, 4, 12)
        )

    def __call__(self, x: Array) -> Array:
        q, k, v = (
            jnp.concatenate(jnp.split(layer(x), 2, axis=-1), axis=0)
            for layer in (self.query, self.key, self.value)
        )
        k = checkpoint_name(k, "key")
        weights = nnx.softmax(q @ k.mT / np.sqrt(2 * q.shape[-1]), axis=-1)
        return self.out(jnp.concatenate(jnp.split(q + weights @ v, 2, axis=0), axis=-1))


class Fused(nnx.Module):
    """One projection makes queries, which are normalized, keys and values of two heads."""

    def __init__(self, rngs: nnx.Rngs):
        self.qkv, self.out = nnx.Linear(4, 36, rngs=rngs), nnx.Linear(12, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:-1], 3, 2, -1), -3, 0)
        q = self.norm(q) * q.shape[-1] ** -0.5
        weights = nnx.softmax(jnp.einsum("bthk,bshk->bhts", q, k), axis=-1)
        return self.out(jnp.einsum("bhts,bshk->bthk", weights, v).reshape(*x.shape[:-1], -1))


class Looked(nnx.Module):
    """An embedding times the root of its width, and tied to the head."""

    def __init__(self, norm: type, rngs: nnx.Rngs):
        self.embed, self.place = (nnx.Embed(n, 8, rngs=rngs) for n in (7, 5))
        self.norms = modules([norm(8, rngs=rngs) for _ in range(2)])
        self.inner = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        tokens = x.astype(jnp.int32)
        places = jnp.arange(x.shape[1])[None]
        x = self.embed(tokens) * np.sqrt(self.embed.features) + self.place(places)
        return self.embed.attend(self.norms[1](x + self.inner(self.norms[0](x))))


@pytest.mark.parametrize(
    ("kind", "shape", "wanted"),
    [
        (Experts, (5, 4), {"enter/kernel:1": 6, "up:2": 8}),
        (Pieces, (2, 5, 4), {"query/kernel:1": 6}),
        (Fused, (2, 5, 4), {"qkv/kernel:1": 6}),
        (functools.partial(Looked, nnx.LayerNorm), (2, 5), {"embed/embedding:1": 8}),
        (functools.partial(Looked, nnx.RMSNorm), (2, 5), {"embed/embedding:1": 8}),
    ],
    ids=["experts", "pieces", "fused", "layer norm", "root mean square"],
)
def test_factors_go_to_parts_of_weights_and_through_lookups(
    kind: Callable[[nnx.Rngs], nnx.Module], shape: tuple[int, ...], wanted: dict[str, int]
) -> None:
    units = Units(fold(kind(nnx.Rngs(0))), (jnp.ones(shape),), stock)
    try_each(units)
    found = {group.name: group.width for group in described(units).values() if not group.held}
    assert found.items() >= wanted.items()
    assert units.checked({n: [1] for n in free(units)}).faults == []


class Again(nnx.Module):
    """One attention that is called twice."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.attention(self.enter(x))
        return self.leave(self.attention(x))


def test_weights_that_several_calls_share_take_a_factor() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    small, record = js.prune.units(Again(), x, density=0.5)
    assert small.attention.head_dim == 2
    assert {round(one, 4) for one in record.factors.values()} == {round(0.5**0.5, 4)}


class Rematerialized(nnx.Module):
    """Layers in a scan that gives their weights back, as it does around `nnx.remat`."""

    def __init__(self) -> None:
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
            return nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

        self.layers = make(nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def run(layer: nnx.MultiHeadAttention, x: Array) -> Array:
            return layer(x)

        return run(self.layers, x)


def test_weights_of_layers_under_remat_take_a_factor() -> None:
    small, record = js.prune.units(Rematerialized(), jnp.ones((2, 5, 8)), density=0.5)
    assert small.layers.head_dim == 2
    assert {round(one, 4) for one in record.factors.values()} == {round(0.5**0.5, 4)}


def test_statistics_of_a_norm_take_no_factor() -> None:
    small, record = js.prune.units(Fused(nnx.Rngs(0)), (2, 5, 4), density=0.5)
    assert record.factors.keys() == {"norm/scale", "norm/bias"}
    assert (small.norm.mean[...] == 0).all() and small.norm.scale.shape == (3,)


class Gate(nnx.Module):
    """The largest channel and their mean, as in the spatial attention of CBAM."""

    def __init__(self, act: Callable[[Array], Array], join: Callable[..., Array]):
        rngs = nnx.Rngs(0)
        self.act, self.join = act, join
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.gate = nnx.Conv(2, 1, (3,), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.act(self.enter(x))
        joined = self.join([x.max(-1, keepdims=True), x.mean(-1, keepdims=True)])
        return self.leave(x * nnx.sigmoid(self.gate(joined)))


def stacked(parts: list[Array]) -> Array:
    return jnp.stack([part[..., 0] for part in parts], axis=-1)


@pytest.mark.parametrize("join", [lambda parts: jnp.concatenate(parts, -1), stacked])
def test_a_maximum_and_a_mean_of_channels_shrink_behind_a_relu(join: Callable[..., Array]) -> None:
    model, x = Gate(nnx.relu, join), jax.random.normal(jax.random.key(0), (2, 5, 4))
    small, record = js.prune.units(model, x, density=0.5)
    assert small.leave.in_features == 4 and record.factors == {"gate/kernel[:, 1:2, :]": 0.5}
    dead = nnx.clone(model)
    for path, cut in record.cuts.items():
        layer, name = path.split("/")
        weight = getattr(getattr(dead, layer), name)
        weight[...] = jnp.asarray(cut.zeroed(np.asarray(weight[...])))
    fresh = jax.random.normal(jax.random.key(1), (3, 7, 4))
    np.testing.assert_allclose(small(fresh), dead(fresh), rtol=1e-5, atol=1e-6)
    shrunk, _ = js.shrink(dead, x)
    assert shrunk.leave.in_features == 4
    np.testing.assert_allclose(shrunk(fresh), dead(fresh), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (nnx.gelu, "needs the axis whole, as far as is known"),  # all others may be below 0
        (nnx.sigmoid, "would lose terms other than 0 if they are cut"),
    ],
)
def test_a_maximum_holds_channels_where_zeros_would_count(
    act: Callable[[Array], Array], why: str
) -> None:
    groups = js.groups(Gate(act, stacked), (2, 5, 4))
    assert f"`reduce_max` at tests/export/{Path(__file__).name}" in groups["enter/kernel:1"].held
    assert groups["enter/kernel:1"].held.endswith(why)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: (jnp.abs(1e6 * x).astype(jnp.int32) ** 2).astype(jnp.float32),  # wraps around
        lambda x: jnp.abs(x) * jax.lax.clamp(jnp.float32(0), x, -jnp.abs(x).max()),
    ],
    ids=["integers", "clamp"],
)
def test_a_maximum_holds_channels_that_may_be_negative(act: Callable[[Array], Array]) -> None:
    groups = js.groups(Gate(act, stacked), (2, 5, 4))
    assert "`reduce_max` at" in groups["enter/kernel:1"].held


class Scaled(nnx.Module):
    """A hidden layer times a number made of its length and its width."""

    def __init__(self, number: Callable[[int, int], float]):
        rngs = nnx.Rngs(0)
        self.number = number
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.enter(x)
        return self.leave(y * self.number(x.shape[1], y.shape[-1]))


@pytest.mark.parametrize(
    ("number", "width"),
    [
        (lambda length, width: length // width, 8),
        (lambda length, width: jnp.sqrt(float(length + width)), 8),
        (lambda length, width: length**-0.5 * width, 4),
    ],
    ids=["quotient", "sum", "product"],
)
def test_weights_compensate_for_a_number_that_follows_a_length_only_if_right_for_all(
    number: Callable[[int, int], float], width: int
) -> None:
    model, x = Scaled(number), jnp.ones((1, 16, 4))
    model.leave.kernel[...] = model.leave.kernel[...].at[4:].set(0.0)
    small, record = js.shrink(model, x)
    assert small.leave.in_features == width
    for n in (3, 40):
        x = jax.random.normal(jax.random.key(n), (2, n, 4))
        np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
    if width == 8:
        assert "not for inputs of shape (1, " in record.stayed["leave/kernel"]
        with pytest.raises(ValueError, match="depends on a width and a length"):
            js.prune.units(model, (1, 16, 4), density=0.5)


class Triples(Scaled):
    """Three positions at a time."""

    def __call__(self, x: Array) -> Array:
        y = super().__call__(x)
        return y.reshape(len(x), -1, 3, y.shape[-1]).sum(axis=2)


def test_numbers_are_tested_at_lengths_that_are_multiples_of_the_examples() -> None:
    with pytest.raises(ValueError, match="depends on a width and a length"):
        js.prune.units(Triples(lambda length, width: length + width), (1, 9, 4), density=0.5)


class Positions(nnx.Module):
    """A number of its length and its width, and learned positions up to the example's length."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.places = nnx.Param(jnp.ones((6, 8)))

    def __call__(self, x: Array) -> Array:
        y = self.enter(x) + self.places[None, : x.shape[1]]
        return self.leave(y * (x.shape[1] + y.shape[-1]))


def test_lengths_below_that_of_the_example_are_tried_where_none_can_be_greater() -> None:
    with pytest.raises(ValueError, match="depends on a width and a length"):
        js.prune.units(Positions(), (2, 6, 4), density=0.5)
