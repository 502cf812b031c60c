"""What sums, maxima and products lose with the units: terms other than 0, and terms of means."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from jsparse._jaxprs import reachable
from jsparse.export._shrinking.constants import Knowledge, Known, know, nonzero
from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Axis, Removal
from jsparse.export._shrinking.operations import PRODUCTS, others, shape_of
from jsparse.export._shrinking.sinks import LINKS
from jsparse.export._shrinking.verify import Fault

REDUCED = {"reduce_sum", "reduce_max"}
Sums = Mapping[Axis, Collection[Op]]
"""The operations that sum over each axis."""


def zeroed(
    graph: Graph, cuts: Mapping[str, Cut], add: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The variables that change, by path: with what is added, and zeros for what is removed."""
    found = {n.path: n.value for n in graph.variables if n.value is not None}
    found |= {path: found[path] + np.asarray(one, found[path].dtype) for path, one in add.items()}
    found |= {path: cut.zeroed(found[path]) for path, cut in cuts.items() if path in found}
    return {path: found[path] for path in {**cuts, **add} if path in found}


def ops_losing_terms(graph: Graph, removal: Removal, cuts: Mapping[str, Cut]) -> list[Op]:
    """The sums, maxima and products that lose terms other than 0 even if what is removed is zeros.

    Products with a weight are left out: the weight itself is 0 there.
    """
    weights = graph.origins()
    shorter = []
    for op in graph.all_ops:
        product = op.name in PRODUCTS and weights.keys().isdisjoint(op.inputs[:2])
        axes = _summed(op) if product or op.name in REDUCED else []
        if any(removal.removed(*first).any() for first, *_ in axes):
            shorter.append(op)
    if not shorter:
        return []
    values = zeroed(graph, cuts, {})
    given = {path: Known(v, np.zeros(v.shape, bool)) for path, v in values.items()}
    knowledge = know(graph, given)
    return [op for op in shorter if _loses_terms(op, removal, knowledge)]


def partial_sums(graph: Graph, removal: Removal, cuts: Mapping[str, Cut]) -> set[Node]:
    """The arrays of sums that lose terms other than 0, reshaped or converted ones included."""
    links = lambda node: [op for op in graph.readers.get(node, ()) if op.name in LINKS]
    sums = [op for op in ops_losing_terms(graph, removal, cuts) if op.name == "reduce_sum"]
    made = lambda ops: [out for op in ops for out in op.outputs]
    return {*reachable(made(sums), lambda node: made(links(node)))}


def _summed(op: Op) -> list[tuple[Axis, ...]]:
    """The axes that are summed, or reduced; of a product, those of the second factor first."""
    if op.name in REDUCED:
        return [((op.inputs[0], axis),) for axis in op.params["axes"]]
    if op.params.get("batch_group_count", 1) > 1:  # it stays whole
        return []
    a, b = op.inputs[:2]
    return [((b, y), (a, x)) for x, y in shape_of(op).summed]


def _loses_terms(op: Op, removal: Removal, knowledge: Knowledge) -> bool:
    """Whether there is a removed position at which no factor is known to be 0."""
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


def averaged_at(
    graph: Graph, sums: Sums, removal: Removal, faults: Collection[Fault]
) -> dict[Fault, Op]:
    """The faults that are only means over fewer units, and the sum of each."""
    means: dict[Fault, Op] = {}
    for sum_op, divides, ratio in _means(graph, sums, removal):
        near = [f for f in faults if f.op is divides]
        means |= {f: sum_op for f in near if np.isclose(f.factor, [ratio, 1 / ratio]).any()}
    return means


def _means(graph: Graph, sums: Sums, removal: Removal) -> Iterator[tuple[Op, Op, float]]:
    """Sums of which terms go, what may divide each by their number, and how that changes."""
    readers, made = graph.readers, graph.makers
    read_by = lambda op: [reader for out in op.outputs for reader in readers.get(out, ())]

    def onward(reader: Op) -> list[Op]:
        number = reader.name in ("div", "mul") and any(not n.shape for n in reader.inputs)
        # a number: as where a variance is summed again
        return read_by(reader) if number or reader.name in LINKS | {"select_n"} else []

    for (node, _), ops in sums.items():
        for op in ops:
            axes = op.params["axes"]
            before = np.prod([node.shape[axis] for axis in axes])
            after = np.prod([removal.kept_shape(node)[axis] for axis in axes])
            if before == after or not after:
                continue
            for reader in reachable(read_by(op), onward):
                if reader.name in ("div", "mul"):  # by n, or by n - ddof
                    by = (made[n] for n in reader.inputs if n in made)
                    for divides in (reader, *(one for one in by if one.name == "sub")):
                        yield op, divides, float(after / before)
