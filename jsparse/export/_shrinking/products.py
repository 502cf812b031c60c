"""What the axes of a matrix product or convolution mean."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from jsparse.export._shrinking.graph import Op


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
    """What the axes of a dot_general or an ungrouped convolution mean."""
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


def along(mask: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A mask of the positions of one axis, to be combined with an array of rank `ndim`."""
    return mask.reshape([-1 if k == axis else 1 for k in range(ndim)])


def first_along(array: np.ndarray, axes: Collection[int]) -> np.ndarray:
    """The entries at position 0 of some axes, which stay with length 1."""
    return array[tuple(slice(1) if k in axes else slice(None) for k in range(array.ndim))]
