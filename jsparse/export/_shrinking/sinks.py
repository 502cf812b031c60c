"""Biases that absorb constants: what a unit without weights gives to the next layer.

1. Follow each product through additions to a parameter that nothing else reads.
2. A position of the summed axis that is constant gives each element of the parameter a constant.
3. Where the parameter is read several times, as by a layer that is called twice, it can absorb only
   what it would get at each of them.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jsparse.export._shrinking.constants import Knowledge
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.operations import (
    PRODUCTS,
    RAGGED,
    STRUCTURAL,
    along,
    bind,
    first_along,
    others,
    rearrange,
    shape_of,
)

LINKS = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type", "copy"}
LINKS |= {"copy_p", "name", "sharding_constraint", "reshard", "pvary"}


@dataclasses.dataclass(frozen=True)
class Sink:
    """A parameter that is added to a product, and so can absorb the output of a constant unit.

    Attributes:
      bias: the parameter.
      read: the operation that reads it.
      sign: of the product against the parameter, where they meet.
      index: which element of the parameter each element of the product meets: [...] as it.
    """

    bias: Node
    read: Op
    sign: int
    index: np.ndarray


def sinks(graph: Graph) -> dict[Op, Sink]:
    """The parameter that absorbs constants, for each top-level product that has one.

    A layer that is called several times has several; nothing else may read the parameter.
    """
    ends = {*graph.outputs}  # the caller reads them, so nothing may change there
    readers = {node: ops for node, ops in graph.readers.items() if node not in ends}
    products = [op for op in graph.ops if op.name in PRODUCTS - {RAGGED} and not op.extra]
    tried = {op: _sink(op, readers, graph.makers) for op in products}
    found = {op: sink for op, sink in tried.items() if sink is not None}
    reads = reads_of(found)
    return {op: s for op, s in found.items() if len(reads[s.bias]) == len(readers[s.bias])}


def reads_of(sinks: Mapping[Op, Sink]) -> dict[Node, dict[Op, list[Op]]]:
    """The operations that read each parameter, and the products to which it is added there."""
    found: dict[Node, dict[Op, list[Op]]] = {}
    for op, sink in sinks.items():
        found.setdefault(sink.bias, {}).setdefault(sink.read, []).append(op)
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
            read = links[-1] if links else reader
            return Sink(bias, read, sign * theirs, np.broadcast_to(index, node.shape))
        node = reader.outputs[0]
    return None


def _chain(
    node: Node, readers: dict[Node, list[Op]], makers: dict[Node, Op]
) -> tuple[Node, list[Op]] | None:
    """The parameter behind a node, up to shape and type, and the operations between."""
    links = []
    while node in readers:
        if node.path and node.value is not None:
            return node, links
        maker = makers.get(node) if len(readers[node]) == 1 else None
        if maker is None or maker.name not in LINKS:
            return None
        links.append(maker)
        node = maker.inputs[0]
    return None


def foldables(graph: Graph, sinks: Mapping[Op, Sink], knowledge: Knowledge) -> dict[Op, np.ndarray]:
    """Which positions of the summed axis of each product can move into its sink: [n], or [].

    Where a parameter is read several times, as by a layer that is called twice, each product has
    to give it the same there.
    """
    origins = graph.origins()
    gifts = {op: _gift(op, sink, knowledge) for op, sink in sinks.items()}
    found = {op: gift.at for op, gift in gifts.items()}
    for reads in reads_of(sinks).values():
        if len(reads) == 1:
            continue
        alike: dict[tuple, list[Op]] = {}
        for op in itertools.chain(*reads.values()):
            gift = gifts[op]
            alike.setdefault((origins.get(gift.weight, gift.weight), gift.way), []).append(op)
        for ops in alike.values():
            same = np.zeros((), bool)
            if {sinks[op].read for op in ops} == reads.keys() and len(ops) == len(reads):
                value = gifts[ops[0]].value
                masks = [gifts[op].at & (gifts[op].value == value) for op in ops]
                same = np.logical_and.reduce(masks)
            found |= dict.fromkeys(ops, same)
    return found


class _Gift(NamedTuple):
    """What positions of a product give to its sink.

    Attributes:
      at: whether a position gives a constant: [n], or [] for none.
      value: that each has in the known factor: [n], or [].
      weight: the other factor.
      way: to which elements of the parameter it is added.
    """

    at: np.ndarray
    value: np.ndarray
    weight: Node
    way: tuple


def _gift(op: Op, sink: Sink, knowledge: Knowledge) -> _Gift:
    """Which positions of the summed axis give the sink's elements a constant each.

    One factor is known and the same along all axes of its own there, the other factor is known.

    Example: x [3, 3] times W [3, 3] plus a bias [3], ? for what depends on the input. Position 1 of
    the summed axis holds the constant 2 in each row of x, so 2 W[1] can move into the bias and the
    position be removed; position 2 holds constants that differ between rows:

        x: ? 2 5    W: a b c    b + 2 (d e f)    foldable: k = 1 alone
           ? 2 6       d e f
           ? 2 7       g h i
    """
    shape = shape_of(op)
    nothing = _Gift(np.zeros((), bool), np.zeros(()), op.inputs[1], ())
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
        value, differ = given.first_along(others(given.value.ndim, shape.summed[0][side]))
        way = (shape.summed[0][1 - side], sink.sign, *head.ravel().tolist())
        return _Gift(~differ.ravel(), value.ravel(), op.inputs[1 - side], way)
    return nothing


def _even(op: Op) -> bool:
    """Whether all outputs see the same window: no padding, nothing dilated in between."""
    padding, dilation = op.params.get("padding", ()), op.params.get("lhs_dilation", ())
    return all(p == (0, 0) for p in padding) and all(d == 1 for d in dilation)


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
        removed = removal.removed(op.inputs[side], axis) & foldable
        removed = along(removed, axis, known.value.ndim)
        factors.append(np.where(removed, known.value, np.zeros((), known.value.dtype)))
    (given,) = bind(op, *factors)
    total = np.zeros(int(np.prod(sink.bias.shape)), given.dtype)
    total[sink.index.ravel()] = given.ravel()
    return sink.sign * total.reshape(sink.bias.shape)
