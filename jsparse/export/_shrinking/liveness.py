"""Which positions of which axes are removed, and how operations couple them.

Each axis of each array of the computation has a mask of positions to remove. Everything is
initially marked removable, and constraints only ever un-mark positions, so iterating to a fixed
point yields the largest removable set: an operation on inputs that are cut there then gives exactly
its outputs, cut. The arrays of an operation that is not understood stay whole.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node, Op

Axis = tuple[Node, int]
COUNTS, WHOLE, ENDS = "counts", "whole", "ends"
SINGLE = "it is a single unit"


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why positions are kept.

    Attributes:
      kind: COUNTS where a product may need them, ENDS at inputs and outputs of the model, else
        WHOLE.
      op: that demands it, if one does.
      text: what it demands.
    """

    kind: str
    op: Op | None = None
    text: str = ""


NEEDS_WHOLE = "needs the axis whole, as far as is known"
GRID = "joins axes, and the dead units fill no whole row or column of them"


class Ties(Protocol):
    """What is said of axes that have the same positions; see the methods of `Removal`."""

    def because(self, reason: Reason) -> None: ...
    def narrow(self, node: Node, axis: int, mask: np.ndarray) -> None: ...
    def tie(self, *sides: Sequence[Axis]) -> None: ...
    def tie_at(self, whole: Axis, at: np.ndarray, part: Axis) -> None: ...

    def pin(self, node: Node, *axes: int) -> None:
        """Keep these axes whole; if none are given, all of them."""
        for axis in axes or range(len(node.shape)):
            self.narrow(node, axis, np.zeros(node.shape[axis], bool))

    def tie_all(self, a: Node, b: Node) -> None:
        """Tie each axis of a node to that of another of the same shape."""
        for axis in range(len(a.shape)):
            self.tie([(a, axis)], [(b, axis)])


class Removal(Ties):
    """The masks, and which axes are coupled. Axes of length 1 are kept.

    Attributes:
      changed: nodes with positions that were un-marked; whoever follows them empties it.
    """

    def __init__(self, graph: Graph):
        self.changed: set[Node] = set()
        self._reasons = [Reason(WHOLE)]
        self._why: dict[Axis, np.ndarray] = {}
        self._removed: dict[Node, list[np.ndarray]] = {
            node: [np.full(n, n > 1) for n in node.shape] for node in graph.nodes()
        }

    @staticmethod
    def of(graph: Graph, marks: Mapping[Axis, np.ndarray]) -> "Removal":
        """Exactly these marks, of all axes."""
        removal = Removal(graph)
        for node, masks in removal._removed.items():
            masks[:] = [marks[node, axis] for axis in range(len(masks))]
        return removal

    def removed(self, node: Node, axis: int) -> np.ndarray:
        """Which positions of an axis are removed: [n]."""
        return self._removed[node][axis]

    def kept(self, node: Node, axis: int) -> np.ndarray:
        """Which positions of an axis are kept: [n]."""
        return ~self._removed[node][axis]

    def kept_shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a node after the cut."""
        return tuple(int((~mask).sum()) for mask in self._removed[node])

    def because(self, reason: Reason) -> None:
        """The reason for what is un-marked next, unless another position passes on its own."""
        if self._reasons[-1] != reason:
            self._reasons.append(reason)

    def why(self, node: Node, axis: int) -> list[Reason]:
        """Why each position of an axis was un-marked: [n]; only of those that are kept."""
        return [self._reasons[n] for n in self.numbers(node, axis)]

    def narrow(
        self, node: Node, axis: int, mask: np.ndarray, why: np.ndarray | None = None
    ) -> None:
        """Un-mark the positions that are not in the mask: [n]; `why`: the number of a reason."""
        old = self._removed[node][axis]
        gone = old & ~mask
        if gone.any():
            self._removed[node][axis] = old & mask
            self.changed.add(node)
            now = len(self._reasons) - 1
            self.numbers(node, axis)[gone] = now if why is None else np.where(why, why, now)[gone]

    def numbers(self, node: Node, axis: int) -> np.ndarray:
        """The number of the reason of each position of an axis, 0 for none: [n]."""
        if (node, axis) not in self._why:
            self._why[node, axis] = np.zeros(node.shape[axis], np.int32)
        return self._why[node, axis]

    def tie(self, *sides: Sequence[Axis]) -> None:
        """Couple several views of the same positions.

        Args:
          *sides: each the axes of a grid, in C order, of the same number of positions. A position
            of a grid is removed if it is removed along any of its axes.

        Example: a reshape [3, 3] -> [9], x for removable. Row 1 and column 2 of the grid are
        removable (left), and all of [9] but position 4 (middle). Both agree on the right: so row 1
        is un-marked, column 2 is not, and the next call leaves positions 2, 5 and 8 of [9]:

            . . x     x x x     . . x
            x x x     x . x     x . x
            . . x     x x x     . . x
        """
        if all(len(side) == 1 for side in sides):  # most often, with nothing to do
            first, *others = (self._removed[side[0][0]][side[0][1]] for side in sides)
            if all((first == other).all() for other in others):
                return
        grids = [self._grid(np.logical_or, self.removed, side) for side in sides]
        both = np.logical_and.reduce(grids)
        if not any((grid & ~both).any() for grid in grids):
            return
        why = np.zeros(both.shape, np.int32)
        for side, grid in zip(sides, grids, strict=True):
            numbers = self._grid(np.maximum, self.numbers, side)
            why = np.where(why == 0, np.where(grid, 0, numbers), why)
        for side in sides:
            self._narrow_grid(side, both, why)

    @staticmethod
    def _grid(
        join: np.ufunc, of: Callable[[Node, int], np.ndarray], side: Sequence[Axis]
    ) -> np.ndarray:
        """What the positions of a grid have of those along its axes: [positions]."""
        return functools.reduce(join.outer, [of(*axis) for axis in side]).ravel()

    def _narrow_grid(self, side: Sequence[Axis], both: np.ndarray, why: np.ndarray) -> None:
        shape = [node.shape[axis] for node, axis in side]
        both, why = both.reshape(shape), why.reshape(shape)
        for k, (node, axis) in enumerate(side):
            others = tuple(n for n in range(len(shape)) if n != k)
            mask = np.asarray(both.all(axis=others))
            if (self.removed(node, axis) & ~mask).any():
                # part of a row is removed and part is not: then this grid keeps it
                mixed = both.any(axis=others)
                if others and mixed.any():
                    self.because(dataclasses.replace(self._reasons[-1], text=GRID))
                self.narrow(node, axis, mask, np.where(mixed, 0, why.max(axis=others)))

    def tie_at(self, whole: Axis, at: np.ndarray, part: Axis) -> None:
        """Couple some positions of an axis, [n], with those of another of length n, in order."""
        mask, why = np.ones_like(self.removed(*whole)), np.zeros_like(self.numbers(*whole))
        np.logical_and.at(mask, at, self.removed(*part))
        np.maximum.at(why, at, self.numbers(*part))
        self.narrow(*whole, mask, why)
        self.narrow(*part, self.removed(*whole)[at], self.numbers(*whole)[at])
