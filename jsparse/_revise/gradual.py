"""Gradual magnitude pruning: the density decreases along a cubic curve; the largest stay.

1. At steps t = first, first + every, ..., last the density is
   d(t) = end + (start - end) (1 - (t - first) / (last - first))^3.
2. The units of largest magnitude are kept, as many as d(t) allows.
3. Masked weights are not trained, but they keep their values and continue to compete.

Numbers: no figure of the paper is reproduced here yet; `experiments/set_rigl.py` and
`experiments/compare.py` compare methods on small networks.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_density
from jsparse._counting import MOST, count, rounded_fraction
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_competition, check_steps, largest, only_kept
from jsparse._schedule import cubic
from jsparse._topk import highest
from jsparse._values import by_density, check_in
from jsparse.rules._rule import to_weights


@by_density
@dataclass(frozen=True, kw_only=True)
class Gradual:
    """Keep the largest units, and fewer of them over time.

    Args:
      density: fraction of the units kept from `last` on, in (0, 1].
      last: step of the last update of the mask.
      first: step of the first update; until then the mask is the initial one.
      every: steps between updates.
      start: density of the curve at `first`. A sparser mask would grow back to the curve, so for a
        model that is already sparse pass its current density.
      unit: what is kept together; units are scored by root mean square.
      scope: which units compete: `Whole`, `PerOutput` or `Groups`.
      role: the meaning of the weight's axes; see `roles` of `revise`.

    Reference: Zhu and Gupta, To prune, or not to prune, 2017, section 3.
    """

    density: float
    last: int
    first: int = 0
    every: int = 1
    start: float = 1.0
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    pauses: ClassVar[bool] = False
    clears: ClassVar[bool] = False
    by_gradient: ClassVar[bool] = False
    grown: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_density(self.density)
        check_in("(0, 1]", start=self.start)
        if self.start < self.density:
            raise ValueError(
                f"start={self.start} is below density={self.density}; pass the density to start "
                "from, which is the higher one"
            )
        check_steps(every=self.every, last=self.last)
        check_steps(0, first=self.first)
        check_competition(self)
        assert self.curve  # cubic checks the span

    @property
    def curve(self) -> cubic:
        """The density over the train steps."""
        return cubic(self.start, self.density, self.first, self.last)

    def due(self, step: Array) -> Array:
        """Every `every` steps from `first`, and at `last`."""
        periodic = (step - self.first) % self.every == 0
        return (step >= self.first) & (step <= self.last) & (periodic | (step == self.last))

    trained = only_kept

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """[...], the mask of the largest units."""
        kept = largest(self, weight, self.curve(step).astype(jnp.float32))
        return to_weights(self, kept, mask)

    def moved(self, mask: Array, weight: Array, growth: Array, *, step: Array, size: int) -> Array:
        """[n], the mask of the largest links; links that a packed layer drops cannot return.

        Raises:
          ValueError: the matrix has more places than can be counted.
        """
        if size > MOST:
            raise ValueError(
                f"Gradual keeps a fraction of all places of a matrix, and this one has {size:,}, "
                f"more than {MOST:,}; split the layer, or use Below, which needs no count"
            )
        on = mask > 0
        keep = jnp.minimum(
            rounded_fraction(self.curve(step).astype(jnp.float32), size), count(on, (0,))
        )
        return highest(jnp.where(on, jnp.abs(weight), -1.0), keep, (0,)).astype(mask.dtype)
