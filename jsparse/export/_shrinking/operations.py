"""What operations do to single positions: tables of their names, and what their axes mean.

A new operation is entered here for its effect on constants, and in `couplings` for the positions
that it ties.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jsparse._jaxprs import evaluate
from jsparse.export._shrinking.graph import Op, spans

ELEMENTWISE = {
    "add", "sub", "mul", "div", "rem", "max", "min", "pow", "integer_pow", "neg", "exp", "exp2",
    "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "sinh", "cosh", "asin",
    "acos", "atan", "atan2", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "rsqrt", "sqrt",
    "square", "cbrt", "abs", "sign", "floor", "ceil", "round", "is_finite", "eq", "ne", "lt", "le",
    "gt", "ge", "and", "or", "not", "xor", "select_n", "convert_element_type", "stop_gradient",
    "copy", "copy_p", "clamp", "nextafter", "reduce_precision", "add_any", "pvary", "real", "imag",
    "sharding_constraint", "reshard", "name", "shift_left", "lgamma", "digamma",
    "conj", "complex", "clz", "population_count", "shift_right_arithmetic", "mulhi",
    "shift_right_logical", "eq_to", "le_to", "lt_to", "igamma", "igammac", "bessel_i0e",
    "bessel_i1e", "polygamma",
}  # fmt: skip
STRUCTURAL = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "split",
    "concatenate", "unstack", "layout_constraint", "tile", "stack",
    "optimization_barrier",
}  # fmt: skip
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}
REDUCTIONS |= {"argmax", "argmin"}
# the most common ones by NumPy: compiling each for each shape takes longer than all the rest
NUMPY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
NUMPY |= {"max": np.maximum, "min": np.minimum, "neg": np.negative, "sqrt": np.sqrt}
NUMPY |= {"rsqrt": lambda v: 1 / np.sqrt(v), "exp": np.exp, "tanh": np.tanh, "abs": np.abs}
NEUTRAL = {"reduce_sum": 0, "reduce_or": 0, "reduce_prod": 1, "reduce_and": 1}
CUMULATIVE = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
WINDOWS = {"reduce_window_sum", "reduce_window_max"}
SCATTERS = {"scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"}
UPDATES = dict.fromkeys(SCATTERS, 2) | {"dynamic_update_slice": 1}  # which input holds the updates
RAGGED = "ragged_dot_general"  # rows by the matrix of their group, as tokens by that of an expert
PRODUCTS = {"dot_general", "conv_general_dilated", RAGGED}
UNDERSTOOD = (
    ELEMENTWISE | STRUCTURAL | REDUCTIONS | CUMULATIVE | WINDOWS | PRODUCTS | UPDATES.keys()
)
UNDERSTOOD |= {"pad", "iota", "sort", "top_k", "gather", "dynamic_slice", "reduce_window"}
UNDERSTOOD |= {"reduce_window_min"}


def rearrange(op: Op, *values: np.ndarray) -> list[np.ndarray]:
    """The result of an operation of `STRUCTURAL` on arrays of any type."""
    value, out, params = values[0], op.outputs[0].shape, op.params
    match op.name:
        case "transpose":
            return [value.transpose(params["permutation"])]
        case "broadcast_in_dim":
            lengths = [1] * len(out)
            for axis, to in enumerate(params["broadcast_dimensions"]):
                lengths[to] = value.shape[axis]
            return [np.broadcast_to(value.reshape(lengths), out)]
        case "slice":
            return [value[spans(op)]]
        case "rev":
            return [np.flip(value, tuple(map(int, params["dimensions"])))]
        case "optimization_barrier":
            return list(values)
        case "tile":
            return [np.tile(value, params["reps"])]
        case "stack":
            return [np.stack(values, axis=params["axis"])]
        case "concatenate":
            return [np.concatenate(values, axis=params["dimension"])]
        case "unstack":
            return [part.reshape(out) for part in np.split(value, len(op.outputs), params["axis"])]
        case "split":
            return np.split(value, np.cumsum(params["sizes"])[:-1], axis=params["axis"])
        case _:  # reshape, squeeze, expand_dims, layout_constraint
            return [value.reshape(out)]


def bind(op: Op, *values: Any, **params: Any) -> list[np.ndarray]:
    """Run the primitive of an operation, with some settings replaced."""
    if op.name in STRUCTURAL:
        return rearrange(op, *values)
    if op.name in NUMPY:
        with np.errstate(all="ignore"):
            return [np.asarray(NUMPY[op.name](*values))]
    return list(map(np.asarray, evaluate(op.primitive, op.params | params, *values)))


def touched(op: Op, masks: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Where each output depends on marked entries of the inputs: [...] each, like the array.

    None if this operation is not understood, or is a product, whose marks depend on zeros.
    """
    if op.name in ELEMENTWISE:
        return [functools.reduce(np.logical_or, masks, np.zeros(op.outputs[0].shape, bool))]
    if op.name in STRUCTURAL:
        return rearrange(op, *masks)
    if op.name in WINDOWS | {"pad"}:
        return [m > 0 for m in bind(op, *(mask.astype(np.float32) for mask in masks))]
    if op.name in REDUCTIONS:
        return [np.asarray(masks[0].any(axis=tuple(op.params["axes"])))]
    if op.name in CUMULATIVE:
        axis, back = op.params["axis"], op.params.get("reverse", False)
        mask = np.flip(masks[0], axis) if back else masks[0]
        mask = np.logical_or.accumulate(mask, axis=axis)
        return [np.flip(mask, axis) if back else mask]
    if op.name in ("sort", "top_k", "fft"):
        axes = op.params.get("dimension", op.params.get("axis", -1))
        if op.name == "fft":
            axes = tuple(range(-len(op.params["fft_lengths"]), 0))
        lanes = np.asarray(functools.reduce(np.logical_or, masks).any(axis=axes, keepdims=True))
        return [np.broadcast_to(lanes, node.shape) for node in op.outputs]
    if op.name == "gather":
        rest, onto = gathered(op)
        return [onto(np.asarray(masks[0].any(axis=rest, keepdims=True)))]
    if op.name in UPDATES:
        rest, onto = updated(op)
        update = masks[UPDATES[op.name]]
        return [masks[0] | onto(np.asarray(update.any(axis=rest, keepdims=True)))]
    return None


def is_closed(op: Op) -> bool:
    """Whether an operation is not understood, as one of other libraries or over devices."""
    return not op.bodies and op.name not in UNDERSTOOD


def updated_axes_of(op: Op) -> list[tuple[int, int]]:
    """Axes of an array that its updates take whole, and those of the updates."""
    whole, update = op.inputs[0].shape, op.inputs[UPDATES[op.name]].shape
    axes = theirs = range(len(whole))
    if op.name != "dynamic_update_slice":
        dims = op.params["dimension_numbers"]
        axes = others(len(whole), *dims.inserted_window_dims, *dims.operand_batching_dims)
        theirs = dims.update_window_dims
    return [(a, b) for a, b in zip(axes, theirs, strict=True) if whole[a] == update[b]]


def lanes_of(op: Op) -> list[tuple[int, int, int]]:
    """Triples of axes of a gather: of the array, of its indices and of the output, [n] each."""
    dims = op.params["dimension_numbers"]
    batch = others(len(op.outputs[0].shape), *dims.offset_dims)
    pairs = zip(dims.operand_batching_dims, dims.start_indices_batching_dims, strict=True)
    return [(axis, along, batch[along]) for axis, along in pairs]


def whole_axes_of(op: Op) -> list[tuple[int, int]]:
    """Axes of an array that a gather takes whole, and those of the output."""
    dims, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    shape = op.inputs[0].shape
    taken = others(len(shape), *dims.collapsed_slice_dims, *dims.operand_batching_dims)
    pairs = zip(taken, dims.offset_dims, strict=True)
    return [(axis, to) for axis, to in pairs if sizes[axis] == shape[axis]]


Onto = Callable[[np.ndarray], np.ndarray]
"""Spreads what is left of an array, with length 1 along some axes, over another array."""


def gathered(op: Op) -> tuple[tuple[int, ...], Onto]:
    """The axes along which a gather takes any positions, and a function that spreads the rest."""
    kept = dict(whole_axes_of(op)) | {axis: to for axis, _, to in lanes_of(op)}
    rest, to = others(len(op.inputs[0].shape), *kept), [kept[axis] for axis in sorted(kept)]
    return rest, lambda part: spread(part.squeeze(rest), to, op.outputs[0].shape)


def updated(op: Op) -> tuple[tuple[int, ...], Onto]:
    """The axes along which updates go anywhere, and a function that spreads the rest."""
    kept = {along: axis for axis, along in updated_axes_of(op)}
    rest = others(len(op.inputs[UPDATES[op.name]].shape), *kept)
    to = [kept[axis] for axis in sorted(kept)]
    return rest, lambda part: spread(part.squeeze(rest), to, op.inputs[0].shape)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the axes of the two factors of a product are.

    Attributes:
      summed: pairs of axes, one of each factor.
      batch: triples of axes: of each factor and of the output.
      free: for each factor, its axes that only the output has, too, and which these are there.
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
    if op.name == "conv_general_dilated":
        dims = op.params["dimension_numbers"]
        a, b, out = dims.lhs_spec, dims.rhs_spec, dims.out_spec
        free = ({a[0]: out[0]}, {b[0]: out[1]})
        return Shape(((a[1], b[1]),), (), free, (tuple(a[2:]), tuple(b[2:]), tuple(out[2:])))
    rows, groups = (), ()
    if op.name == RAGGED:  # rows are sorted by groups: both stay
        numbers = op.params["ragged_dot_dimension_numbers"]
        dims, rows = numbers.dot_dimension_numbers, tuple(numbers.lhs_ragged_dimensions)
        groups = tuple(numbers.rhs_group_dimensions)
    else:
        dims = op.params["dimension_numbers"]
    summed, batch = dims
    if {*rows} & {*summed[0], *batch[0]}:  # groups of what is summed, as in a gradient
        a, b, out = (tuple(range(len(n.shape))) for n in (*op.inputs[:2], *op.outputs))
        return Shape((), (), ({}, {}), (a, b, out))
    to = itertools.count(len(batch[0]))  # the output has the other axes of both after the batch
    taken = ({*summed[0], *batch[0]}, {*summed[1], *batch[1], *groups})
    first, second = (
        {axis: next(to) for axis in range(len(node.shape)) if axis not in gone}
        for node, gone in zip(op.inputs[:2], taken, strict=True)
    )
    pinned = (rows, groups, tuple(first.pop(axis) for axis in rows))
    triples = tuple(zip(*batch, range(len(batch[0])), strict=True))
    return Shape(tuple(zip(*summed, strict=True)), triples, (first, second), pinned)


def others(ndim: int, *axes: int) -> tuple[int, ...]:
    """All axes of an array of that rank but some."""
    return tuple(k for k in range(ndim) if k not in axes)


def spread(part: np.ndarray, to: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """An array whose axes are those of a larger one, in any order, repeated along its others.

    Example:
      >>> spread(np.array([[1, 2, 3], [4, 5, 6]]), [2, 0], (3, 4, 2))[:, 0].tolist()
      [[1, 4], [2, 5], [3, 6]]
    """
    lengths = [n if axis in to else 1 for axis, n in enumerate(shape)]
    return np.broadcast_to(part.transpose(np.argsort(to)).reshape(lengths), shape)


def along(mask: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A mask of the positions of one axis, to be combined with an array of rank `ndim`."""
    return mask.reshape([-1 if k == axis else 1 for k in range(ndim)])


def first_along(array: np.ndarray, axes: Collection[int]) -> np.ndarray:
    """The entries at position 0 of some axes, which stay with length 1."""
    return array[tuple(slice(1) if k in axes else slice(None) for k in range(array.ndim))]
