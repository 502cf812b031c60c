"""What the axes of a matrix product or convolution mean."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from jsparse.export._shrinking.graph import Op
from jsparse.export._shrinking.operations import RAGGED


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the axes of the two factors of a product are.

    Attributes:
      summed: pairs of axes, one of each factor.
      batch: triples of axes: of each factor and of the output.
      free: by factor, its axes that are axes of the output alone, and which.
      pinned: axes that stay, of each factor and of the output.
    """

    summed: tuple[tuple[int, int], ...]
    batch: tuple[tuple[int, int, int], ...]
    free: tuple[Mapping[int, int], Mapping[int, int]]
    pinned: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())

    def to_output(self, side: int) -> dict[int, int]:
        """All axes of one factor that the output has, and which."""
        return {axes[side]: axes[2] for axes in self.batch} | dict(self.free[side])


def shape_of(op: Op) -> Shape:
    """What the axes of a product of matrices or an ungrouped convolution mean."""
    if op.name == RAGGED:
        return _ragged(op)
    dims = op.params["dimension_numbers"]
    if op.name == "dot_general":
        summed, batch = dims
        pairs = [tuple(zip(*sides, strict=True)) for sides in (summed, batch)]
        free, to = [], len(batch[0])
        for side, node in enumerate(op.inputs[:2]):
            rest = [a for a in range(len(node.shape)) if a not in (*summed[side], *batch[side])]
            free.append({axis: to + k for k, axis in enumerate(rest)})
            to += len(rest)
        return Shape(pairs[0], tuple((a, b, n) for n, (a, b) in enumerate(pairs[1])), tuple(free))
    a, b, out = dims.lhs_spec, dims.rhs_spec, dims.out_spec
    free = ({a[0]: out[0]}, {b[0]: out[1]})
    return Shape(((a[1], b[1]),), (), free, (tuple(a[2:]), tuple(b[2:]), tuple(out[2:])))


def _ragged(op: Op) -> Shape:
    """Of a product in which the rows are sorted by groups: rows and groups stay."""
    numbers = op.params["ragged_dot_dimension_numbers"]
    (summed, batch), rows = numbers.dot_dimension_numbers, numbers.lhs_ragged_dimensions
    groups = tuple(numbers.rhs_group_dimensions)
    if {*rows} & {*summed[0], *batch[0]}:  # groups of what is summed, as in a gradient
        a, b, out = (tuple(range(len(n.shape))) for n in (*op.inputs[:2], *op.outputs))
        return Shape((), (), ({}, {}), (a, b, out))
    pairs = [tuple(zip(*sides, strict=True)) for sides in (summed, batch)]
    taken = [{*summed[0], *batch[0]}, {*summed[1], *batch[1], *groups}]
    sides = zip(op.inputs[:2], taken, strict=True)
    rest = [[a for a in range(len(node.shape)) if a not in gone] for node, gone in sides]
    ends = {axis: len(pairs[1]) + k for k, axis in enumerate(rest[0])}
    free = {axis: len(pairs[1]) + len(ends) + k for k, axis in enumerate(rest[1])}
    pinned = (tuple(rows), groups, tuple(ends.pop(axis) for axis in rows))
    batch = tuple((a, b, n) for n, (a, b) in enumerate(pairs[1]))
    return Shape(pairs[0], batch, (ends, free), pinned)


def along(mask: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A mask of the positions of one axis, to be combined with an array of rank `ndim`."""
    return mask.reshape([-1 if k == axis else 1 for k in range(ndim)])


def first_along(array: np.ndarray, axes: Collection[int]) -> np.ndarray:
    """The entries at position 0 of some axes, which stay with length 1."""
    return array[tuple(slice(1) if k in axes else slice(None) for k in range(array.ndim))]
