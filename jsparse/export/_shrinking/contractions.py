"""Matrix products and convolutions: where a unit stops to matter.

1. What is summed over goes where each product that reaches something kept is 0 whatever the input:
   the incoming weights, or the outgoing ones, are zeros.
2. It may also go where it is a constant, if a bias follows that takes the constant up.
3. What is not summed over only goes along with the output.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jsparse.export._shrinking.constants import STRUCTURAL, Knowledge, bind, nonzero, rearrange
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Removal

LINKS = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type", "copy"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Which axes of a product's two factors are what.

    Attributes:
      summed: pairs of axes, one of each factor.
      batch: triples of axes: of each factor and of the output.
      left: axes of the first factor that the output has, and which.
      right: axes of the second factor that the output has, and which.
      pinned: axes that stay, of each factor and of the output.
    """

    summed: tuple[tuple[int, int], ...]
    batch: tuple[tuple[int, int, int], ...]
    left: Mapping[int, int]
    right: Mapping[int, int]
    pinned: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def shape_of(op: Op) -> Shape:
    """What the axes of a dot_general or an ungrouped convolution mean."""
    if op.name == "dot_general":
        (sum_a, sum_b), (batch_a, batch_b) = op.params["dimension_numbers"]
        left = [a for a in range(len(op.inputs[0].shape)) if a not in (*sum_a, *batch_a)]
        right = [b for b in range(len(op.inputs[1].shape)) if b not in (*sum_b, *batch_b)]
        n, m = len(batch_a), len(left)
        return Shape(
            summed=tuple(zip(map(int, sum_a), map(int, sum_b), strict=True)),
            batch=tuple(zip(map(int, batch_a), map(int, batch_b), range(n), strict=True)),
            left={a: n + k for k, a in enumerate(left)},
            right={b: n + m + k for k, b in enumerate(right)},
            pinned=((), (), ()),
        )
    dims = op.params["dimension_numbers"]
    a, b, out = dims.lhs_spec, dims.rhs_spec, dims.out_spec
    return Shape(
        summed=((a[1], b[1]),),
        batch=(),
        left={a[0]: out[0]},
        right={b[0]: out[1]},
        pinned=(tuple(a[2:]), tuple(b[2:]), tuple(out[2:])),
    )


def tie_product(op: Op, removal: Removal, knowledge: Knowledge, foldable: np.ndarray) -> None:
    """Apply what a product demands.

    Args:
      op: dot_general or conv_general_dilated.
      removal: changed in place.
      knowledge: of all nodes.
      foldable: positions of its only summed axis that may go as constants, [n], or [].
    """
    a, b = op.inputs[:2]
    out = op.outputs[0]
    if op.params.get("batch_group_count", 1) > 1:
        for node in (a, b, out):
            removal.pin(node)
        return
    shape = shape_of(op)
    for node, axes in zip((a, b, out), shape.pinned, strict=True):
        for axis in axes:
            removal.pin(node, axis)
    for x, y, z in shape.batch:
        removal.tie([(a, x)], [(b, y)], [(out, z)])
    if op.extra:
        _tie_groups(op, removal, knowledge, shape)
        return
    for factor, free in ((a, shape.left), (b, shape.right)):
        for axis, to in free.items():
            removal.tie([(factor, axis)], [(out, to)])
    for k, (x, y) in enumerate(shape.summed):
        useless = ~_counts(op, removal, knowledge, shape, k)
        if foldable.ndim:
            useless |= foldable
        removal.narrow(a, x, useless)
        removal.tie([(a, x)], [(b, y)])


def _counts(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape, which: int) -> np.ndarray:
    """Which positions of a summed axis reach something that is kept: [n]."""
    shared = [*shape.summed, *((x, y) for x, y, _ in shape.batch)]
    order = [shared[which], *(pair for k, pair in enumerate(shared) if k != which)]
    parts = []
    for side, free in enumerate((shape.left, shape.right)):
        node = op.inputs[side]
        may = nonzero(node, knowledge)
        if may is None:
            continue
        for axis, to in free.items():
            kept = removal.stays(op.outputs[0], to)
            if not kept.all():
                may = may & kept.reshape([-1 if k == axis else 1 for k in range(may.ndim)])
        axes = [pair[side] for pair in order]
        rest = tuple(k for k in range(may.ndim) if k not in axes)
        mine = np.transpose(may.any(axis=rest, keepdims=True), (*axes, *rest))
        parts.append(mine.reshape(mine.shape[: len(axes)]))
    sizes = [op.inputs[0].shape[pair[0]] for pair in order]
    both = np.ones(sizes, bool)
    for part in parts:
        both &= part
    for k, pair in enumerate(order[1:], 1):
        kept = removal.stays(op.inputs[0], pair[0])
        both = both & kept.reshape([-1 if n == k else 1 for n in range(both.ndim)])
    return np.asarray(both.any(axis=tuple(range(1, both.ndim))))


def _tie_groups(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape) -> None:
    """A grouped convolution: whole groups go, or the same channel of each group.

    The input channels are a grid of groups and inputs of a group; the output channels of groups and
    outputs of a group.
    """
    (a, b), out = op.inputs[:2], op.outputs[0]
    groups, width = op.extra
    ((channel, inner),) = shape.summed
    ((outer, made),) = shape.right.items()
    for axis, to in shape.left.items():
        removal.tie([(a, axis)], [(out, to)])
    removal.tie([(a, channel)], [(groups, 0), (b, inner)])
    removal.tie([(out, made)], [(b, outer)], [(groups, 0), (width, 0)])
    # 1. and 3. of the file for the inputs of a group: [groups, inner]
    count, depth = groups.shape[0], b.shape[inner]
    reaches = np.ones((count, depth), bool)
    may = nonzero(a, knowledge)
    if may is not None:
        rest = tuple(k for k in range(may.ndim) if k != channel)
        reaches &= may.any(axis=rest).reshape(count, depth)
    may = nonzero(b, knowledge)
    if may is not None:
        flat = np.moveaxis(may, (outer, inner), (0, 1)).reshape(b.shape[outer], depth, -1)
        kept = removal.stays(b, outer)[:, None]
        reaches &= (flat.any(axis=2) & kept).reshape(count, -1, depth).any(axis=1)
    removal.narrow(b, inner, ~np.asarray(reaches[removal.stays(groups, 0)].any(axis=0)))


@dataclasses.dataclass(frozen=True)
class Sink:
    """A parameter that is added to a product, and so can take up what a constant unit gives.

    Attributes:
      bias: the parameter.
      sign: of the product against the parameter, where they meet.
      index: which element of the parameter each element of the product meets: [...] as it.
    """

    bias: Node
    sign: int
    index: np.ndarray


def sinks(graph: Graph) -> dict[Op, Sink]:
    """The parameter that takes up constants, for each product at the top level that has one."""
    readers: dict[Node, list[Op]] = {}
    makers: dict[Node, Op] = {}
    for op in graph.ops:
        makers.update(dict.fromkeys(op.outputs, op))
        for node in op.inputs:
            readers.setdefault(node, []).append(op)
    for node in graph.outputs:  # read by the caller, so nothing may change there
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
    """The parameter that a node is, but for its shape and type, and what lies between."""
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
    """
    shape = shape_of(op)
    nothing = np.zeros((), bool)
    if len(shape.summed) != 1 or shape.batch or not _even(op):
        return nothing
    for side, free in enumerate((shape.left, shape.right)):
        given, weight = (knowledge.get(op.inputs[k]) for k in (side, 1 - side))
        if given is None or weight is None or weight.unknown.any():
            continue
        along = sorted({*free.values(), *shape.pinned[2]} if side == 0 else free.values())
        # each element of the bias meets one output feature, wherever that is
        head = sink.index[
            tuple(slice(1) if k in along else slice(None) for k in range(sink.index.ndim))
        ]
        if not (sink.index == head).all() or len(np.unique(head)) != head.size:
            continue
        if op.name != "dot_general" and side == 1:
            continue
        axis = shape.summed[0][side]
        rest = tuple(k for k in range(given.value.ndim) if k != axis)
        corner = given.value[
            tuple(slice(None) if k == axis else slice(1) for k in range(given.value.ndim))
        ]
        return ~given.unknown.any(axis=rest) & (given.value == corner).all(axis=rest)
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
    """What the foldable units that go gave to the sink's parameter: [...] as the parameter."""
    shape = shape_of(op)
    factors = []
    for side in (0, 1):
        known = knowledge.get(op.inputs[side])
        axis = shape.summed[0][side]
        if known is None:
            return np.zeros(sink.bias.shape, sink.bias.dtype)
        goes = removal.goes(op.inputs[side], axis) & foldable
        spread = goes.reshape([-1 if k == axis else 1 for k in range(known.value.ndim)])
        factors.append(np.where(spread, known.value, np.zeros((), known.value.dtype)))
    (given,) = bind(op, *factors)
    total = np.zeros(int(np.prod(sink.bias.shape)), given.dtype)
    total[sink.index.ravel()] = given.ravel()
    return sink.sign * total.reshape(sink.bias.shape)
