"""Which positions of which axes are removed, and how operations couple them.

Each axis of each array of the computation has a mask of positions to remove. Everything is
initially marked removable, and constraints only ever un-mark positions, so iterating to a fixed
point yields the largest removable set: an operation on inputs that are cut there then gives exactly
its outputs, cut. The arrays of an operation that is not understood stay whole.
"""

from collections.abc import Sequence

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node

Axis = tuple[Node, int]


class Removal:
    """The masks, and which axes are coupled.

    Args:
      graph: what the model computes. Axes of length 1 are kept.
    """

    def __init__(self, graph: Graph):
        self.changed = False
        self._above: dict[Axis, Axis] = {}
        self._removed: dict[Node, list[np.ndarray]] = {
            node: [np.full(n, n > 1) for n in node.shape] for node in graph.nodes()
        }

    def removed(self, node: Node, axis: int) -> np.ndarray:
        """Which positions of an axis are removed: [n]."""
        return self._removed[node][axis]

    def kept(self, node: Node, axis: int) -> np.ndarray:
        """Which positions of an axis are kept: [n]."""
        return ~self._removed[node][axis]

    def kept_shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a node after the cut."""
        return tuple(int((~mask).sum()) for mask in self._removed[node])

    def narrow(self, node: Node, axis: int, mask: np.ndarray) -> None:
        """Un-mark the positions that are not in the mask: [n]."""
        old = self._removed[node][axis]
        if (old & ~mask).any():
            self._removed[node][axis] = old & mask
            self.changed = True

    def pin(self, node: Node, *axes: int) -> None:
        """Keep these axes whole; without any, all of them."""
        for axis in axes or range(len(node.shape)):
            self.narrow(node, axis, np.zeros(node.shape[axis], bool))

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
        for side in sides:
            for axis in side:
                self.join(sides[0][0], axis)
        both = np.ones(int(np.prod([n.shape[a] for n, a in sides[0]])), bool)
        for side in sides:
            both &= self._grid(side).ravel()
        for side in sides:
            grid = both.reshape([node.shape[axis] for node, axis in side])
            for k, (node, axis) in enumerate(side):
                others = tuple(n for n in range(grid.ndim) if n != k)
                self.narrow(node, axis, np.asarray(grid.all(axis=others)))

    def tie_part(self, whole: Axis, start: int, part: Axis) -> None:
        """Couple the positions of an axis from `start` on with those of another."""
        self.join(whole, part)
        node, axis = whole
        span = slice(start, start + part[0].shape[part[1]])
        mask = np.ones(node.shape[axis], bool)
        mask[span] = self.removed(*part)
        self.narrow(node, axis, mask)
        self.narrow(*part, self.removed(node, axis)[span])

    def tie_all(self, a: Node, b: Node) -> None:
        """Tie each axis of a node to that of another of the same shape."""
        for axis in range(len(a.shape)):
            self.tie([(a, axis)], [(b, axis)])

    def root(self, axis: Axis) -> Axis:
        """One axis that stands for all that are coupled with this one."""
        while axis in self._above:
            axis = self._above[axis]
        return axis

    def join(self, a: Axis, b: Axis) -> None:
        """Note that two axes are coupled."""
        a, b = self.root(a), self.root(b)
        if a != b:
            self._above[b] = a

    def _grid(self, side: Sequence[Axis]) -> np.ndarray:
        grid = np.zeros([node.shape[axis] for node, axis in side], bool)
        for k, (node, axis) in enumerate(side):
            spread = [1] * len(side)
            spread[k] = -1
            grid |= self.removed(node, axis).reshape(spread)
        return grid
