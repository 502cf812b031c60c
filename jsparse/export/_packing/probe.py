"""The gradient of places without a link, for growing links by gradient.

A forward pass does not see these places. When a revision is due, the backward pass also computes
their gradients, x^T dy there, with the kernel that computes those of the links.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._variables import Mask
from jsparse.export._packing.csr import Plan, gradients_at
from jsparse.export._packing.packed import Structure


class Probe(nnx.Module):
    """Places of a packed layer that may become links.

    Args:
      count: places; some may be drawn twice, or be links.
      parts: groups of inputs times outputs.

    Attributes:
      drawn: float32 zeros [count], whose gradient is that of the places at a due step, and 0
        otherwise.
      indices: uint16 [count], as in `CsrArrays`.
      starts: int32 [parts + 1], likewise.
      due: bool [], whether the next step is due.
    """

    def __init__(self, count: int, parts: int):
        self.drawn = Mask(jnp.zeros(count, jnp.float32))
        self.indices = Structure(jnp.zeros(count, jnp.uint16))
        self.starts = Structure(jnp.zeros(parts + 1, jnp.int32))
        self.due = Structure(jnp.zeros((), bool))

    def __call__(self, y: Array, x: Array, plan: Plan) -> Array:
        """y itself; its gradient also reaches `drawn`."""
        rows = jax.lax.stop_gradient(x.reshape(-1, plan.inputs))
        structure = self.indices[...], self.starts[...], self.due[...]
        return _seen(plan, y, self.drawn[...], rows, *structure)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _seen(plan: Plan, y: Array, drawn: Array, rows: Array, *structure: Array) -> Array:
    return y


def _ahead(plan: Plan, y: Array, drawn: Array, *given: Array) -> tuple[Array, Any]:
    return y, given


def _back(plan: Plan, given: Any, dy: Array) -> tuple:
    rows, indices, starts, due = given

    def found() -> Array:
        return gradients_at(plan, indices, starts, rows, dy.reshape(-1, plan.outputs))

    none = lambda: jnp.zeros(indices.shape, jnp.float32)
    return dy, jax.lax.cond(due, found, none), jnp.zeros_like(rows), None, None, None


_seen.defvjp(_ahead, _back)
