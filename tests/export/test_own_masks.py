"""Convolutions with a mask of Flax's own, as in PixelCNN: it is cut with the kernel, and hides."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

X, OTHER = (jax.random.normal(jax.random.key(n), (2, 5, 5, 3)) for n in range(2))


class Causal(nnx.Module):
    """A masked convolution between two others."""

    def __init__(self, kind: Any, array: Any):
        rngs, seen = nnx.Rngs(0), np.ones((3, 3, 4, 6), np.float32)
        seen[1, 1:], seen[2] = 0, 0
        self.first, self.last = (nnx.Conv(*io, (1, 1), rngs=rngs) for io in ((3, 4), (6, 2)))
        self.masked = kind(4, 6, (3, 3), mask=array(seen), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(nnx.relu(self.masked(nnx.relu(self.first(x)))))


CASES = [(kind, array) for kind in (nnx.Conv, nnx.ConvTranspose) for array in (jnp.array, np.array)]
MASKED = pytest.mark.parametrize(("kind", "array"), CASES)


@MASKED
def test_the_mask_is_cut_with_the_kernel(kind: Any, array: Any) -> None:
    model = Causal(kind, array)
    small, record = js.prune.units(model, X, density=0.5)
    assert small.masked.mask.shape == small.masked.kernel.shape == (3, 3, 2, 3)
    assert type(small.masked.mask) is type(model.masked.mask) and not record.stayed
    again = js.export.rebuild(model, record)
    nnx.update(again, nnx.state(small, nnx.Param))
    np.testing.assert_array_equal(again(OTHER), small(OTHER))
    assert not any(
        member.path.endswith("/mask") for g in js.groups(model, X) for member in g.members
    )
    zeroed = nnx.clone(model)
    for path, cut in record.cuts.items():
        layer, name = path.split("/")
        variable = getattr(getattr(zeroed, layer), name)
        variable[...] = jnp.asarray(cut.zeroed(np.asarray(variable[...])))
    np.testing.assert_allclose(small(OTHER), zeroed(OTHER), rtol=1e-5, atol=1e-6)
    shrunk, _ = js.shrink(zeroed, X)
    np.testing.assert_allclose(shrunk(OTHER), zeroed(OTHER), rtol=1e-5, atol=1e-6)


def test_rules_keep_nothing_that_the_mask_hides() -> None:
    model = Causal(nnx.Conv, jnp.array)
    sparse = js.sparsify(model, ("masked/kernel", js.Top(density=0.3)))
    kept, seen = sparse.masked.kernel.read_mask() > 0, model.masked.mask > 0
    assert not (kept & ~seen).any() and kept.sum() == round(0.3 * kept.size)
    full = js.sparsify(model, ("masked/kernel", js.Held()))
    np.testing.assert_array_equal(full(X), model(X))


def test_what_would_read_hidden_weights_is_refused_with_the_way_round() -> None:
    model = js.sparsify(Causal(nnx.Conv, jnp.array), (".*kernel", js.Held()))
    with pytest.raises(ValueError, match=r"masked/kernel .* without a mask of Flax's"):
        js.prune.wanda(model, [X], density=0.5)
    assert "set its mask to None" in js.export.left_dense(model)["masked"]
