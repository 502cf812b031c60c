"""What the inputs and outputs of a model, and its constants, keep whole."""

from collections.abc import Iterable

from jsparse.export._shrinking.graph import Graph, every, readers_in
from jsparse.export._shrinking.liveness import ENDS, WHOLE, Reason, Ties


def pin_ends(graph: Graph, fixed: Iterable[tuple[str, int, str]], ties: Ties) -> None:
    """Keep what is not an axis of weights, or may mean something else in other calls.

    Args:
      graph: of the model.
      fixed: the path, an axis that is kept whole, and why.
      ties: gets it.
    """
    read = {node for op in every(graph.ops) for node in op.inputs}
    readers = readers_in(every(graph.ops))
    for node in graph.nodes():
        if node in graph.variables:
            if node.value is None or node not in read:
                why = "is not a weight: calls write it, or it is in no nnx.Variable of the model"
                ties.because(Reason(WHOLE, None, f"{node.path} {why}"))
                ties.pin(node)
        elif node.value is not None and node.shape:
            op = next(iter(readers.get(node, [])), None)
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
    for node in graph.variables:
        for path, axis, why in fixed:
            if node.path == path:
                ties.because(Reason(WHOLE, None, why))
                ties.pin(node, axis % len(node.shape))
    ties.because(Reason(WHOLE, None, "longer inputs may read more of it"))
    for node, seen in graph.partly_read().items():
        for axis, mask in enumerate(seen):
            ties.narrow(node, axis, mask)
