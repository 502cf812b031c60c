"""A Lagrange multiplier for a constraint that is only measured, moved by a PI controller.

1. The excess of a measured cost C over its limit d is e = log(C / d): a factor counts the same in
   any unit, and in both directions.
2. The integral part sums the excess, and never falls below 0: I = max(0, I + k_I e).
3. The multiplier adds the current excess, so it yields as soon as the cost falls: nu = max(0, I +
   k_P e).

With the integral part alone (plain ascent) nu is still large when the constraint is met, and the
policy is driven to where no gradient brings it back.

Numbers: `jsparse.prune.search` uses it; see experiments/search_budget.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._values import check_function, check_in, is_number, known, shown


def log_ratio(cost: Array, limit: Array) -> Array:
    """log(cost / limit), []; a cost of 0 counts as 1e-9 of the limit."""
    return jnp.log(jnp.maximum(cost, 1e-9 * limit) / limit)


def _allowed(excess: Callable) -> str:
    """The interval of limits."""
    return "(0, inf)" if excess is log_ratio else "(-inf, inf)"


@jax.tree_util.register_pytree_node_class
class Multiplier:
    """The weight nu of a cost in `reward - nu * cost`, so that the cost ends at its limit.

        e = log(C / d),  I = max(0, I + integral * e),  nu = max(0, I + proportional * e)

    It is a pytree whose leaves are the limit, I and e: `update` returns a new one, under `jit`,
    `vmap` and `scan` too.

    Args:
      limit: the cost allowed, d: [], above 0 unless `excess` is given. In the unit of the cost.
      start: I at the start, [], 0 or more.
      integral: how much of the excess is added to I at each update, 0 or more.
      proportional: how much of the excess counts at once, 0 or more.
      excess: (cost, limit) -> e, []. For a limit that may be 0 pass
        `lambda cost, limit: cost - limit`.

    Attributes:
      value: nu, [], 0 or more.

    Raises:
      ValueError: a number is out of range.
      TypeError: excess is not a function.

    Example:
      >>> nu = Multiplier(0.1)
      >>> for cost in (0.4, 0.2, 0.1, 0.08):
      ...     nu = nu.update(cost)
      ...     print(f"{nu.value:.2f}")
      1.52
      0.90
      0.21
      0.00

    Reference: Stooke, Achiam and Abbeel, Responsive safety in reinforcement learning by PID
      Lagrangian methods, ICML 2020, algorithm 2; the logarithm is ours.
    """

    def __init__(
        self,
        limit: float | Array,
        *,
        start: float | Array = 0.0,
        integral: float = 0.1,
        proportional: float = 1.0,
        excess: Callable[[Array, Array], Array] = log_ratio,
    ):
        check_function(excess=excess)
        check_in(_allowed(excess), **known(limit=limit))
        check_in("[0, inf)", integral=integral, proportional=proportional, **known(start=start))
        self.limit = jnp.asarray(limit, jnp.float32)
        self.total = jnp.asarray(start, jnp.float32)
        self.last = jnp.zeros_like(self.total)
        self.settings = (float(integral), float(proportional), excess)

    @property
    def value(self) -> Array:
        """The multiplier, []: 0 or more."""
        return jnp.maximum(0.0, self.total + self.settings[1] * self.last)

    def update(self, cost: float | Array) -> "Multiplier":
        """The multiplier after a measurement.

        Args:
          cost: measured, [], in the unit of the limit.

        Raises:
          ValueError: the cost is not a finite number.
        """
        for given in known(cost=cost).values():
            if not is_number(given) or not abs(given) < float("inf"):
                raise ValueError(f"cost must be a finite number; got {shown(given)}")
        integral, _, excess = self.settings
        new = jax.tree.map(lambda leaf: leaf, self)
        new.last = excess(jnp.asarray(cost, jnp.float32), self.limit)
        new.total = jnp.maximum(0.0, self.total + integral * new.last)
        return new

    def within(self, limit: float | Array) -> "Multiplier":
        """The same multiplier for another limit, [], as a schedule may set it."""
        check_in(_allowed(self.settings[2]), **known(limit=limit))
        new = jax.tree.map(lambda leaf: leaf, self)
        new.limit = jnp.asarray(limit, jnp.float32)
        return new

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """The leaves and the settings: what `jax.tree_util` asks for."""
        return (self.limit, self.total, self.last), self.settings

    @classmethod
    def tree_unflatten(cls, settings: tuple, leaves: tuple[Any, Any, Any]) -> "Multiplier":
        """The inverse of `tree_flatten`."""
        new = object.__new__(cls)
        new.limit, new.total, new.last = leaves
        new.settings = settings
        return new
