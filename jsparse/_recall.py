"""Recall: sparse attention over the results of earlier modules and passes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._slots import check_rngs
from jsparse._values import check_in, check_whole, shown

Memory = Sequence[Array] | Array

LISTS = (list, tuple, getattr(nnx, "List", list))  # not in flax 0.11


class Recall(nnx.Module):
    """A layer that reads the few earlier results that it needs.

    Stored results s_1, ..., s_m compete at each position, for each head; the `top` best are read:

        scores = norm(h) W_q . s_j W_k / sqrt(head_features)
        a_j = softmax over the top scores, 0 for the others
        h + gate * (sum_j a_j s_j W_v) W_o

    Put one before each module of a network, append each module's result to a list, and run the
    modules once or several times: later passes read the earlier ones, which is feedback from above.
    The number of stored results is fixed when a call is compiled. The layers inside are stock
    ones, so `sparsify` makes their kernels sparse like any others.

    Args:
      features: of h and of each stored result.
      heads: each chooses separately.
      head_features: width of each head.
      top: results that each head reads, 1 or more; all of them if no more are stored.
      gate: initial value, one number; trained. At 0 nothing is read and no gradient reaches the
        queries and keys.
      rngs: for the initial weights.

    Raises:
      TypeError: rngs is not an nnx.Rngs.
      ValueError: a size is not a whole number of 1 or more, or gate not finite.

    Example:
      >>> recall = Recall(8, top=2, rngs=nnx.Rngs(0))
      >>> h, memory = jnp.ones((5, 8)), [jnp.ones((5, 8)), jnp.zeros((5, 8)), 2 * jnp.ones((5, 8))]
      >>> recall(h, memory).shape
      (5, 8)
      >>> int((recall.weights(h, memory) > 0).sum(0).max())
      2

    Reference: Lamb et al., Neural Function Modules with Sparse Arguments: a Dynamic Approach to
    Integrating Information across Layers, AISTATS 2021. No code of the authors is public; the
    gate, the norm and their places are ours.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int = 4,
        head_features: int = 16,
        top: int = 3,
        gate: float = 0.1,
        rngs: nnx.Rngs,
    ):
        check_whole(features=features, heads=heads, head_features=head_features, top=top)
        check_in("(-inf, inf)", gate=gate)
        check_rngs(rngs)
        self.features, self.top = features, top
        inside = (heads, head_features)
        read = lambda: nnx.LinearGeneral(features, inside, use_bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.query, self.key, self.value = read(), read(), read()
        self.out = nnx.LinearGeneral(inside, features, axis=(-2, -1), use_bias=False, rngs=rngs)
        self.gate = nnx.Param(jnp.asarray(gate, jnp.float32))

    def __call__(self, h: Array, memory: Memory) -> Array:
        """h plus what it reads.

        Args:
          h: [..., features].
          memory: results of h's shape, a list or stacked [m, ..., features]; may be empty.

        Returns:
          [..., features].

        Raises:
          ValueError: other shapes.
        """
        stored = self._stored(h, memory)
        if not stored.shape[0]:
            return h
        weights = self._weights(h, stored)
        read = self.out(jnp.einsum("m...h,m...hd->...hd", weights, self.value(stored)))
        return h + self.gate[...].astype(read.dtype) * read

    def weights(self, h: Array, memory: Memory) -> Array:
        """How much of each stored result is read, [m, ..., heads]: sums to 1 over m.

        Args:
          h: [..., features].
          memory: results of h's shape, a list or stacked [m, ..., features].

        Raises:
          ValueError: other shapes.
        """
        return self._weights(h, self._stored(h, memory))

    def _weights(self, h: Array, stored: Array) -> Array:
        query = self.query(self.norm(h)) / self.query.kernel[...].shape[-1] ** 0.5
        scores = jnp.einsum("...hd,m...hd->m...h", query, self.key(stored))
        kept = _highest(scores, self.top)
        return nnx.softmax(jnp.where(kept, scores, -jnp.inf), axis=0)

    def _stored(self, h: Any, memory: Any) -> Array:
        """The memory as one array, [m, ..., features]."""
        shape = getattr(h, "shape", ())
        if not shape or shape[-1] != self.features:
            raise ValueError(f"h must be an array [..., {self.features}]; got {shown(h)}")
        several = isinstance(memory, LISTS)
        parts = list(memory) if several else [memory]
        wanted = shape if several else (*getattr(memory, "shape", ())[:1], *shape)
        for part in parts:
            if not isinstance(part, jax.Array | np.ndarray) or part.shape != wanted:
                raise ValueError(
                    f"memory must be arrays of h's shape {list(shape)}, a list or stacked along a "
                    f"first axis; got {shown(part)}: resize or project results of other shapes"
                )
        if several:
            return jnp.stack(parts) if parts else jnp.zeros((0, *shape), h.dtype)
        return jnp.asarray(parts[0])


def _highest(scores: Array, top: int) -> Array:
    """True for the `top` highest along the first axis, the first of equal ones; by counting."""
    count = scores.shape[0]
    if top >= count:
        return jnp.ones_like(scores, bool)
    first = jnp.arange(count)
    shape = (count, count, *(1,) * (scores.ndim - 1))
    before = (first[:, None] < first[None, :]).reshape(shape)
    one, other = scores[:, None], scores[None]
    beats = (one > other) | (before & (one == other))
    return beats.sum(0) < top
