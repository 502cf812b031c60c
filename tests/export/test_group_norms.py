"""Under a group norm whole groups are units, and the channels of a single group."""

import jax
import numpy as np
import pytest
from flax import linen, nnx

import jsparse as js

X = jax.random.normal(jax.random.key(0), (2, 4))


class Normed(nnx.Module):
    def __init__(self, features: int, groups: int, rngs: nnx.Rngs, weights: bool = True):
        self.enter = nnx.Linear(4, features, rngs=rngs)
        own = {"use_scale": weights, "use_bias": weights}
        self.norm = nnx.GroupNorm(features, num_groups=groups, **own, rngs=rngs)
        self.leave = nnx.Linear(features, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.leave(nnx.relu(self.norm(self.enter(x)[:, None])[:, 0]))


def checked(groups: int, weights: bool) -> tuple[Normed, js.export.Record]:
    """Half of a model of 18 channels; it equals a model built at that size, and the rebuilt one."""
    model = Normed(18, groups, nnx.Rngs(0), weights)
    small, record = js.prune.units(model, X, density=0.5)
    fresh = Normed(small.enter.out_features, small.norm.num_groups, nnx.Rngs(1), weights)
    nnx.update(fresh, nnx.state(small))
    np.testing.assert_array_equal(fresh(X), small(X))
    np.testing.assert_array_equal(js.export.rebuild(model, record)(X), small(X))
    return small, record


@pytest.mark.parametrize("weights", [True, False])
def test_a_single_group_gets_narrower(weights: bool) -> None:
    small, record = checked(1, weights)
    assert small.enter.out_features == 9
    assert record.attributes["norm"] == {"group_size": 9}
    assert record.widths["enter/kernel:1"].endswith("is over what is left")


@pytest.mark.parametrize("weights", [True, False])
def test_of_several_groups_whole_ones_go(weights: bool) -> None:
    model = Normed(18, 3, nnx.Rngs(0), weights)
    found = {group.width: group.held for group in js.groups(model, X)}
    assert found[3] == "" != found[6]
    small, record = checked(3, weights)
    assert (small.norm.num_groups, small.norm.group_size) == (2, 6)
    assert record.attributes["norm"] == {"num_groups": 2}
    assert not any("is over what is left" in text for text in record.widths.values())


class LinenNormed(linen.Module):
    """Within each of 4 groups, which stay, channels go."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(2)(linen.relu(linen.GroupNorm(4)(linen.Dense(16)(x))))


@pytest.mark.parametrize(("norm", "least"), [("layer", 3), ("rms", 2), ("linen", 3)])
def test_a_norm_keeps_enough_units_to_tell_inputs_apart(norm: str, least: int) -> None:
    if norm == "linen":
        model = nnx.bridge.lazy_init(nnx.bridge.ToNNX(LinenNormed(), rngs=nnx.Rngs(0)), X)
    else:
        model = Normed(18, 1, nnx.Rngs(0))
        kind = nnx.LayerNorm if norm == "layer" else nnx.RMSNorm
        model.norm = kind(18, rngs=nnx.Rngs(0))
    small, record = js.prune.units(model, X, density=0.05)
    (width,) = record.widths.values()
    assert f" -> {least} (rounded from " in width
    many = jax.random.normal(jax.random.key(1), (64, 4))
    assert len(np.unique(np.round(small(many), 3), axis=0)) > 2  # one, if all is 0
    with pytest.raises(ValueError, match="at the least widths"):
        js.prune.units(model, X, budget=0.01)


class Mapped(nnx.Module):
    """The last axis of what the norm gets is one that it is mapped over."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(4, num_groups=2, use_scale=False, use_bias=False, rngs=rngs)
        self.enter, self.leave = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        many = jax.numpy.stack([x, 2 * x, x + 1], -1)
        x = jax.vmap(self.norm, in_axes=-1, out_axes=-1)(many).sum(-1)
        return self.leave(nnx.relu(self.enter(x)))


def test_a_norm_that_is_mapped_over_another_axis_keeps_its_groups() -> None:
    small, record = js.prune.units(model := Mapped(nnx.Rngs(0)), X, density=0.5)
    assert small.enter.out_features == 4 and "norm" not in record.attributes
    assert small(X).shape == model(X).shape


class Twice(Normed):
    """One norm over two streams, which must have as many groups."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(16, 4, rngs, weights=False)
        self.between = nnx.Linear(16, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.between(nnx.relu(self.norm(self.enter(x)[:, None])[:, 0]))
        return self.leave(nnx.relu(self.norm(x[:, None])[:, 0]))


def test_streams_under_one_norm_lose_as_many_groups() -> None:
    small, _ = js.prune.units(Twice(nnx.Rngs(0)), X, density=0.5)
    assert small.between.kernel.shape == (8, 8) and small.norm.num_groups == 2


class Standardized(nnx.Module):
    """The weights of the last layer are standardized over its inputs: Brock et al. 2021."""

    def __init__(self) -> None:
        self.enter = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(1), (8, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.kernel[...]
        mean, variance = w.mean(0, keepdims=True), w.var(0, keepdims=True)
        scale = jax.lax.rsqrt(jax.numpy.maximum(variance * len(w), 1e-4))
        return nnx.relu(self.enter(x)) @ ((w - mean) * scale)


def test_standardized_weights_lose_inputs() -> None:
    small, record = js.prune.units(Standardized(), X, density=0.5)
    assert small.kernel.shape == (4, 2)
    assert "is over what is left" in record.widths["enter/kernel:1"]
