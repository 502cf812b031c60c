"""Units that are dead in some layers of a stack or some heads, and stay as the others need them.

A scan runs the same code for all its layers, and all heads of a product have one width, so a unit
is removed only if it is dead in every one.
"""

import numpy as np

from jsparse.export._shrinking.constants import Knowledge
from jsparse.export._shrinking.graph import Graph, Node, every
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.products import shape_of
from jsparse.export._shrinking.source import place


def partly_dead(graph: Graph, knowledge: Knowledge, removal: Removal) -> dict[str, str]:
    """Why they stay, by path of the stacked weight."""
    found: dict[str, str] = {}
    sources = _sources(graph)
    for op in every(graph.ops):
        if op.name not in PRODUCTS:
            continue
        shape = shape_of(op)
        for side, node in enumerate(op.inputs[:2]):
            source, path = sources.get(node, (node, ""))
            known = knowledge.get(source)
            if known is None or known.unknown.any() or not path:
                continue
            more = known.value.ndim - len(node.shape)  # one slice of a stack is read
            stack = [*range(more), *(more + axes[side] for axes in shape.batch)]
            made = [more + axis for axis in shape.free[side]]
            ends = [(axis, [*stack, *(a for a in made if a != axis)]) for axis in made]
            ends += [(more + pair[side], stack) for pair in shape.summed]
            kept = [removal.kept(source, axis) for axis in range(known.value.ndim)]
            left = known.value[np.ix_(*kept)]
            for axis, others in ends:
                dead = _dead(left, others, axis)
                if count := int((dead.any(axis=0) & ~dead.all(axis=0)).sum()):
                    where = "layers of the stack" if others == stack else "heads or layers"
                    found[path] = (
                        f"{count} of {dead.shape[1]} units are dead in some {where} only, and "
                        f"`{op.name}` at {place(op)} has one width for all of them"
                    )
    return found


def _sources(graph: Graph) -> dict[Node, tuple[Node, str]]:
    """The array outside all loops that a node is, or is a slice of, and the path of its variable.

    It is the variable itself, or that with its axes in the order that `vmap` gives them.
    """
    found = {node: (node, node.path) for node in graph.variables}
    for op in every(graph.ops):
        for node in op.inputs[:1]:
            if op.name == "convert_element_type" and node in found:
                found[op.outputs[0]] = found[node]
            if op.name == "transpose" and node in found:
                found[op.outputs[0]] = op.outputs[0], found[node][1]
        for body in op.bodies:
            for inner, n in zip(body.inputs, body.reads, strict=True):
                if op.inputs[n] in found:
                    found[inner] = found[op.inputs[n]]
    return found


def _dead(value: np.ndarray, stack: list[int], axis: int) -> np.ndarray:
    """Which positions of an axis are all zeros, in each layer: bool [layers, n]."""
    first = np.moveaxis(value, [*stack, axis], range(len(stack) + 1))
    layers = int(np.prod(first.shape[: len(stack)]))
    return (first.reshape(layers, value.shape[axis], -1) == 0).all(axis=2)
