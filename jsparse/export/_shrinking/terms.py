"""Terms of sums and maxima: which go with the units, though they would not be 0 themselves."""

from collections.abc import Mapping

import numpy as np

from jsparse._jaxprs import reached
from jsparse.export._shrinking.constants import Knowledge, Known, know, nonzero
from jsparse.export._shrinking.contractions import LINKS
from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Axis, Removal
from jsparse.export._shrinking.operations import PRODUCTS, others, shape_of

REDUCED = {"reduce_sum", "reduce_max"}


def zeroed(graph: Graph, cuts: Mapping[str, Cut]) -> dict[str, np.ndarray]:
    """The variables that are cut, with zeros in place of what goes, by path."""
    values = {n.path: n.value for n in graph.variables if n.path in cuts}
    return {path: cuts[path].zeroed(v) for path, v in values.items() if v is not None}


def lossy(graph: Graph, removal: Removal, cuts: Mapping[str, Cut]) -> list[Op]:
    """The operations that would read terms other than 0 if what goes were zeros.

    A weight is 0 there itself, so its products are as they were, and need no look.
    """
    weights = graph.origins()
    shorter = []
    for op in graph.all_ops:
        looked_at = op.name in REDUCED or (
            op.name in PRODUCTS and weights.keys().isdisjoint(op.inputs[:2])
        )
        if looked_at and any(removal.removed(*axes[0]).any() for axes in _summed(op)):
            shorter.append(op)
    if not shorter:
        return []
    values = zeroed(graph, cuts)
    given = {path: Known(v, np.zeros(v.shape, bool)) for path, v in values.items()}
    knowledge = know(graph, given)
    return [op for op in shorter if _loses_terms(op, removal, knowledge)]


def partial_sums(graph: Graph, removal: Removal, cuts: Mapping[str, Cut]) -> set[Node]:
    """Sums that lose terms other than zeros, in any shape or type."""
    readers = graph.readers
    links = lambda node: [op for op in readers.get(node, ()) if op.name in LINKS]
    sums = [op for op in lossy(graph, removal, cuts) if op.name == "reduce_sum"]
    start = [out for op in sums for out in op.outputs]
    return {*reached(start, lambda node: [out for op in links(node) for out in op.outputs])}


def _summed(op: Op) -> list[tuple[Axis, ...]]:
    """The axes that are summed, or reduced; of a product, those of the second factor first."""
    if op.name in REDUCED:
        return [((op.inputs[0], axis),) for axis in op.params["axes"]]
    if op.params.get("batch_group_count", 1) > 1:  # it stays whole
        return []
    a, b = op.inputs[:2]
    return [((b, y), (a, x)) for x, y in shape_of(op).summed]


def _loses_terms(op: Op, removal: Removal, knowledge: Knowledge) -> bool:
    """Whether at a position that goes no factor is known to be 0."""
    for axes in _summed(op):
        gone = removal.removed(*axes[0])
        for node, axis in axes:
            may = nonzero(node, knowledge)
            if may is not None:  # channels of a grouped convolution: the same ones of each group
                may = may.any(axis=others(may.ndim, axis)).reshape(-1, len(gone)).any(axis=0)
                gone = gone & may
        if gone.any():
            return True
    return False
