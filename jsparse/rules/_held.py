"""A stored mask.

1. The mask is an array stored with the weight. At the start it keeps all weights.
2. The weight receives the gradient G * mask; the mask receives the dense gradient G, which growth
   criteria read. Weights of coupled units share a mask and receive G themselves.
3. Only events change the mask.

Numbers: no figure of its own; it carries masks chosen by other methods.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_weight
from jsparse._pattern import Role
from jsparse._step import gate
from jsparse.rules._rule import State, check_structure, mask_as_gates, no_cost, unchanged


@dataclass(frozen=True, kw_only=True)
class Held:
    """Apply a stored mask: W' = W * mask.

    Args:
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = Held()
      >>> state = {"mask": jnp.array([1.0, 0.0])}
      >>> rule.apply(jnp.array([2.0, 3.0]), state).tolist()
      [2.0, 0.0]

    Reference: none; the mask of any pruning method.
    """

    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = True
    passes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_structure(self)

    def init(self, weight: Array, key: Array) -> State:
        """A mask of ones, [...] like the weight."""
        check_weight(weight)
        return {"mask": jnp.ones_like(weight)}

    def mask(self, weight: Array, state: State) -> Array:
        """[...], the stored mask."""
        return state["mask"]

    gates = mask_as_gates

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked weight."""
        return gate(weight, state["mask"])

    cost = no_cost
    advance = unchanged
