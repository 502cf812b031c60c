"""Matrix products and convolutions: where a unit stops mattering.

1. A position that is summed over is removable where each product that reaches a kept output is 0
   whatever the input: the incoming weights, or the outgoing ones, are zeros.
2. It is also removable where it is constant, if a bias follows that can absorb the constant.
3. A position that is not summed over is removed only together with the output.
"""

import dataclasses

import numpy as np

from jsparse.export._shrinking.constants import Knowledge, nonzero
from jsparse.export._shrinking.graph import Graph, Node, Op, makers_in, readers_in
from jsparse.export._shrinking.liveness import COUNTS, NEEDS_WHOLE, WHOLE, Reason, Removal, Ties
from jsparse.export._shrinking.operations import (
    STRUCTURAL,
    Shape,
    along,
    bind,
    first_along,
    others,
    rearrange,
    shape_of,
)

GROUPS = "gives each group equally many inputs, so one is removed only if it is dead in all groups"
LINKS = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type", "copy"}
LINKS |= {"copy_p", "name", "sharding_constraint", "reshard", "pvary"}


def tie_product(op: Op, removal: Removal, knowledge: Knowledge, foldable: np.ndarray) -> None:
    """Apply what a product demands.

    Args:
      op: of `PRODUCTS`.
      removal: changed in place.
      knowledge: of all nodes.
      foldable: positions of its only summed axis that may be removed as constants, [n], or [].
    """
    shape = tie_unsummed(op, removal)
    if shape is None:
        return
    if op.extra:
        _narrow_groups(op, removal, knowledge, shape)
        return
    a, b = op.inputs[:2]
    for k, (x, y) in enumerate(shape.summed):
        useless = ~_counts(op, removal, knowledge, shape, k)
        removal.narrow(a, x, useless | foldable)
        removal.tie([(a, x)], [(b, y)])


def tie_unsummed(op: Op, ties: Ties) -> Shape | None:
    """Apply what a product demands of all axes but those that it sums over alone.

    Returns:
      What its axes mean; None where all of them stay whole.
    """
    a, b = op.inputs[:2]
    out = op.outputs[0]
    ties.because(Reason(WHOLE, op, NEEDS_WHOLE))
    if op.params.get("batch_group_count", 1) > 1:
        for node in (a, b, out):
            ties.pin(node)
        return None
    for node in op.inputs[2:]:  # the sizes of groups
        ties.pin(node)
    shape = shape_of(op)
    for node, axes in zip((a, b, out), shape.pinned, strict=True):
        for axis in axes:
            ties.pin(node, axis)
    ties.because(Reason(COUNTS, op))
    for x, y, z in shape.batch:
        ties.tie([(a, x)], [(b, y)], [(out, z)])
    if op.extra:
        _tie_groups(op, ties, shape)
        return shape
    for factor, free in zip((a, b), shape.free, strict=True):
        for axis, to in free.items():
            ties.tie([(factor, axis)], [(out, to)])
    return shape


def _counts(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape, which: int) -> np.ndarray:
    """Which positions of a summed axis reach something that is kept: [n].

    Example: A [3, 3] times B [3, 3], summed over k, * for what may be other than 0. Position 0 of k
    is nowhere in A, and position 2 reaches only output 2, which is removed already:

        A: . * .    B: * * *    kept outputs: 0, 1    counts: k = 1 alone
           . * *       * . .
           . * .       . . *
    """
    pairs = [*shape.summed, *((x, y) for x, y, _ in shape.batch)]
    order = [pairs[which], *(pair for k, pair in enumerate(pairs) if k != which)]
    both = np.ones([op.inputs[0].shape[x] for x, _ in order], bool)
    for side, free in enumerate(shape.free):
        may = nonzero(op.inputs[side], knowledge)
        if may is None:
            continue
        for axis, to in free.items():
            kept = removal.kept(op.outputs[0], to)
            may = may if kept.all() else may & along(kept, axis, may.ndim)
        axes = [pair[side] for pair in order]
        rest = others(may.ndim, *axes)
        both &= may.transpose(*axes, *rest).any(axis=tuple(range(len(axes), may.ndim)))
    for k, (x, _, _) in enumerate(shape.batch, len(shape.summed)):
        both = both & along(removal.kept(op.inputs[0], x), k, both.ndim)
    return np.asarray(both.any(axis=tuple(range(1, both.ndim))))


def _tie_groups(op: Op, ties: Ties, shape: Shape) -> None:
    """A grouped convolution: whole groups are removed, or the same channel of each group.

    The input channels are a grid of groups and inputs of a group; the output channels of groups and
    outputs of a group.
    """
    (a, b), out = op.inputs[:2], op.outputs[0]
    groups, width = op.extra
    ((channel, inner),) = shape.summed
    ((outer, made),) = shape.free[1].items()
    for axis, to in shape.free[0].items():
        ties.tie([(a, axis)], [(out, to)])
    ties.tie([(a, channel)], [(groups, 0), (b, inner)])
    ties.tie([(out, made)], [(b, outer)], [(groups, 0), (width, 0)])


def _narrow_groups(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape) -> None:
    """1. and 3. of the file for the inputs of a group of a convolution: [groups, inner]."""
    a, b = op.inputs[:2]
    groups = op.extra[0]
    ((channel, inner),) = shape.summed
    (outer,) = shape.free[1]
    count, depth = groups.shape[0], b.shape[inner]
    reaches = np.ones((count, depth), bool)
    may = nonzero(a, knowledge)
    if may is not None:
        reaches &= may.any(axis=others(may.ndim, channel)).reshape(count, depth)
    may = nonzero(b, knowledge)
    if may is not None:
        flat = np.moveaxis(may, (outer, inner), (0, 1)).reshape(b.shape[outer], depth, -1)
        kept = removal.kept(b, outer)[:, None]
        reaches &= (flat.any(axis=2) & kept).reshape(count, -1, depth).any(axis=1)
    counts = np.asarray(reaches[removal.kept(groups, 0)])
    if not counts.all(axis=0).all():
        removal.because(Reason(WHOLE, op, GROUPS))
    removal.narrow(b, inner, np.asarray(~counts.any(axis=0)))


@dataclasses.dataclass(frozen=True)
class Sink:
    """A parameter that is added to a product, and so can absorb the output of a constant unit.

    Attributes:
      bias: the parameter.
      sign: of the product against the parameter, where they meet.
      index: which element of the parameter each element of the product meets: [...] as it.
    """

    bias: Node
    sign: int
    index: np.ndarray


def sinks(graph: Graph) -> dict[Op, Sink]:
    """The parameter that absorbs constants, for each top-level product that has one."""
    readers = readers_in(graph.ops)
    makers = makers_in(graph.ops)
    for node in graph.outputs:  # the caller reads them, so nothing may change there
        readers.pop(node, None)
    found = {}
    for op in graph.ops:
        if op.name in ("dot_general", "conv_general_dilated") and not op.extra:
            sink = _sink(op, readers, makers)
            if sink is not None:
                found[op] = sink
    return found


def _sink(op: Op, readers: dict[Node, list[Op]], makers: dict[Node, Op]) -> Sink | None:
    node, sign = op.outputs[0], 1
    while len(readers.get(node, [])) == 1:
        reader = readers[node][0]
        if reader.name not in ("add", "sub") or reader.outputs[0].shape != node.shape:
            return None
        first = reader.inputs[0] is node
        other = reader.inputs[1 if first else 0]
        mine, theirs = (1, 1) if reader.name == "add" else (1, -1) if first else (-1, 1)
        sign *= mine
        chain = _chain(other, readers, makers)
        if chain is not None and other.shape:
            bias, links = chain
            index = np.arange(int(np.prod(bias.shape)), dtype=np.int32).reshape(bias.shape)
            for link in reversed(links):
                if link.name in STRUCTURAL:
                    (index,) = rearrange(link, index)
            return Sink(bias, sign * theirs, np.broadcast_to(index, node.shape))
        node = reader.outputs[0]
    return None


def _chain(
    node: Node, readers: dict[Node, list[Op]], makers: dict[Node, Op]
) -> tuple[Node, list[Op]] | None:
    """The parameter behind a node, up to shape and type, and the operations between."""
    links = []
    while len(readers.get(node, [])) == 1:
        if node.path and node.value is not None:
            return node, links
        maker = makers.get(node)
        if maker is None or maker.name not in LINKS:
            return None
        links.append(maker)
        node = maker.inputs[0]
    return None


def foldable(op: Op, sink: Sink, knowledge: Knowledge) -> np.ndarray:
    """Which positions of the summed axis give the sink's elements a constant each: [n], or [].

    One factor is known and the same along all axes of its own there, the other factor is known.

    Example: x [3, 3] times W [3, 3] plus a bias [3], ? for what depends on the input. Position 1 of
    the summed axis holds the constant 2 in each row of x, so 2 W[1] can move into the bias and the
    position be removed; position 2 holds constants that differ between rows:

        x: ? 2 5    W: a b c    b + 2 (d e f)    foldable: k = 1 alone
           ? 2 6       d e f
           ? 2 7       g h i
    """
    shape = shape_of(op)
    nothing = np.zeros((), bool)
    if len(shape.summed) != 1 or shape.batch or not _even(op):
        return nothing
    for side, free in enumerate(shape.free):
        given, weight = (knowledge.get(op.inputs[k]) for k in (side, 1 - side))
        if given is None or weight is None or weight.unknown.any():
            continue
        # each element of the bias meets one output feature, wherever that is
        head = first_along(sink.index, {*free.values(), *(() if side else shape.pinned[2])})
        if not (sink.index == head).all() or len(np.unique(head)) != head.size:
            continue
        if op.name != "dot_general" and side == 1:
            continue
        rest = others(given.value.ndim, shape.summed[0][side])
        same = (given.value == first_along(given.value, rest)).all(axis=rest)
        return same & ~given.unknown.any(axis=rest)
    return nothing


def _even(op: Op) -> bool:
    """Whether all outputs see the same window: no padding, nothing dilated in between."""
    if op.name == "dot_general":
        return True
    return all(p == (0, 0) for p in op.params["padding"]) and all(
        d == 1 for d in op.params["lhs_dilation"]
    )


def taken_up(
    op: Op, sink: Sink, removal: Removal, knowledge: Knowledge, foldable: np.ndarray
) -> np.ndarray:
    """What removed foldable units gave to the sink's parameter: [...] like the parameter."""
    shape = shape_of(op)
    factors = []
    for side in (0, 1):
        known = knowledge.get(op.inputs[side])
        axis = shape.summed[0][side]
        if known is None:
            return np.zeros(sink.bias.shape, sink.bias.dtype)
        goes = removal.removed(op.inputs[side], axis) & foldable
        goes = along(goes, axis, known.value.ndim)
        factors.append(np.where(goes, known.value, np.zeros((), known.value.dtype)))
    (given,) = bind(op, *factors)
    total = np.zeros(int(np.prod(sink.bias.shape)), given.dtype)
    total[sink.index.ravel()] = given.ravel()
    return sink.sign * total.reshape(sink.bias.shape)
