"""Under a group norm, whole groups and the same channels of each group are units."""

import jax
import numpy as np
from flax import nnx

import jsparse as js

X = jax.random.normal(jax.random.key(0), (2, 4))


class Normed(nnx.Module):
    def __init__(self, features: int, groups: int, rngs: nnx.Rngs):
        self.enter = nnx.Linear(4, features, rngs=rngs)
        self.norm = nnx.GroupNorm(features, num_groups=groups, rngs=rngs)
        self.leave = nnx.Linear(features, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.leave(nnx.relu(self.norm(self.enter(x)[:, None])[:, 0]))


def test_groups_get_fewer_and_narrower() -> None:
    model = Normed(18, 3, nnx.Rngs(0))
    found = {group.width: group.held for group in js.groups(model, X)}
    assert found[3] == found[6] == ""
    small, record = js.prune.units(model, X, density=0.5)
    assert (small.norm.num_groups, small.norm.group_size) == (2, 3)
    assert record.attributes["norm"] == {"num_groups": 2, "group_size": 3}
    assert sum("is over what is left" in text for text in record.widths.values()) == 1
    fresh = Normed(6, 2, nnx.Rngs(1))
    nnx.update(fresh, nnx.state(small))
    np.testing.assert_array_equal(fresh(X), small(X))
    np.testing.assert_array_equal(js.export.rebuild(model, record)(X), small(X))
    smaller, _ = js.prune.units(small, X, density=0.5)
    assert smaller.norm.num_groups * smaller.norm.group_size == smaller.enter.out_features < 6
