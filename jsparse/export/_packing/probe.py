"""The gradient of places without a link, for growing links by gradient.

A forward pass does not see these places. When a revision is due, the backward pass also computes
their gradients, such as x^T dy there, with the kernel that computes those of the links.
"""

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
      indices: uint16 [places], as in `CsrArrays`; some may be drawn twice, or be links.
      starts: int32 [groups of inputs times outputs + 1], likewise.
      due: bool [], whether the next step is due.

    Attributes:
      drawn: float32 zeros [places], whose gradient is that of the places at a due step, and 0
        otherwise.
    """

    def __init__(self, indices: Array, starts: Array, due: Any):
        self.drawn = Mask(jnp.zeros(indices.shape, jnp.float32))
        self.indices, self.starts = Structure(indices), Structure(starts)
        self.due = Structure(jnp.asarray(due, bool))

    def __call__(self, y: Array, x: Array, gradients: Gradients, plan: Any) -> Array:
        """y, made of x by the product of a plan; its gradient also reaches `drawn`.

        `gradients` takes (plan, indices, starts, x, dy) to float32 [places].
        """

        @jax.custom_vjp
        def seen(y: Array, drawn: Array, x: Array, *structure: Array) -> Array:
            return y

        def back(given: tuple, dy: Array) -> tuple:
            x, indices, starts, due = given
            found = lambda: gradients(plan, indices, starts, x, dy)
            none = lambda: jnp.zeros(indices.shape, jnp.float32)
            return dy, jax.lax.cond(due, found, none), jnp.zeros_like(x), None, None, None

        seen.defvjp(lambda y, drawn, *given: (y, given), back)
        structure = self.indices[...], self.starts[...], self.due[...]
        return seen(y, self.drawn[...], jax.lax.stop_gradient(x), *structure)
