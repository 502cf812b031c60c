"""Which elements of weights an array is made of, and how these change to compensate for a factor.

Elements of an output are followed to those of an input only through operations that are linear in
it and where each of its elements goes to one place, or is repeated along an axis.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Node, Op, spans
from jsparse.export._shrinking.operations import (
    PRODUCTS,
    along,
    first_along,
    others,
    shape_of,
    spread,
)

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
    """The elements of an input that some elements of an output are made of.

    Args:
      op: the operation; linear in that input.
      node: the output.
      where: elements of the output.
      side: which input.
    """
    source = op.inputs[side]
    if op.name in ("split", "unstack", "slice"):
        inner = np.ones(node.shape, bool) if where is None else where
        return _in_whole(op, node, inner)
    if where is None:
        return None
    if op.name in PRODUCTS:
        return _in_factor(op, where, side)
    if op.name == "transpose":
        return where.transpose(np.argsort(op.params["permutation"]))
    if op.name == "broadcast_in_dim":
        to = op.params["broadcast_dimensions"]
    elif where.size == int(np.prod(source.shape)):
        return where.reshape(source.shape)
    else:  # an axis of 1 against one of n
        to = range(where.ndim)
    if len(to) != len(source.shape):
        return NoSource()
    new = [k for k in range(where.ndim) if k not in to]
    new += [k for axis, k in enumerate(to) if source.shape[axis] != where.shape[k]]
    first = first_along(where, new)
    return first.reshape(source.shape) if (first == where).all() else NoSource()


def _in_whole(op: Op, node: Node, where: np.ndarray) -> np.ndarray:
    """The elements of the array that a part was taken from."""
    found = np.zeros(op.inputs[0].shape, bool)
    if op.name == "slice":
        found[spans(op)] = where
        return found
    n, axis = op.outputs.index(node), op.params["axis"]
    if op.name == "unstack":
        np.moveaxis(found, axis, 0)[n] = where
        return found
    start = sum(op.params["sizes"][:n])
    np.moveaxis(found, axis, 0)[start : start + node.shape[axis]] = np.moveaxis(where, axis, 0)
    return found


def _in_factor(op: Op, where: np.ndarray, side: int) -> Where | NoSource:
    """The elements of a factor of a product, along the axes that it gives to the output."""
    ends = {} if op.extra and side == 0 else shape_of(op).to_output(side)
    rest = others(where.ndim, *ends.values())
    first = first_along(where, rest)
    if (first != where).any():
        return NoSource()
    return spread(first.squeeze(rest), sorted(ends, key=ends.__getitem__), op.inputs[side].shape)


def parted(op: Op, where: np.ndarray) -> list[np.ndarray]:
    """Elements of each input of a concatenation or a stack."""
    if op.name == "stack":
        return list(np.moveaxis(where, op.params["axis"], 0))
    axis = op.params["dimension"]
    ends = np.cumsum([node.shape[axis] for node in op.inputs])[:-1]
    return np.split(where, ends, axis=axis)


def piece(op: Op, n: int, reader: Op) -> Where:
    """Which elements of the second factor of a product meet a piece of the first one.

    Args:
      op: the concatenation, or stack, that makes the first factor.
      n: the number of the piece.
      reader: the product.

    Returns:
      [...] like the second factor; None if it does not sum over the axis of the pieces.
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
        """The changed weight, in its dtype; weak types stay weak.

        Args:
          value: the weight, cut already.
          cut: how it was cut, if it was.
        """
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
