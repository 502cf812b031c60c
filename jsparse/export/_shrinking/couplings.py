"""How operations couple the axes of their inputs and outputs (see `Ties`), and what stays whole."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import ENDS, WHOLE, Reason, Ties
from jsparse.export._shrinking.operations import (
    CUMULATIVE,
    ELEMENTWISE,
    REDUCTIONS,
    UPDATES,
    WINDOWS,
    lanes_of,
    others,
    updated_axes_of,
    whole_axes_of,
)

Spare = Callable[[Op, Node, int], np.ndarray]
"""Which positions of an axis an operation that joins them can do without: [n]."""
UNREAD = (
    "computes what nothing in the call reads, though another method may; remove it from the call "
    "if none does"
)


def tie(op: Op, ties: Ties, spare: Spare) -> None:
    """Apply what one operation demands; products have their own file.

    The inputs and outputs of an operation that is not understood stay whole.
    """
    if op.bodies:
        _bodies(op, ties)
        return
    match op.name:
        case name if name in ELEMENTWISE:
            _elementwise(op, ties)
        case "optimization_barrier" | "layout_constraint":
            for a, b in zip(op.inputs, op.outputs, strict=True):
                ties.tie_all(a, b)
        case "broadcast_in_dim":
            node, out = op.inputs[0], op.outputs[0]
            for axis, to in enumerate(op.params["broadcast_dimensions"]):
                if node.shape[axis] == out.shape[to]:
                    ties.tie([(node, axis)], [(out, int(to))])
        case "reshape":
            _reshape(op, ties)
        case "concatenate" | "split":
            _pieces(op, ties)
        case "slice" | "pad":
            _windowed(op, ties)
        case "rev":
            node, out = op.inputs[0], op.outputs[0]
            for axis, length in enumerate(node.shape):
                at = np.arange(length)[:: -1 if axis in op.params["dimensions"] else 1]
                ties.tie_at((node, axis), at, (out, axis))
        case "tile":  # a position is removed from all copies or from none
            node, out = op.inputs[0], op.outputs[0]
            for axis, length in enumerate(node.shape):
                ties.tie_at((node, axis), np.arange(out.shape[axis]) % length, (out, axis))
        case "iota":
            ties.pin(op.outputs[0], op.params["dimension"])
        case _:
            _in_lanes(op, ties, spare)


def _in_lanes(op: Op, ties: Ties, spare: Spare) -> None:
    """Tie the axes along which the operation does the same at each position; keep all others.

    Of an axis that is reduced, positions go that change nothing: zeros of a sum.
    """
    if op.name in UPDATES:
        whole, update, out = op.inputs[0], op.inputs[UPDATES[op.name]], op.outputs[0]
        groups = [[(whole, a), (update, b), (out, a)] for a, b in updated_axes_of(op)]
    elif op.name == "sort":
        nodes = [*op.inputs, *op.outputs]
        axes = others(len(nodes[0].shape), op.params["dimension"])
        groups = [[(node, axis) for node in nodes] for axis in axes]
    elif op.name == "stack":
        (out,), before = op.outputs, op.params["axis"]
        axes = range(len(out.shape) - 1)
        groups = [[(out, a + (a >= before)), *((n, a) for n in op.inputs)] for a in axes]
    elif op.name == "gather":  # axes that are taken whole, as the columns of an embedding
        node, indices, out = *op.inputs, op.outputs[0]
        groups = [[(node, axis), (out, to)] for axis, to in whole_axes_of(op)]
        groups += [[(node, a), (indices, b), (out, c)] for a, b, c in lanes_of(op)]
    else:
        pairs = same_axes(op) if op.inputs else []
        groups = [[(op.inputs[0], a), *((out, to) for out in op.outputs)] for a, to in pairs]
    for group in groups:
        ties.tie(*([axis] for axis in group))
    tied = [axis for group in groups for axis in group]
    for node in [*op.inputs, *op.outputs]:
        for axis in range(len(node.shape)):
            if (node, axis) not in tied:
                ties.narrow(node, axis, spare(op, node, axis))


def same_axes(op: Op) -> list[tuple[int, int]]:
    """Axes of the first input with the same positions as axes of the output, in pairs.

    All other axes of the operation stay whole.
    """
    node, out, params = op.inputs[0], op.outputs[0], op.params
    rank = len(node.shape)
    axes = range(rank)
    numbered = lambda left: [(a, n) for n, a in enumerate(left)]
    match op.name:
        case "transpose":
            return numbered(map(int, params["permutation"]))
        case "squeeze":
            return numbered(others(rank, *(a % rank for a in params["dimensions"])))
        case name if name in REDUCTIONS:
            return numbered(others(rank, *params["axes"]))
        case "unstack":
            return numbered(others(rank, params["axis"]))
        case name if name in CUMULATIVE | {"top_k"}:
            return [(a, a) for a in others(rank, params.get("axis", -1) % rank)]
        case "fft":
            return [(a, a) for a in axes[: -len(params["fft_lengths"])]]
        case "dynamic_slice":  # at a place that may depend on the input
            return [(a, a) for a in axes if node.shape[a] == out.shape[a]]
        case name if name in WINDOWS | {"reduce_window_min", "reduce_window"}:
            sizes = [params[k] for k in ("window_dimensions", "window_strides", "base_dilation")]
            plain = [all(s[a] == 1 for s in sizes) and not any(params["padding"][a]) for a in axes]
            return [(a, a) for a in axes if plain[a]]
    return []


def _elementwise(op: Op, ties: Ties) -> None:
    out = op.outputs[0]
    for node in op.inputs:
        if len(node.shape) == len(out.shape):
            for axis, (a, b) in enumerate(zip(node.shape, out.shape, strict=True)):
                if a == b:  # else 1 against n
                    ties.tie([(out, axis)], [(node, axis)])
        elif node.shape:
            ties.pin(node)
            ties.pin(out)


def _reshape(op: Op, ties: Ties) -> None:
    node, out = op.inputs[0], op.outputs[0]
    if 0 in node.shape:
        ties.pin(node)
        ties.pin(out)
        return
    for old, new in joined_axes(node.shape, out.shape):
        ties.tie([(node, a) for a in old], [(out, a) for a in new])


def joined_axes(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Which runs of axes a reshape turns into which, each of as many positions as the other.

    Axes of length 1 carry no position and are left out.

    Example:
      >>> joined_axes((8, 2, 3, 5), (8, 6, 5))
      [([0], [0]), ([1, 2], [1]), ([3], [2])]
    """
    a = [n for n, size in enumerate(old) if size > 1]
    b = [n for n, size in enumerate(new) if size > 1]
    size = lambda shape, axes: math.prod(shape[n] for n in axes)
    runs = []
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        while (before := size(old, left)) != (after := size(new, right)):
            shorter, rest = (left, a) if before < after else (right, b)
            shorter.append(rest.pop(0))
        runs.append((left, right))
    return runs


def _pieces(op: Op, ties: Ties) -> None:
    """A concatenation, or its reverse: the pieces follow one another along an axis."""
    if op.name == "concatenate":
        whole, pieces, along = op.outputs[0], op.inputs, op.params["dimension"]
    else:
        whole, pieces, along = op.inputs[0], op.outputs, op.params["axis"]
    start = 0
    for piece in pieces:
        for axis in range(len(whole.shape)):
            if axis != along:
                ties.tie([(whole, axis)], [(piece, axis)])
        end = start + piece.shape[along]
        ties.tie_at((whole, along), np.arange(start, end), (piece, along))
        start = end


def _windowed(op: Op, ties: Ties) -> None:
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
            ties.pin(node, axis)
            ties.pin(out, axis)
            continue
        inside = np.arange(start, start + part.shape[axis])
        ties.tie_at((whole, axis), inside, (part, axis))
        if op.name == "pad":  # the program pads by a fixed number
            ties.narrow(whole, axis, np.isin(np.arange(whole.shape[axis]), inside))


def _bodies(op: Op, ties: Ties) -> None:
    """Loops and branches: the same arrays inside and outside, or slices, which lack an axis."""
    for body in op.bodies:
        for a, b in body.same(op):
            ties.tie_all(a, b)
        for outer, inner in body.slices(op):
            ties.pin(outer, 0)
            for axis in range(len(inner.shape)):
                ties.tie([(outer, axis + 1)], [(inner, axis)])


def pin_ends(graph: Graph, fixed: Iterable[tuple[str, int, str]], ties: Ties) -> None:
    """Keep what is not an axis of weights, or may mean something else in other calls.

    `fixed`: the paths and axes of weights that are kept whole, and why.
    """
    for node in graph.nodes():
        if node in graph.variables:
            if node.value is None or node not in graph.readers:
                why = "is not a weight: calls write it, or it is in no nnx.Variable of the model"
                ties.because(Reason(WHOLE, None, f"{node.path} {why}"))
                ties.pin(node)
        elif node.value is not None and node.shape:
            op = next(iter(graph.readers.get(node, [])), None)
            ties.because(Reason(WHOLE, op, f"reads a constant array of shape {node.shape}"))
            for axis in range(len(node.shape)):
                first = node.value.take([0], axis) if node.shape[axis] else node.value
                if not (node.value == first).all():  # else the code may follow the width
                    ties.pin(node, axis)
    ties.because(Reason(ENDS))
    for node in graph.inputs:
        ties.pin(node)
    ties.because(Reason(ENDS, None, "the model returns them"))
    for node in graph.outputs:
        ties.pin(node)
    for node in graph.unread:
        ties.because(Reason(WHOLE, graph.makers[node], UNREAD))
        ties.pin(node)
    variables = {node.path: node for node in graph.variables}
    for path, axis, why in fixed:
        if (node := variables.get(path)) is not None:
            ties.because(Reason(WHOLE, None, why))
            ties.pin(node, axis % len(node.shape))
    ties.because(Reason(WHOLE, None, "longer inputs may read more of it"))
    for node, seen in graph.partly_read().items():
        for axis, mask in enumerate(seen):
            ties.narrow(node, axis, mask)
