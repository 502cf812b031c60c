"""The gradient of places without a link, for growing links by gradient.

A forward pass does not see these places. When a revision is due, the backward pass also computes
their gradients, such as x^T dy there, with the kernel that computes those of the links.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._variables import Mask
from jsparse.export._packing.packed import Structure

Gradients = Callable[[Any, Array, Array, Array, Array], Array]


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

    def __call__(self, y: Array, x: Array, gradients: Gradients, plan: Any) -> Array:
        """y itself; its gradient also reaches `drawn`.

        Args:
          y: what the layer makes of x.
          x: what it multiplies.
          gradients: (plan, indices, starts, x, dy) -> float32 [count].
          plan: of the product.
        """
        structure = self.indices[...], self.starts[...], self.due[...]
        return _seen(gradients, plan, y, self.drawn[...], jax.lax.stop_gradient(x), *structure)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _seen(
    gradients: Gradients, plan: Any, y: Array, drawn: Array, x: Array, *structure: Array
) -> Array:
    return y


def _ahead(
    gradients: Gradients, plan: Any, y: Array, drawn: Array, *given: Array
) -> tuple[Array, Any]:
    return y, given


def _back(gradients: Gradients, plan: Any, given: Any, dy: Array) -> tuple:
    x, indices, starts, due = given
    found = lambda: gradients(plan, indices, starts, x, dy)
    none = lambda: jnp.zeros(indices.shape, jnp.float32)
    return dy, jax.lax.cond(due, found, none), jnp.zeros_like(x), None, None, None


_seen.defvjp(_ahead, _back)
