"""Keep every weight: for exceptions in a list of patterns, and for the dense baseline.

Numbers: none; the layer is dense.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_weight
from jsparse._pattern import Groups, Role
from jsparse._tiles import grid_shape
from jsparse.rules._rule import Rule, State, check_structure, no_cost, unchanged, unit_of


def where_it_fits(rule: Rule, shape: tuple[int, ...]) -> Rule:
    """The rule, or `Keep` where its scope skips a weight of this shape."""
    scope, role = getattr(rule, "scope", None), rule.role
    if not isinstance(scope, Groups) or not scope.skip:
        return rule
    layer = shape[role.stack :]
    grid = grid_shape(layer, unit_of(rule).tile(layer, role))
    inputs = role.input_axes(len(grid))
    return rule if inputs and grid[inputs[-1]] % scope.size == 0 else Keep(role=role)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Keep every weight: W' = W.

    Since the first match wins, `sparsify(model, ("head/kernel", Keep()), (".*/kernel", rule))`
    leaves the head dense and still lists it in reports.

    Args:
      role: the meaning of the weight's axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> Keep().apply(jnp.array([2.0, 3.0]), {}).tolist()
      [2.0, 3.0]

    Reference: none.
    """

    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_structure(self)

    def init(self, weight: Array, key: Array) -> State:
        """No state."""
        check_weight(weight)
        return {}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] of ones."""
        return jnp.ones_like(weight)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the weight itself."""
        return weight

    cost = no_cost
    advance = unchanged
