"""Which widths a group of units may have."""

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Widths:
    """At least `least`, and multiples as sides of matrices."""

    least: int
    round_to: int

    def of(self, wanted: int, width: int, stay: int, across: Iterable[int]) -> int:
        """The width nearest to the wanted one; of two, the larger one.

        Args:
          wanted: how many units would be kept.
          width: of the whole group.
          stay: how many must stay.
          across: how much of a side of each matrix a unit is.

        Example:
          >>> [Widths(1, 8).of(wanted, 20, 0, [1]) for wanted in (20, 10, 12, 2)]
          [20, 8, 16, 8]
          >>> [Widths(1, 8).of(3, 6, 0, [size]) for size in (1, 4, 16)]  # of a matrix
          [6, 4, 3]
        """
        if wanted == width:
            return width
        least = max(self.least, stay, 1)
        step = math.lcm(*(self.round_to // math.gcd(self.round_to, size) for size in across))
        allowed = [n for n in range(step, width, step) if n >= least]
        return min([*allowed, width], key=lambda n: (abs(n - wanted), -n))
