"""How each operation ties the axes of its inputs and outputs (see `Removal`)."""

import numpy as np

from jsparse.export._shrinking.constants import ELEMENTWISE, REDUCTIONS
from jsparse.export._shrinking.graph import Op
from jsparse.export._shrinking.liveness import Removal

CUMULATIVE = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
WINDOWS = {"reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"}


def tie(op: Op, removal: Removal) -> None:
    """Apply what one operation demands; products have their own file.

    An operation that is not understood keeps all that it touches.
    """
    match op.name:
        case name if name in ELEMENTWISE:
            _elementwise(op, removal)
        case "optimization_barrier" | "layout_constraint":
            for a, b in zip(op.inputs, op.outputs, strict=True):
                removal.tie_all(a, b)
        case name if name in REDUCTIONS:
            for axis in op.params["axes"]:
                removal.pin(op.inputs[0], int(axis))
            rest = [a for a in range(len(op.inputs[0].shape)) if a not in op.params["axes"]]
            _map_axes(op, removal, rest)
        case "transpose":
            _map_axes(op, removal, op.params["permutation"])
        case "squeeze":
            gone = [d % len(op.inputs[0].shape) for d in op.params["dimensions"]]
            _map_axes(op, removal, [a for a in range(len(op.inputs[0].shape)) if a not in gone])
        case "broadcast_in_dim":
            _broadcast(op, removal)
        case "reshape":
            _reshape(op, removal)
        case "concatenate" | "split":
            _pieces(op, removal)
        case "unstack":
            _unstack(op, removal)
        case "slice" | "pad":
            _windowed(op, removal)
        case "rev":
            _reverse(op, removal)
        case "gather":
            _gather(op, removal)
        case "dynamic_slice":
            _taken(op, removal)
        case "iota":
            removal.pin(op.outputs[0], op.params["dimension"])
        case name if name in CUMULATIVE:
            removal.tie_all(op.inputs[0], op.outputs[0])
            removal.pin(op.inputs[0], op.params["axis"])
        case name if name in WINDOWS:
            _pool(op, removal)
        case "scan":
            _scan(op, removal)
        case _:
            for node in [*op.inputs, *op.outputs]:
                removal.pin(node)


def _map_axes(op: Op, removal: Removal, axes: list[int] | tuple[int, ...]) -> None:
    """Tie output axis n to input axis axes[n]."""
    for n, axis in enumerate(axes):
        removal.tie([(op.inputs[0], int(axis))], [(op.outputs[0], n)])


def _elementwise(op: Op, removal: Removal) -> None:
    out = op.outputs[0]
    for node in op.inputs:
        if node.shape == out.shape:
            removal.tie_all(out, node)
        elif len(node.shape) == len(out.shape):  # 1 against n
            for axis, (a, b) in enumerate(zip(node.shape, out.shape, strict=True)):
                if a == b:
                    removal.tie([(out, axis)], [(node, axis)])
        elif node.shape:
            removal.pin(node)
            removal.pin(out)


def _broadcast(op: Op, removal: Removal) -> None:
    node, out = op.inputs[0], op.outputs[0]
    for axis, to in enumerate(op.params["broadcast_dimensions"]):
        if node.shape[axis] == out.shape[to]:
            removal.tie([(node, axis)], [(out, int(to))])


def _reshape(op: Op, removal: Removal) -> None:
    node, out = op.inputs[0], op.outputs[0]
    if op.params.get("dimensions") is not None or 0 in node.shape:
        removal.pin(node)
        removal.pin(out)
        return
    for old, new in joined_axes(node.shape, out.shape):
        if old and new:
            removal.tie([(node, a) for a in old], [(out, a) for a in new])


def joined_axes(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Which runs of axes a reshape turns into which, each of as many positions as the other.

    Axes of length 1 carry no position and are left out.

    Example:
      >>> joined_axes((8, 2, 3, 5), (8, 6, 5))
      [([0], [0]), ([1, 2], [1]), ([3], [2])]
    """
    a = [n for n, size in enumerate(old) if size > 1]
    b = [n for n, size in enumerate(new) if size > 1]
    runs = []
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        while (
            sizes := (int(np.prod([old[n] for n in left])), int(np.prod([new[n] for n in right])))
        ) and sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                left.append(a.pop(0))
            else:
                right.append(b.pop(0))
        runs.append((left, right))
    return runs


def _pieces(op: Op, removal: Removal) -> None:
    """A concatenation, or its reverse: the pieces follow one another along an axis."""
    if op.name == "concatenate":
        whole, pieces, along = op.outputs[0], op.inputs, op.params["dimension"]
    else:
        whole, pieces, along = op.inputs[0], op.outputs, op.params["axis"]
    start = 0
    for piece in pieces:
        for axis in range(len(whole.shape)):
            if axis != along:
                removal.tie([(whole, axis)], [(piece, axis)])
        removal.tie_part((whole, along), start, (piece, along))
        start += piece.shape[along]


def _unstack(op: Op, removal: Removal) -> None:
    """The slices along an axis."""
    node, along = op.inputs[0], op.params["axis"]
    removal.pin(node, along)
    for piece in op.outputs:
        for axis in range(len(piece.shape)):
            removal.tie([(node, axis + (axis >= along))], [(piece, axis)])


def _windowed(op: Op, removal: Removal) -> None:
    """A slice or padding: the smaller array is a window of the larger one, along each axis."""
    node, out = op.inputs[0], op.outputs[0]
    if op.name == "slice":
        whole, part, starts = node, out, op.params["start_indices"]
        plain = [s == 1 for s in op.params["strides"] or [1] * len(starts)]
    else:
        whole, part = out, node
        config = op.params["padding_config"]
        starts = [low for low, _, _ in config]
        plain = [low >= 0 and high >= 0 and inner == 0 for low, high, inner in config]
    for axis, start in enumerate(starts):
        if not plain[axis]:
            removal.pin(node, axis)
            removal.pin(out, axis)
            continue
        removal.tie_part((whole, axis), int(start), (part, axis))
        if op.name == "pad":  # the program pads by a fixed number
            inside = np.zeros(whole.shape[axis], bool)
            inside[int(start) : int(start) + part.shape[axis]] = True
            removal.narrow(whole, axis, inside)


def _reverse(op: Op, removal: Removal) -> None:
    node, out = op.inputs[0], op.outputs[0]
    for axis in range(len(node.shape)):
        if axis in op.params["dimensions"]:
            removal.narrow(out, axis, removal.goes(node, axis)[::-1])
            removal.narrow(node, axis, removal.goes(out, axis)[::-1])
            removal.join((node, axis), (out, axis))
        else:
            removal.tie([(node, axis)], [(out, axis)])


def _gather(op: Op, removal: Removal) -> None:
    """Axes that are taken whole, as the columns of an embedding, keep their positions."""
    node, indices = op.inputs
    out = op.outputs[0]
    dims, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    removal.pin(indices)
    dropped = {*dims.collapsed_slice_dims, *getattr(dims, "operand_batching_dims", ())}
    taken = [a for a in range(len(node.shape)) if a not in dropped]
    for axis in range(len(node.shape)):
        if axis in dropped or sizes[axis] != node.shape[axis]:
            removal.pin(node, axis)
    for axis in range(len(out.shape)):
        if axis not in dims.offset_dims:
            removal.pin(out, axis)
    for axis, to in zip(taken, dims.offset_dims, strict=True):
        if sizes[axis] == node.shape[axis]:
            removal.tie([(node, axis)], [(out, to)])
        else:
            removal.pin(out, to)


def _taken(op: Op, removal: Removal) -> None:
    """A slice at a place that may depend on the input: axes that are taken whole are the same."""
    node, out = op.inputs[0], op.outputs[0]
    for axis, (a, b) in enumerate(zip(node.shape, out.shape, strict=True)):
        if a == b:
            removal.tie([(node, axis)], [(out, axis)])
        else:
            removal.pin(node, axis)
            removal.pin(out, axis)


def _pool(op: Op, removal: Removal) -> None:
    node, out = op.inputs[0], op.outputs[0]
    settings = [op.params[k] for k in ("window_dimensions", "window_strides", "base_dilation")]
    for axis, (low, high) in enumerate(op.params["padding"]):
        if all(s[axis] == 1 for s in settings) and low == high == 0:
            removal.tie([(node, axis)], [(out, axis)])
        else:
            removal.pin(node, axis)
            removal.pin(out, axis)


def _scan(op: Op, removal: Removal) -> None:
    """Body and surroundings: constants and carries are the same arrays, slices lack an axis."""
    assert op.body is not None
    consts, carries = op.body.consts, op.body.carries
    same = list(zip(op.inputs, op.body.inputs, strict=True))[: consts + carries]
    same += list(zip(op.outputs, op.body.outputs, strict=True))[:carries]
    same += list(zip(op.body.inputs[consts:], op.body.outputs[:carries], strict=False))
    for a, b in same:
        removal.tie_all(a, b)
    stacked = list(zip(op.inputs, op.body.inputs, strict=True))[consts + carries :]
    stacked += list(zip(op.outputs, op.body.outputs, strict=True))[carries:]
    for outer, inner in stacked:
        removal.pin(outer, 0)
        for axis in range(len(inner.shape)):
            removal.tie([(outer, axis + 1)], [(inner, axis)])
