"""Which weights of a group have to be 0 for its units to have no effect.

Zeros in all of them are enough. So are zeros in the weights that read the units, or in those that
make them, with biases, scales and learned tokens; the former fails where a mean or a product reads
the units first, and the latter where a normalization without a scale changes them from 0. Fewer are
better for training: behind a zero, or before one, weights get no gradient.
"""

import dataclasses
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.graph import Graph
from jsparse.export._shrinking.uses import UnitAxis, UnitGroup, Use
from jsparse.export._shrinking.verify import apart, rounding


def with_closers(graph: Graph, params: Collection[str], group: UnitGroup, mixed: bool) -> UnitGroup:
    """The group, whose members say whether they close its units.

    Args:
      graph: of the model.
      params: paths of what is trained, unlike the statistics of a normalization.
      group: of its units.
      mixed: whether the model sums over them without a weight: then zeros in the weights that read
        them are not enough, whatever the outputs for these inputs.
    """
    own = [member for member in group.members if member.path in params]
    closing = [] if group.held else _fewest(graph, own, mixed)
    members = tuple(dataclasses.replace(m, closes=m in closing) for m in group.members)
    return dataclasses.replace(group, members=members)


def _fewest(graph: Graph, own: list[UnitAxis], mixed: bool) -> list[UnitAxis]:
    """Those that read the units, those that make them, or all: the first set that is enough."""
    values = _disturbed(graph, {member.path for member in own})
    expected = graph.run(_closed(values, own))
    reads = [member for member in own if Use.READS in member.use]
    makes = [member for member in own if Use.MAKES in member.use or Use.READS not in member.use]
    for closing in (makes,) if mixed else (reads, makes):
        off = apart(expected, graph.run(_closed(values, closing)))
        if off <= rounding(graph.variables):
            return closing
    return own


def _disturbed(graph: Graph, paths: Collection[str]) -> dict[str, np.ndarray]:
    """The values of weights, shifted so that none is 0 or 1 only because training starts there."""
    draw = np.random.default_rng(0)
    found = {}
    for node in graph.variables:
        if node.path in paths and node.value is not None:
            kind = np.complex64 if jnp.iscomplexobj(node.value) else np.float32
            moved = np.asarray(node.value, kind) + 0.1 + 0.1 * draw.random(node.shape)
            found[node.path] = np.asarray(jnp.asarray(moved, node.dtype))
    return found


def _closed(values: dict[str, np.ndarray], members: Collection[UnitAxis]) -> dict[str, np.ndarray]:
    """The values with zeros for every other unit."""
    found = {**values}
    for member in members:
        if member.path in found:
            array = found[member.path].copy()
            along = np.moveaxis(array, member.axis, 0)
            along[(member.units >= 0) & (member.units % 2 == 0)] = 0
            found[member.path] = array
    return found
