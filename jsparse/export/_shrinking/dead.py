"""Units that are constants because they have no weights, and statistics that are constants too.

1. A product with a column of zeros gives zeros, whatever its input.
2. Whatever depends on these and on known numbers alone is a constant of a dead unit: its bias, its
   normalized value, its activation, a maximum of several.
3. Where a product sums over such units alone, they are removable, whatever constant they give.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse.export._shrinking.constants import Knowledge, know
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.operations import PRODUCTS, others, shape_of, touched
from jsparse.export._shrinking.tracing import trace_statistics

Dead = dict[Node, np.ndarray]


def droppable(graph: Graph, knowledge: Knowledge) -> dict[Op, np.ndarray]:
    """Positions of the only summed axis of each product that hold only dead units: [n]."""
    dead: Dead = {}
    found = {}
    for op in graph.ops:
        if op.name in PRODUCTS and not op.extra and len((shape := shape_of(op)).summed) == 1:
            for side, axis in enumerate(shape.summed[0]):
                if (mine := dead.get(op.inputs[side])) is not None:
                    here = mine.all(axis=others(mine.ndim, axis))
                    found[op] = found.get(op, False) | here
        for node, mask in zip(op.outputs, _constants(op, dead), strict=True):
            known = knowledge.get(node)
            if known is None or mask is None:
                continue
            mask = mask & ~known.unknown
            dead[node] = mask & (known.value == 0) if op.name in PRODUCTS else mask
    return {op: mask for op, mask in found.items() if mask.any()}


def _constants(op: Op, dead: Dead) -> list:
    """Where each output depends on dead units alone, if it is known; None for nowhere."""
    if op.name in PRODUCTS:
        return [np.ones(op.outputs[0].shape, bool)]
    nothing = [None] * len(op.outputs)
    if op.bodies or not any(node in dead for node in op.inputs):
        return nothing
    masks = [dead.get(node, np.zeros(node.shape, bool)) for node in op.inputs]
    if op.name == "pad":  # the padding of a dead unit is dead too
        masks[1] = np.ones((), bool)
    return touched(op, masks) or nothing


def settle_in_place(model: nnx.Module, inputs: tuple) -> None:
    """Set statistics of values that do not depend on the input to what they converge to.

    In train mode a normalization uses the statistics of the batch, so a unit without weights
    becomes its bias; with settled statistics it does so in eval mode too.
    """
    leaves, form = jax.tree.flatten(nnx.state(model, nnx.BatchStat))
    if not leaves:
        return
    graph = trace_statistics(model, inputs)
    knowledge = know(graph, {})
    settled = []
    for leaf, node in zip(leaves, graph.outputs, strict=True):
        known = knowledge.get(node)
        settled.append(leaf if known is None else jnp.where(known.unknown, leaf, known.value))
    nnx.update(model, jax.tree.unflatten(form, settled))
