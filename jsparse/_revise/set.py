"""SET: drop the smallest weights and grow random ones.

1. The initial masks are random, with the density of each layer given by the Erdos-Renyi budget.
2. Every `every` steps, a fraction of the kept weights of each layer, those of smallest magnitude,
   is dropped, and the same number of masked weights is grown at random. The authors drop the
   fraction from the positive and from the negative weights separately (`by_sign`), together with
   the weights that are exactly 0.
3. A grown weight starts at 0 without momentum. (The authors sample a new value; a value of 0 does
   not change the network, and is used in the comparisons of the RigL paper.)

To choose the initial masks (1), use `jsparse.prune` or `jsparse.hold`.

Numbers: no figure of the paper is reproduced here yet; `experiments/set_rigl.py` and
`experiments/compare.py` compare methods on small networks.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_exchange, exchange, only_kept, periodic
from jsparse._values import check_flag
from jsparse.rules._rule import unit_magnitude


@dataclass(frozen=True, kw_only=True)
class SET:
    """Drop small weights and grow random ones; the density is constant.

    Args:
      last: step of the last exchange.
      every: steps between exchanges, such as the steps of an epoch.
      fraction: fraction of the kept units to exchange each time.
      first: step from which exchanges are counted: they happen at first + every, first + 2 every,
        ..., and at `first` itself unless it is 0.
      unit: what is exchanged together; units are scored by root mean square.
      scope: where the number of kept units is constant: `Whole`, `PerOutput` or `Groups`.
      role: the meaning of the weight's axes; see `roles` of `revise`.
      by_sign: whether to drop the fraction from the positive and from the negative weights
        separately, as the authors do. Kept weights that are exactly 0 have no sign and are all
        dropped. Only for the unit `Weight`.

    Raises:
      TypeError: by_sign is not True or False.
      ValueError: steps or a fraction out of range; a scope in which units do not compete; by_sign
        with units of several weights.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask, weight = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.1, 3.0, 0.0])
      >>> new = SET(last=10, every=1, fraction=0.5)(
      ...     mask, weight, weight, step=jnp.array(1), key=jax.random.key(0))
      >>> float(new[1]), float(new.sum())
      (1.0, 2.0)

    Reference: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science, 2018, algorithm 1.
    """

    last: int
    every: int = 100
    fraction: float = 0.3
    first: int = 0
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    by_sign: bool = False
    pauses: ClassVar[bool] = False
    clears: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_exchange(self)
        check_flag(by_sign=self.by_sign)
        if self.by_sign and self.unit != Weight():
            raise ValueError(
                "by_sign=True needs unit=Weight(), as only single weights have a sign; got "
                f"{self.unit}. Leave out one of the two"
            )

    due = periodic  # 2.
    trained = only_kept

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """2. [...], the mask after an exchange."""
        # one random number per unit
        growth = jax.random.uniform(key, unit_magnitude(self, mask).shape)
        return self.moved(mask, weight, growth, step=step, size=mask.size)

    @property
    def grown(self) -> float:
        """The fraction of the links that is exchanged."""
        return self.fraction

    def moved(self, mask: Array, weight: Array, growth: Array, *, step: Array, size: int) -> Array:
        """2. [...], the mask after an exchange, by these scores."""
        apart = (weight > 0, weight < 0) if self.by_sign else ()
        return exchange(self, mask, weight, growth, self.fraction, apart)
