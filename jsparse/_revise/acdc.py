"""AC/DC: sparse and dense phases of training take turns.

1. Up to step `first` the network trains dense.
2. Then it is compressed: of each layer the largest weights stay, the others become 0, and for
   `every` steps this mask is held.
3. Then it is decompressed: for as many steps all weights train, those that were 0 from there and
   without momentum. 2. and 3. repeat; a phase that would be sparse up to `last` is dense instead,
   so that the last dense phase may be longer.
4. From `last` on it is compressed for good.

Numbers: no figure of the paper is reproduced here yet. Beside other methods on small networks in
`experiments/compare.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jsparse._checks import check_density
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_competition, check_steps, largest
from jsparse.rules._rule import to_weights


@dataclass(frozen=True, kw_only=True)
class ACDC:
    """Compress and decompress in turns; the run ends sparse.

    The authors' schedule of 100 epochs, with n steps each: first = 10n, every = 5n, last = 85n.
    Each layer has the density (their uniform variant); the masks start full, as `Held` makes them.

    Args:
      density: fraction of the units kept in sparse phases, in (0, 1].
      first: dense steps at the start.
      every: steps of a phase.
      last: step from which on the mask is final.
      unit: what is kept together; units are scored by root mean squares.
      scope: who competes: `Whole`, `PerOutput` or `Groups`.
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
                f"ACDC got first={self.first}, every={self.every}, last={self.last}; between "
                "first and last there is a sparse and a dense phase at least, of `every` steps each"
            )

    def sparse(self, step: Array) -> Array:
        """bool, [] as the step: whether the network is compressed after so many steps."""
        phase = (step - self.first) // self.every
        ends = self.first + (phase + 1) * self.every  # a sparse phase is to end before `last`
        turn = (step >= self.first) & (phase % 2 == 0) & (ends < self.last)
        return turn | (step >= self.last)

    def due(self, step: Array) -> Array:
        """Where a phase begins."""
        return self.sparse(step) != self.sparse(step - 1)

    def trained(self, mask: Array, weight: Array) -> Array:
        """[...], the mask."""
        return mask

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """2. and 3. [...], the mask of the largest units, or ones."""
        kept = largest(self, weight, self.density) | ~self.sparse(step)
        return to_weights(self, kept, mask)
