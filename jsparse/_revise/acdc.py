"""AC/DC: training alternates between sparse and dense phases.

1. Up to step `first` the network is trained dense.
2. Then it is compressed: the largest weights of each layer are kept, the others are set to 0, and
   this mask is fixed for `every` steps.
3. Then it is decompressed: all weights are trained for the same number of steps, and those that
   were dropped start from 0 without momentum. Steps 2 and 3 repeat. A sparse phase that would last
   until `last` is dense instead, so the last dense phase may be longer.
4. From `last` on the network stays compressed.

Numbers: no figure of the paper is reproduced here yet; `experiments/compare.py` compares methods on
small networks.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jsparse._checks import check_density
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_competition, check_steps, largest, only_kept
from jsparse._values import by_density
from jsparse.rules._rule import to_weights


@by_density
@dataclass(frozen=True, kw_only=True)
class ACDC:
    """Compress and decompress alternately; the run ends sparse.

    The authors' schedule for 100 epochs of n steps each is first = 10n, every = 5n, last = 85n.
    Every layer has the same density (their uniform variant). The masks must start with all weights
    kept, as `Held` makes them.

    Args:
      density: fraction of the units kept in sparse phases, in (0, 1].
      first: number of dense steps at the start.
      every: length of a phase in steps.
      last: step from which the mask is final.
      unit: what is kept together; units are scored by root mean square.
      scope: which units compete: `Whole`, `PerOutput` or `Groups`.
      role: the meaning of the weight's axes; see `roles` of `revise`.

    Example:
      >>> import jax.numpy as jnp
      >>> by = ACDC(density=0.1, first=10, every=5, last=85)
      >>> by.sparse(jnp.array([9, 10, 14, 15, 20, 70, 75, 84, 85])).astype(int).tolist()
      [0, 1, 1, 0, 1, 1, 0, 0, 1]

    Reference: Peste et al., AC/DC: Alternating compressed/decompressed training of deep neural
    networks, NeurIPS 2021, algorithm 1.
    """

    density: float
    first: int
    every: int
    last: int
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    pauses: ClassVar[bool] = False
    clears: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_density(self.density)
        check_steps(first=self.first, every=self.every, last=self.last)
        check_competition(self)
        if self.last < self.first + 2 * self.every:
            raise ValueError(
                f"ACDC got first={self.first}, every={self.every}, last={self.last}; leave "
                "room between first and last for a sparse and a dense phase of `every` steps each"
            )

    def sparse(self, step: Array) -> Array:
        """bool, [] like the step: whether the network is compressed after this step."""
        phase = (step - self.first) // self.every
        ends = self.first + (phase + 1) * self.every  # a sparse phase must end before `last`
        turn = (step >= self.first) & (phase % 2 == 0) & (ends < self.last)
        return turn | (step >= self.last)

    def due(self, step: Array) -> Array:
        """True where a phase begins."""
        return self.sparse(step) != self.sparse(step - 1)

    trained = only_kept

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """2. and 3. [...], the mask of the largest units, or ones."""
        kept = largest(self, weight, self.density) | ~self.sparse(step)
        return to_weights(self, kept, mask)
