"""Which elements of weights an array is made of, and how these change to compensate for a factor.

Elements of an output are followed to those of an input only through operations that are linear in
it and where each of its elements goes to one place, or is repeated along an axis.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Node, Op
from jsparse.export._shrinking.operations import (
    PRODUCTS,
    STRUCTURAL,
    along,
    first_along,
    others,
    rearrange,
    shape_of,
    spread,
)

RESHAPES = {"reshape", "squeeze", "broadcast_in_dim"}  # the last only of equally many elements
PARTS = {"split", "unstack", "slice"}  # they leave other elements of their input out
Where = np.ndarray | None
"""The elements of an array: bool, [...] as it; None for all of them."""


class Part(NamedTuple):
    """Elements of a weight.

    Attributes:
      path: of the weight.
      plus: what is added to it before it is used.
      where: the elements.
      call: the operation that reads it, if others read it too, each by a call of the same layer.
    """

    path: str
    plus: float
    where: Where
    call: Op | None = None


class NoSource:
    """No elements of an input correspond to those of the output alone."""


def before(op: Op, node: Node, where: Where, side: int) -> Where | NoSource:
    """The elements of one input of a linear operation that elements of an output are made of.

    The elements of the input are numbered, and the numbers pass through the operation. Example: [3]
    repeated over [2, 3], x for the elements of the output. Those in the middle are made of element
    1 alone; on the right, of one that others are made of too, so they have no source:

        0 1 2    . x .    . x .
        0 1 2    . x .    . . .
    """
    if where is None and op.name not in PARTS:
        return None
    where = np.ones(node.shape, bool) if where is None else where
    shape = op.inputs[side].shape
    if op.name in PRODUCTS:
        return _in_factor(op, where, side)
    if op.name == "transpose":
        return where.transpose(np.argsort(op.params["permutation"]))
    if op.name in RESHAPES and where.size == math.prod(shape):
        return where.reshape(shape)
    numbers = [np.full(one.shape, -1, np.int32) for one in op.inputs]
    numbers[side] = np.arange(numbers[side].size, dtype=np.int32).reshape(numbers[side].shape)
    if op.name in STRUCTURAL:
        at = rearrange(op, *numbers)[op.outputs.index(node)]
    elif numbers[side].ndim == where.ndim:  # an axis of 1 against one of n
        at = np.broadcast_to(numbers[side], where.shape)
    else:  # one number for all elements
        return NoSource()
    inside, outside = np.zeros((2, numbers[side].size), bool)
    inside[at[where & (at >= 0)]] = True
    outside[at[~where & (at >= 0)]] = True
    repeated = (inside & outside).any()
    return NoSource() if repeated else inside.reshape(numbers[side].shape)


def _in_factor(op: Op, where: np.ndarray, side: int) -> Where | NoSource:
    """The elements of a factor of a product, along the axes that it gives to the output."""
    ends = {} if op.extra and side == 0 else shape_of(op).to_output(side)
    rest = others(where.ndim, *ends.values())
    first = first_along(where, rest)
    if (first != where).any():
        return NoSource()
    return spread(first.squeeze(rest), sorted(ends, key=ends.__getitem__), op.inputs[side].shape)


def piece(op: Op, n: int, reader: Op) -> Where:
    """Which elements of the second factor of a product meet the n-th piece of the first one.

    `op` is the concatenation, or stack, of the pieces; None if the product does not sum over their
    axis.
    """
    if reader.name not in PRODUCTS or reader.extra or reader.inputs[0] is not op.outputs[0]:
        return None
    stack = op.name == "stack"
    axis = op.params["axis" if stack else "dimension"]
    lengths = [1 if stack else node.shape[axis] for node in op.inputs]
    inside, shape = np.repeat(np.arange(len(lengths)) == n, lengths), reader.inputs[1].shape
    found = [y for x, y in shape_of(reader).summed if x == axis]
    return np.broadcast_to(along(inside, found[0], len(shape)), shape) if found else None


def named(where: np.ndarray) -> str:
    """Where elements are, axis by axis; runs along an axis are joined by "+".

    Example:
      >>> named(np.tile([True, True, False, True], (3, 1)))
      ':, 0:2+3:4'
    """
    found = []
    for axis, length in enumerate(where.shape):
        (there,) = np.nonzero(where.any(axis=others(where.ndim, axis)))
        runs = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)
        text = "+".join(f"{run[0]}:{run[-1] + 1}" for run in runs)
        found.append(":" if len(there) == length else text)
    return ", ".join(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """The change of a weight w: factor * (w + plus) - plus.

    Attributes:
      factor: one for all elements, or one for each, [...] as the weight of full size, but of
        length 1 along axes where they are the same.
      plus: what is added to the weight before it is used.
    """

    factor: float | np.ndarray
    plus: float = 0.0

    def of(self, value: jax.Array, cut: Cut | None) -> jax.Array:
        """The changed weight, which was cut already, in its dtype; weak types stay weak."""
        wide = jnp.promote_types(value.dtype, jnp.float32)
        given = value if value.dtype == wide else value.astype(wide)
        factor = self.factor
        if isinstance(factor, np.ndarray):
            for axis, kept in cut.keep.items() if cut else ():
                factor = factor.take(kept, axis) if factor.shape[axis] > 1 else factor
            factor = jnp.asarray(factor, wide)
        made = factor * (given + self.plus) - self.plus
        return made if value.dtype == wide else made.astype(value.dtype)

    def times(self, factor: float, where: Where) -> float | np.ndarray:
        """The factor times another one at some places: one number where all are the same."""
        if where is None:
            return self.factor * factor
        for axis in range(where.ndim):
            first = where.take([0], axis)
            where = first if (where == first).all() else where
        each = self.factor * np.where(where, factor, 1.0)
        return float(each.flat[0]) if (each == each.flat[0]).all() else each

    def by_path(self, path: str) -> dict[str, float]:
        """The factor by path of the weight, or of its parts, such as `kernel[:, 0:16]`."""
        if not isinstance(self.factor, np.ndarray):
            return {path: self.factor}
        values = [float(one) for one in np.unique(self.factor) if one != 1]
        return {f"{path}[{named(self.factor == one)}]": one for one in values}
