"""RigL: the smallest weights make room for masked ones of the largest gradients.

1. The masks start at random, with the density of each layer by a budget: uniform, ER or ERK.
2. Every so many steps, and up to step T, weights are exchanged instead of trained. Of the n kept
   weights of a layer, f(t) n of smallest magnitude are dropped, with
   f(t) = fraction/2 (1 + cos(pi t / T)).
3. As many of all that are then masked are grown: those whose dense gradient is largest.
4. A grown weight starts at 0 and without momentum. One that was dropped and grown at once stays.

The first masks (1) are chosen with `jsparse.prune` or `jsparse.hold`.

Numbers: no figure of the paper is reproduced here yet. Beside other methods on small networks in
`experiments/set_rigl.py` and
`experiments/compare.py`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_exchange, exchange, periodic
from jsparse.rules._rule import unit_magnitude


@dataclass(frozen=True, kw_only=True)
class RigL:
    """Drop small weights, grow those with large gradients; the density stays.

    Args:
      last: step of the last exchange, such as three quarters of the steps; T in the cosine.
      every: steps between exchanges.
      fraction: of the kept units, exchanged at the start; it falls to 0 at `last`.
      first: step from which on to count: exchanges are at first + every, first + 2 every, ..., and
        at `first` itself unless it is 0.
      unit: what is exchanged together; units are scored by root mean squares.
      scope: within which the number of kept units stays: `Whole`, `PerOutput` or `Groups`.
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

    def __post_init__(self) -> None:
        check_exchange(self)

    def due(self, step: Array) -> Array:
        """2. Every so many steps from `first` up to `last`."""
        return periodic(self, step)

    def trained(self, mask: Array, weight: Array) -> Array:
        """[...], the mask."""
        return mask

    def dropped(self, step: Array) -> Array:
        """[], the fraction of the kept units that is exchanged at a step."""
        part = jnp.clip(step.astype(jnp.float32) / self.last, 0.0, 1.0)
        return self.fraction / 2 * (1 + jnp.cos(math.pi * part))

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """2. and 3. [...], the mask after an exchange."""
        return exchange(self, mask, weight, unit_magnitude(self, gradient), self.dropped(step))
