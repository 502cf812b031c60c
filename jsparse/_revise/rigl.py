"""RigL: drop the smallest weights and grow those with the largest gradients.

1. The initial masks are random, with the density of each layer given by a budget: uniform, ER or
   ERK.
2. Every `every` steps up to step T, weights are exchanged instead of trained. Of the n kept weights
   of a layer, the f(t) n weights of smallest magnitude are dropped, with
   f(t) = fraction/2 (1 + cos(pi t / T)).
3. Of all weights that are then masked, the same number is grown: those with the largest dense
   gradients.
4. A grown weight starts at 0 without momentum. A weight that is dropped and grown in the same step
   is left as it is.

To choose the initial masks (1), use `jsparse.prune` or `jsparse.hold`.

Numbers: no figure of the paper is reproduced here yet; `experiments/set_rigl.py` and
`experiments/compare.py` compare methods on small networks.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_exchange, exchange, only_kept, periodic
from jsparse.rules._rule import unit_magnitude


@dataclass(frozen=True, kw_only=True)
class RigL:
    """Drop small weights and grow those with large gradients; the density is constant.

    Args:
      last: step of the last exchange, for example at three quarters of the run; T in the cosine.
      every: steps between exchanges.
      fraction: fraction of the kept units to exchange at the start; it decreases to 0 at `last`.
      first: step from which exchanges are counted: they happen at first + every, first + 2 every,
        ..., and at `first` itself unless it is 0.
      unit: what is exchanged together; units are scored by root mean square.
      scope: where the number of kept units is constant: `Whole`, `PerOutput` or `Groups`.
      role: the meaning of the weight's axes; see `roles` of `revise`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask, weight = jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([0.1, 3.0, 0.0, 0.0])
      >>> rule = RigL(last=10, every=1, fraction=1.0)
      >>> gradient, step = jnp.array([0.0, 0.0, 1.0, -2.0]), jnp.array(5)
      >>> rule(mask, weight, gradient, step=step, key=jax.random.key(0)).tolist()
      [0.0, 1.0, 0.0, 1.0]

    Reference: Evci et al., Rigging the lottery, ICML 2020, section 3 and algorithm 1.
    """

    last: int
    every: int = 100
    fraction: float = 0.3
    first: int = 0
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    pauses: ClassVar[bool] = True
    clears: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_exchange(self)

    due = periodic  # 2.
    trained = only_kept

    def dropped(self, step: Array) -> Array:
        """[], the fraction of the kept units to exchange at a step."""
        part = jnp.clip(step.astype(jnp.float32) / self.last, 0.0, 1.0)
        return self.fraction / 2 * (1 + jnp.cos(math.pi * part))

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """2. and 3. [...], the mask after an exchange.

        Raises:
          ValueError: the gradient has another shape, as gradients of single examples do.
        """
        if gradient.shape != mask.shape:
            raise ValueError(
                f"RigL got a gradient of shape {gradient.shape} for a mask {mask.shape}; average "
                "the gradients of single examples before revise (masks chosen by them without "
                "noise are not private), or use SET"
            )
        growth = unit_magnitude(self, gradient)
        return self.moved(mask, weight, growth, step=step, size=mask.size)

    @property
    def grown(self) -> float:
        """The fraction of the links that is exchanged at the start."""
        return self.fraction

    def moved(self, mask: Array, weight: Array, growth: Array, *, step: Array, size: int) -> Array:
        """2. and 3. [...], the mask after an exchange, by these scores."""
        return exchange(self, mask, weight, growth, self.dropped(step))
