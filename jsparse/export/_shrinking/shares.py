"""How many units families lose together where the code divides an axis in fixed proportions.

1. Splits and slices divide an axis into parts, as into halves. Each remains the same share of the
   axis if all lose positions in proportion to their lengths.
2. If k_f units of family f are removed, each with c_fp positions in part p of length l_p, that is
   sum_f k_f (c_fp l_q - c_fq l_p) = 0 for all neighbors p and q.
3. The solution in whole numbers that removes the least share of the families is one step.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jsparse.export._shrinking.graph import Graph, Op
from jsparse.export._shrinking.links import Links
from jsparse.export._shrinking.liveness import Axis, Reason

SECONDS = 5  # after which the search ends; it takes some thousandths unless no step is right
Step = Mapping[int, int]
"""How many units are removed together, by the number of their family."""


class Spread(NamedTuple):
    """In which parts each unit of a family has positions, and how many in each: [parts]."""

    parts: np.ndarray
    counts: np.ndarray


class Family(NamedTuple):
    """Units with as many positions on the same axes.

    Attributes:
      axes: that the units have positions on.
      units: the classes of each.
      held: what holds them; none if nothing does.
      sums: the operations that sum over them.
      spread: where each of them has its positions.
    """

    axes: tuple[Axis, ...]
    units: tuple[np.ndarray, ...]
    held: Reason | None
    sums: tuple[Op, ...]
    spread: Spread


class Parts:
    """The parts of all axes.

    Attributes:
      of: the number of the part of each position: [positions].
      owner: the number of the axis of each part: [parts].
    """

    def __init__(self, graph: Graph, links: Links):
        first = np.diff(links.owner, prepend=-1) > 0
        for op in graph.all_ops:
            ends = {}
            if op.name == "split":
                ends[op.params["axis"]] = np.cumsum(op.params["sizes"]).tolist()
            elif op.name == "slice":
                bounds = zip(op.params["start_indices"], op.params["limit_indices"], strict=True)
                ends |= enumerate(bounds)
            for axis, several in ends.items():
                at = links.at((op.inputs[0], axis))
                first[[at[int(end)] for end in several if 0 < end < len(at)]] = True
        self.of = np.cumsum(first) - 1
        self.owner = links.owner[first]
        self._lengths = np.bincount(self.of, minlength=len(self.owner))

    def spread(self, positions: np.ndarray) -> Spread:
        """Of one unit, from its positions."""
        return Spread(*np.unique(self.of[positions], return_counts=True))

    def joined(
        self, steps: Sequence[Step], spreads: Mapping[int, Spread], widths: Mapping[int, int]
    ) -> Step:
        """The smallest step with the first of these that keeps all proportions; empty if none does.

        Args:
          steps: that can be taken, without families in common.
          spreads: of their families, by number.
          widths: how many units these have.
        """
        from scipy.optimize import LinearConstraint, milp  # comes with jax

        rows = self._unequal(steps, spreads)
        if not rows[:, 0].any():
            return {}
        most = [min((widths[n] - 1) // k for n, k in step.items()) for step in steps]
        found = milp(
            [sum(k / widths[n] for n, k in step.items()) for step in steps],
            integrality=1,
            bounds=([1] + [0] * (len(steps) - 1), np.inf),  # SciPy 1.17 prints at upper ones
            constraints=LinearConstraint(rows, 0, 0),
            options={"time_limit": SECONDS},
        )
        times = np.zeros(len(steps), int) if found.x is None else np.rint(found.x).astype(int)
        if not times[0] or (times > most).any() or (rows @ times).any():
            return {}
        taken = zip(steps, times.tolist(), strict=True)
        return {n: k * several for step, several in taken if several for n, k in step.items()}

    def _unequal(self, steps: Sequence[Step], spreads: Mapping[int, Spread]) -> np.ndarray:
        """By how much each step disturbs each proportion: [proportions, steps]."""
        same = self.owner[1:] == self.owner[:-1]
        divided = np.flatnonzero(np.append(same, False) | np.append(False, same))
        lengths, owner = self._lengths[divided, None], self.owner[divided]
        row = np.full(len(self.owner), -1)
        row[divided] = np.arange(len(divided))
        counts = np.zeros((len(divided) + 1, len(steps)), int)
        for column, step in enumerate(steps):
            for n, k in step.items():
                counts[row[spreads[n].parts], column] += k * spreads[n].counts
        counts = counts[:-1]  # the last has the axes that are not divided
        rows = counts[:-1] * lengths[1:] - counts[1:] * lengths[:-1]
        rows = rows[(owner[1:] == owner[:-1]) & rows.any(axis=1)]
        return np.unique(rows // np.gcd.reduce(rows, axis=1, keepdims=True), axis=0)
