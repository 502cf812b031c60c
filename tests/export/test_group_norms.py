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


class LayerNormed(Normed):
    def __init__(self, rngs: nnx.Rngs):
        super().__init__(18, 1, rngs)
        self.norm = nnx.LayerNorm(18, rngs=rngs)


@pytest.mark.parametrize("layers", [LayerNormed, LinenNormed])
def test_a_mean_keeps_two_units_as_one_less_its_mean_is_zero(layers: type) -> None:
    if layers is LinenNormed:
        model = nnx.bridge.lazy_init(nnx.bridge.ToNNX(LinenNormed(), rngs=nnx.Rngs(0)), X)
    else:
        model = layers(nnx.Rngs(0))
    small, record = js.prune.units(model, X, density=0.05)
    (width,) = record.widths.values()
    assert " -> 2 (rounded from " in width
    many = jax.random.normal(jax.random.key(1), (64, 4))
    assert np.std(small(many), axis=0).min() > 0.01
    with pytest.raises(ValueError, match="at the least widths"):
        js.prune.units(model, X, budget=0.01)
