"""Which positions of all axes must be removed together, whatever the weights are.

The operations say the same about axes as to `Removal`, for positions instead of marks:

1. Two axes with the same positions, or an axis and part of another, join them one by one.
2. A reshape makes a grid of several axes: a position of the grid is removed with any of its axes,
   so it has no class of its own. A grid with a single axis that may shrink is a case of 1.
3. A position that an operation needs holds all of its class, and all that it is a grid of.
4. A grid that is read row by row and column by column is a shuffle of channels. If more can be
   removed without whole parts, these stay, and a shuffle is a case of 1.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node
from jsparse.export._shrinking.liveness import ENDS, SINGLE, Axis, Reason, Ties

Grid = tuple[list[list[np.ndarray]], Reason]
"""For each side the positions along its axes, [cells] each; and the operation that joins them."""
CROSSES = "ties its units to parts of others"
SHUFFLES = "shuffles as many parts as the code says"


class Links(Ties):
    """Collects what operations say of the positions of axes.

    Attributes:
      axes: all axes, which the positions are numbered along, one after another.
    """

    def __init__(self, graph: Graph):
        self.axes: list[Axis] = [(n, k) for n in graph.nodes() for k in range(len(n.shape))]
        lengths = [node.shape[axis] for node, axis in self.axes]
        self._start = dict(zip(self.axes, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
        self.owner = np.repeat(np.arange(len(lengths)), lengths)
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._grids: list[Grid] = []
        self._reason = Reason("")
        self._pins: list[tuple[np.ndarray, Reason]] = []
        self.because(Reason(ENDS, None, SINGLE))
        for axis, length in zip(self.axes, lengths, strict=True):
            if length == 1:
                self.pin(*axis)

    def at(self, axis: Axis) -> np.ndarray:
        """The numbers of the positions of an axis: [n]."""
        start = self._start[axis]
        return np.arange(start, start + axis[0].shape[axis[1]])

    def because(self, reason: Reason) -> None:
        self._reason = reason

    def narrow(self, node: Node, axis: int, mask: np.ndarray) -> None:
        if not mask.all():
            self._pins.append((self.at((node, axis))[~mask], self._reason))

    def tie(self, *sides: Sequence[Axis]) -> None:
        long = [[axis for axis in side if axis[0].shape[axis[1]] != 1] for side in sides]
        cells = [np.meshgrid(*map(self.at, side), indexing="ij") for side in long]
        flat = [[one.ravel() for one in side] for side in cells]
        if all(len(side) == 1 for side in flat):
            self._pairs += [(flat[0][0], side[0]) for side in flat[1:]]
        elif all(flat):
            self._grids.append((flat, dataclasses.replace(self._reason, text=CROSSES)))

    def tie_at(self, whole: Axis, at: np.ndarray, part: Axis) -> None:
        self._pairs.append((self.at(whole)[at], self.at(part)))

    def solutions(self) -> "list[Classes]":
        """The classes of positions that are removed together; of channel shuffles in two ways.

        A shuffle takes channels for a grid of parts, and returns them column by column. In the
        second solution no whole part may go.
        """
        first = self._solved(self._pins)
        parts = first.shuffled()
        return [first, self._solved([*self._pins, *parts])] if parts else [first]

    def _solved(self, pins: Sequence[tuple[np.ndarray, Reason]]) -> "Classes":
        pairs, grids = list(self._pairs), list(self._grids)
        while True:
            known = len(pairs)
            label = self._joined(pairs)
            reasons: list[Reason | None] = [None] * (int(label.max(initial=-1)) + 1)
            for positions, reason in pins:
                for one in np.unique(label[positions]):
                    reasons[one] = reasons[one] or reason
            held = np.array([reason is not None for reason in reasons], bool)
            _hold_grids(grids, label, held, reasons)
            left: list[Grid] = []
            stuck: list[Grid] = []  # they hold what they are of, in each round
            for sides, reason in grids:
                free = [[one for one in side if not held[label[one]].all()] for side in sides]
                if all(len(side) == 1 for side in free):
                    pairs += [(free[0][0], side[0]) for side in free[1:]]
                elif all(free):
                    left.append((free, reason))
                else:
                    stuck.append((sides, reason))
            if len(pairs) == known:
                classes = [([[label[one] for one in side] for side in g], r) for g, r in left]
                return Classes(label, reasons, classes)
            grids = left + stuck

    def _joined(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """A number of its class for each position: [positions]."""
        from scipy.sparse import coo_array, csgraph  # comes with jax

        ends = np.concatenate([np.zeros((2, 0), int), *pairs], axis=1)
        n = len(self.owner)
        graph = coo_array((np.ones(ends.shape[1], bool), tuple(ends)), (n, n))
        return csgraph.connected_components(graph, directed=False)[1]


def _hold_grids(
    grids: list[Grid], label: np.ndarray, held: np.ndarray, reasons: list[Reason | None]
) -> None:
    """Hold all that a held position of a grid is in; in place."""
    before = -1
    while before != held.sum():
        before = held.sum()
        for sides, _ in grids:
            stuck = [np.all([held[label[one]] for one in side], axis=0) for side in sides]
            cells = np.any(stuck, axis=0)
            if not cells.any():
                continue
            first = int(np.argmax([one.any() for one in stuck]))
            reason = reasons[label[sides[first][0][stuck[first]][0]]]
            for one in (one for side in sides for one in side):
                for number in np.unique(label[one[cells]]):
                    reasons[number] = reasons[number] or reason
                    held[number] = True


class TiedClasses(NamedTuple):
    """Classes that are removed together, and what holds them; none if nothing does."""

    classes: np.ndarray
    held: Reason | None


class Classes:
    """Classes of positions, and the grids that join several of them.

    Args:
      label: the class of each position: [positions].
      reasons: why a class is held, by its number; none if it is not.
      grids: with classes in place of positions.
    """

    def __init__(self, label: np.ndarray, reasons: list[Reason | None], grids: list[Grid]):
        self.label, self._reasons, self._grids = label, reasons, grids
        self._held = np.array([reason is not None for reason in reasons], bool)
        self._made: dict[int, Reason] = {}
        self._in: dict[int, list[int]] = {}
        for n, (sides, reason) in enumerate(grids):
            several = any(len(side) > 1 for side in sides)
            for side in sides:
                for one in side:
                    for number in np.unique(one).tolist():
                        self._in.setdefault(number, []).append(n)
                        if several and len(side) == 1:
                            self._made.setdefault(number, reason)

    def units(self) -> list[TiedClasses]:
        """What is removed together, each once; positions of a grid with the axes of the grid."""
        alone = [n for n in range(len(self._reasons)) if n not in self._made]
        around = [self._around(n) for n in alone]
        found = list({unit.classes.tobytes(): unit for unit in around}.values())
        covered = {int(n) for unit in found if len(unit.classes) > 1 for n in unit.classes}
        rest = [n for n in self._made if n not in covered]
        return found + [TiedClasses(np.array([n]), self._reasons[n] or self._made[n]) for n in rest]

    def shuffled(self) -> list[tuple[np.ndarray, Reason]]:
        """The positions of axes that reshapes have before and after a longer one, and the reason.

        Left out are channels in groups of a convolution, where whole groups may go.
        """
        numbers = [np.concatenate([a for side in sides for a in side]) for sides, _ in self._grids]
        makers = [reason.op.name if reason.op else "" for _, reason in self._grids]
        grouped = [own for own, op in zip(numbers, makers, strict=True) if op != "reshape"]
        orders: set[tuple[bytes, bytes]] = set()
        found = []
        for (sides, reason), own in zip(self._grids, numbers, strict=True):
            if any(np.isin(own, one).any() for one in grouped):
                continue
            for one, two in (pair for side in sides for pair in itertools.combinations(side, 2)):
                first, second = (np.unique(axis).tobytes() for axis in (one, two))
                orders.add((first, second))
                if first != second and (second, first) in orders:
                    short = min(one, two, key=lambda axis: len(np.unique(axis)))
                    parts = np.flatnonzero(np.isin(self.label, short))
                    found.append((parts, dataclasses.replace(reason, text=SHUFFLES)))
        return found

    @functools.cached_property
    def _sizes(self) -> list[list[list[tuple[np.ndarray, np.ndarray]]]]:
        count = functools.partial(np.unique, return_counts=True)
        return [[[count(one) for one in side] for side in sides] for sides, _ in self._grids]

    def _around(self, seed: int) -> TiedClasses:
        """The smallest set with this class that all grids allow."""
        if self._held[seed] or seed not in self._in:
            return TiedClasses(np.array([seed]), self._reasons[seed])
        gone = np.zeros(len(self._reasons), bool)
        gone[seed] = True
        waiting = set(self._in[seed])
        while waiting:
            n = waiting.pop()
            added = self._demanded(n, gone)
            if added is None:
                return TiedClasses(np.array([seed]), self._grids[n][1])
            gone[added] = True
            waiting.update(k for one in added.tolist() for k in self._in.get(one, ()))
        classes = np.flatnonzero(gone)
        stuck = classes[self._held[classes]]
        return TiedClasses(classes, self._reasons[stuck[0]] if len(stuck) else None)

    def _demanded(self, n: int, gone: np.ndarray) -> np.ndarray | None:
        """Classes that a grid demands in addition; None if it allows none."""
        sides = self._grids[n][0]
        covered = [np.any([gone[one] for one in side], axis=0) for side in sides]
        wanted = np.any(covered, axis=0)
        added, short = [np.zeros(0, int)], False
        for side, has, sizes in zip(sides, covered, self._sizes[n], strict=True):
            missing = wanted & ~has
            if not missing.any():
                continue
            if len(side) == 1:
                added.append(side[0][missing])
                continue
            for one, (classes, counts) in zip(side, sizes, strict=True):
                inside = np.bincount(one[wanted], minlength=len(gone))[classes]
                fits = classes[(inside == counts) & ~self._held[classes]]
                added.append(fits)
                missing &= ~np.isin(one, fits)
            short |= bool(missing.any())
        new = np.unique(np.concatenate(added))
        new = new[~gone[new]]
        return None if short and not len(new) else new
