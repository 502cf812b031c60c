"""Which elements of a computation are the same for every input: constants, mostly zeros.

Each array has, per element, a value and whether that value is unknown (it depends on the input). An
unknown element times a known zero is a known zero, so the output of a filter without weights is
known, and so are its bias, normalisation and activation.
"""

import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.products import shape_of

ELEMENTWISE = {
    "add", "sub", "mul", "div", "rem", "max", "min", "pow", "integer_pow", "neg", "exp", "exp2",
    "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "sinh", "cosh", "asin",
    "acos", "atan", "atan2", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "rsqrt", "sqrt",
    "square", "cbrt", "abs", "sign", "floor", "ceil", "round", "is_finite", "eq", "ne", "lt", "le",
    "gt", "ge", "and", "or", "not", "xor", "select_n", "convert_element_type", "stop_gradient",
    "copy", "copy_p", "clamp", "nextafter", "reduce_precision", "add_any", "pvary", "real", "imag",
    "sharding_constraint", "reshard", "name", "shift_left", "lgamma", "digamma",
}  # fmt: skip
STRUCTURAL = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "split",
    "concatenate", "unstack", "layout_constraint",
}  # fmt: skip
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}
REDUCTIONS |= {"argmax", "argmin"}
# the most common ones by NumPy: compiling each for each shape takes longer than all the rest
NUMPY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
NUMPY |= {"max": np.maximum, "min": np.minimum, "neg": np.negative, "sqrt": np.sqrt}
WINDOWS = {"reduce_window_sum", "reduce_window_max"}
PRODUCTS = {"dot_general", "conv_general_dilated"}
PASSES = 20  # of a scan's body until what its carry holds is settled


class Known(NamedTuple):
    """Values, 0 where unknown, and where they are unknown: both [...] as the array."""

    value: np.ndarray
    unknown: np.ndarray


Knowledge = dict[Node, Known | None]  # None: nothing is known
Seen = dict[Node, list[np.ndarray]]  # see Graph.partly_read


def know(graph: Graph, alive: Collection[str] = ()) -> Knowledge:
    """What is known of each node for all inputs, as long as they are finite.

    Nothing is known of the variables with the paths `alive`.
    """
    found: Knowledge = {node: None for node in graph.variables if node.path in alive}
    _evaluate_all(graph.ops, found, graph.partly_read())
    return found | {n: _of(n, found) for n in graph.variables}


def _partly(value: np.ndarray, unknown: np.ndarray) -> Known | None:
    """What is known of an array with such values where it is not unknown; None for nothing."""
    if unknown.all():
        return None
    return Known(np.where(unknown, np.zeros((), value.dtype), value), unknown)


def _whatever_is_read(known: Known, seen: list[np.ndarray]) -> Known | None:
    """Known only where the positions that these inputs do not reach have the same value."""
    unknown = known.unknown
    for axis, mask in enumerate(seen):
        if not mask.all():
            first = known.value.take([0], axis=axis)
            unknown = unknown | (known.value != first).any(axis=axis, keepdims=True)
    return _partly(known.value, unknown)


def nonzero(node: Node, knowledge: Knowledge) -> np.ndarray | None:
    """Where a node may be other than 0, [...] as the node; None for everywhere."""
    known = _of(node, knowledge)
    return None if known is None else known.unknown | (known.value != 0)


def _of(node: Node, knowledge: Knowledge) -> Known | None:
    if node not in knowledge and node.value is not None:
        knowledge[node] = Known(node.value, np.zeros(node.shape, bool))
    return knowledge.get(node)


def _evaluate_all(ops: Iterable[Op], knowledge: Knowledge, partly: Seen) -> None:
    for op in ops:
        args = [_of(node, knowledge) for node in op.inputs]
        if args and args[0] is not None and op.inputs[0] in partly:
            args[0] = _whatever_is_read(args[0], partly[op.inputs[0]])
        try:
            made = _scan(op, args, knowledge, partly) if op.body else _evaluate(op, args)
        except (TypeError, ValueError, NotImplementedError):
            made = [None] * len(op.outputs)  # some do not run on their own, as on a mesh
        knowledge.update(zip(op.outputs, made, strict=True))


def rearrange(op: Op, *values: np.ndarray) -> list[np.ndarray]:
    """The result of an operation of `STRUCTURAL` on arrays of any type."""
    value, out, params = values[0], op.outputs[0].shape, op.params
    match op.name:
        case "transpose":
            return [value.transpose(params["permutation"])]
        case "broadcast_in_dim":
            spread = [1] * len(out)
            for axis, to in enumerate(params["broadcast_dimensions"]):
                spread[to] = value.shape[axis]
            return [np.broadcast_to(value.reshape(spread), out)]
        case "slice":
            steps = params["strides"] or [1] * value.ndim
            limits = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
            return [value[tuple(slice(int(a), int(b), int(s)) for a, b, s in limits)]]
        case "rev":
            return [np.flip(value, tuple(map(int, params["dimensions"])))]
        case "concatenate":
            return [np.concatenate(values, axis=params["dimension"])]
        case "unstack":
            return [part.reshape(out) for part in np.split(value, len(op.outputs), params["axis"])]
        case "split":
            return np.split(value, np.cumsum(params["sizes"])[:-1], axis=params["axis"])
        case _:  # reshape, squeeze, expand_dims, layout_constraint
            first = params.get("dimensions") if op.name == "reshape" else None
            return [(value if first is None else value.transpose(first)).reshape(out)]


def bind(op: Op, *values: Any, **params: Any) -> list[np.ndarray]:
    """Run the primitive of an operation, with some settings replaced."""
    if op.name in STRUCTURAL:
        return rearrange(op, *values)
    if op.name in NUMPY:
        with np.errstate(all="ignore"):
            return [np.asarray(NUMPY[op.name](*values))]
    out = op.primitive.bind(*values, **(op.params | params))
    return [np.asarray(o) for o in (out if op.primitive.multiple_results else [out])]


def _evaluate(op: Op, args: list[Known | None]) -> list[Known | None]:
    nothing: list[Known | None] = [None] * len(op.outputs)
    if op.name.startswith("random_") or (args and all(a is None for a in args)):
        return nothing
    if all(a is not None and not a.unknown.any() for a in args):
        made = bind(op, *(a.value for a in args if a is not None))
        return [Known(m, np.zeros(m.shape, bool)) for m in made]
    if op.name == "gather" and (args[1] is None or args[1].unknown.any()):
        return [_gather(op, args[0])]
    unknown = _unknown(op, args)
    if unknown is None or all(u.all() for u in unknown):
        return nothing
    values = [
        np.zeros(n.shape, n.dtype) if a is None else a.value
        for n, a in zip(op.inputs, args, strict=True)
    ]
    with np.errstate(all="ignore"):
        made = bind(op, *values)
    return [_partly(m, u) for m, u in zip(made, unknown, strict=True)]


def _unknown(op: Op, args: list[Known | None]) -> list[np.ndarray] | None:
    """Where each output is unknown; None if this operation is not understood.

    A product is unknown where an unknown element meets one that may be other than 0; so it is
    enough to multiply masks, and to count. Example, x [3, 3] times W [3, 3], ? for unknown:

        x: ? 2 0    W: 1 0 0    x W: ? 6 0    x[0, 0] and x[1, 0] reach output 0 alone, x[2, 2]
           ? 2 0       0 3 0         ? 6 0    meets zeros only, and output 2 has no weights.
           0 2 ?       0 0 0         0 6 0
    """
    masks = [
        np.ones(n.shape, bool) if a is None else a.unknown
        for n, a in zip(op.inputs, args, strict=True)
    ]
    if op.name in PRODUCTS and any(a is None for a in args):
        return _empty(op, args)
    if op.name == "mul" or op.name in PRODUCTS:
        may = [
            np.ones(n.shape, bool) if a is None else a.unknown | (a.value != 0)
            for n, a in zip(op.inputs, args, strict=True)
        ]
        if op.name == "mul":
            return [(masks[0] & may[1]) | (may[0] & masks[1])]
        count = lambda a, b: bind(
            op,
            a.astype(np.float32),
            b.astype(np.float32),
            preferred_element_type=None,
            precision=None,
        )[0]
        return [(count(masks[0], may[1]) + count(may[0], masks[1])) > 0]
    if op.name in ("dynamic_slice", "gather"):
        starts = [a.value for a in args[1:] if a is not None and not a.unknown.any()]
        whole = len(starts) == len(args) - 1
        return [m > 0 for m in bind(op, masks[0].astype(np.float32), *starts)] if whole else None
    return touched(op, masks)


def touched(op: Op, masks: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Where each output depends on marked entries: [...] like the output.

    Args:
      op: not a product; for products it depends on zeros.
      masks: the marks of each input, [...] like the input.

    Returns:
      A mask for each output; None if this operation is not understood.
    """
    if op.name in ELEMENTWISE:
        return [functools.reduce(np.logical_or, masks, np.zeros(op.outputs[0].shape, bool))]
    if op.name in STRUCTURAL:
        return rearrange(op, *masks)
    if op.name in WINDOWS | {"pad"}:
        return [m > 0 for m in bind(op, *(mask.astype(np.float32) for mask in masks))]
    if op.name in REDUCTIONS:
        return [np.asarray(masks[0].any(axis=tuple(op.params["axes"])))]
    return None


def _empty(op: Op, args: list[Known | None]) -> list[np.ndarray] | None:
    """Unknown outputs of a product with an unknown factor: all but those of empty features."""
    side = 0 if args[1] is None else 1
    known = args[side]
    if known is None:
        return None
    free = shape_of(op).to_output(side)
    rest = tuple(axis for axis in range(known.value.ndim) if axis not in free)
    some = (known.unknown | (known.value != 0)).any(axis=rest)
    if some.all():
        return None
    out = op.outputs[0].shape
    to = [free[axis] for axis in sorted(free)]
    spread = [n if axis in to else 1 for axis, n in enumerate(out)]
    return [np.broadcast_to(some.transpose(np.argsort(to)).reshape(spread), out)]


def _gather(op: Op, rows: Known | None) -> Known | None:
    """Rows at unknown positions: what all rows have in common, such as columns of an embedding.

    Only for whole rows: one axis is indexed, and every other axis is taken whole.
    """
    sizes, dims = op.params["slice_sizes"], op.params["dimension_numbers"]
    taken = [axis for axis, n in enumerate(op.inputs[0].shape) if sizes[axis] != n]
    if rows is None or tuple(dims.collapsed_slice_dims) != tuple(taken) or len(taken) != 1:
        return None
    out = op.outputs[0].shape
    spread = [n if axis in dims.offset_dims else 1 for axis, n in enumerate(out)]
    row = _common(rows, taken[0])
    return row and Known(*(np.broadcast_to(part.reshape(spread), out) for part in row))


def _scan(
    op: Op, args: list[Known | None], knowledge: Knowledge, partly: Seen
) -> list[Known | None]:
    assert op.body is not None
    consts, carries = op.body.consts, op.body.carries
    carry, made = args[consts : consts + carries], []
    slices = [_common(a) for a in args[consts + carries :]]
    for attempt in range(PASSES + 1):
        given = [*args[:consts], *carry, *slices]
        knowledge.update(zip(op.body.inputs, given, strict=True))
        _evaluate_all(op.body.ops, knowledge, partly)
        made = [_of(node, knowledge) for node in op.body.outputs]
        joined = [_join(a, b) for a, b in zip(carry, made[:carries], strict=True)]
        if all(_same(a, b) for a, b in zip(carry, joined, strict=True)):
            break
        carry = joined if attempt < PASSES - 1 else [None] * carries
    length = op.params["length"]
    stacked = [
        k and Known(*(np.broadcast_to(part, (length, *part.shape)) for part in k))
        for k in made[carries:]
    ]
    return [*carry, *stacked]


def _common(stack: Known | None, axis: int = 0) -> Known | None:
    """What the slices along an axis have in common."""
    if stack is None or stack.value.shape[axis] == 0:
        return None
    first = stack.value.take(0, axis=axis)
    differ = (stack.value != np.expand_dims(first, axis)).any(axis=axis)
    return _partly(first, stack.unknown.any(axis=axis) | differ)


def _join(a: Known | None, b: Known | None) -> Known | None:
    if a is None or b is None:
        return None
    return _partly(a.value, a.unknown | b.unknown | (a.value != b.value))


def _same(a: Known | None, b: Known | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool((a.unknown == b.unknown).all())
