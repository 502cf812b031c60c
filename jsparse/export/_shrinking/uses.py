"""The axes of weights that belong to a group of units: what each does, and which close the units.

Zeros in all weights of a group leave its units without effect. So do zeros in those that read the
units, or in those that make them, with biases, scales and learned tokens; the former fails where a
mean or a product reads the units first, and the latter where a normalization without a scale
changes them from 0. Fewer are better for training: behind a zero, or before one, weights get no
gradient.
"""

import dataclasses
import enum
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.couplings import joined_axes, same_axes
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Axis
from jsparse.export._shrinking.operations import ELEMENTWISE, PRODUCTS, shape_of, whole_axes_of
from jsparse.export._shrinking.verify import apart, rounding


class Use(enum.Flag):
    """What a weight does along one of its axes.

    Attributes:
      MAKES: a product has the axis in its output, as that of the outputs of a layer.
      READS: a product sums over it, as over the inputs of a layer.
      SCALES: units are multiplied by it, as by the scale of a normalization.
      ADDS: it is added to units, or subtracted, as a bias; or concatenated with them, as a class
        token is.
    """

    MAKES = enum.auto()
    READS = enum.auto()
    SCALES = enum.auto()
    ADDS = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False)
class UnitAxis:
    """An axis of a weight that belongs to a group.

    Attributes:
      path: of the weight.
      axis: of it.
      units: the number of the unit at each position of the axis, -1 for none: [length].
      use: what the model does with the weight along that axis.
      across: how many inputs, or outputs, of the weight as a matrix a unit spans: for a head its
        width. 1 for weights that are not matrices.
      closes: whether zeros in the weight, and in the others with this mark, are enough for the
        units to have no effect: all that read them, or else all that make them.
    """

    path: str
    axis: int
    units: np.ndarray
    use: Use
    across: int = 1
    closes: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units that have positions on the same axes; each can only be removed from all of them.

    Attributes:
      name: path of the weight that makes the units, and the axis.
      width: how many units.
      members: the axes of weights.
      parameters: of all units together; where two groups cross, both count them.
      held: why they cannot be removed; empty if they can.
      means: where the model takes a sum or a mean over the units, as a layer norm does; empty if
        it does not. After a cut it is over those that are left.
    """

    name: str
    width: int
    members: tuple[UnitAxis, ...]
    parameters: int
    held: str
    means: str


NOTHING = Use(0)
OF = {"mul": Use.SCALES, "div": Use.SCALES, "add": Use.ADDS, "sub": Use.ADDS}
LINEAR = {"mul", "neg", "convert_element_type", "copy", "reduce_precision"}
Places = dict[int, tuple[Axis, ...]]
"""By axis of an array, the axes of variables that it is."""


def uses(graph: Graph) -> dict[Axis, Use]:
    """What is done with each axis of the variables, as far as they are followed."""
    found: dict[Axis, Use] = {}
    at: dict[Node, Places] = {
        node: {k: ((node, k),) for k in range(len(node.shape))} for node in graph.variables
    }
    same = fixed(graph)
    for op in graph.all_ops:
        of_weights = all(node in same or node.value is not None for node in op.inputs)
        for n, node in enumerate(op.inputs):
            if node not in at:
                continue
            for axis, use in _used(op, n, of_weights).items():
                for own in at[node].get(axis, ()):
                    found[own] = found.get(own, NOTHING) | use
        for body in op.bodies:
            for k, (inner, outer) in enumerate(body.given(op)):
                if outer in at:
                    first = int(k in body.sliced)  # a slice lacks the first axis
                    at[inner] = {n - first: own for n, own in at[outer].items() if n >= first}
        for n, node in enumerate(op.inputs):
            if not (node in at and of_weights and len(op.outputs) == 1):
                continue
            if to := _followed(op, n):
                made: Places = {}
                for k, several in at[node].items():
                    own = tuple(one for one in several if _stays_itself(op, one[0]))
                    for axis in to.get(k, ()):
                        made[axis] = (*made.get(axis, ()), *own)
                at.setdefault(op.outputs[0], made)
    return found


def fixed(graph: Graph) -> set[Node]:
    """What is computed from variables and constants alone: the same whatever the inputs are."""
    found = {*graph.variables}
    for op in graph.all_ops:
        if not op.bodies and all(node in found or node.value is not None for node in op.inputs):
            found.update(op.outputs)
        for body in op.bodies:
            found.update(inner for inner, outer in body.uncarried(op) if outer in found)
    return found


def summed(graph: Graph) -> set[Axis]:
    """Axes that the model sums over without a weight, as logits of attention do over a head."""
    same, found = fixed(graph), set()
    for op in graph.all_ops:
        if op.name in PRODUCTS and same.isdisjoint(op.inputs[:2]):
            found.update((op.inputs[0], pair[0]) for pair in shape_of(op).summed)
        elif op.name == "reduce_sum" and op.inputs[0] not in same:
            found.update((op.inputs[0], axis) for axis in op.params["axes"])
    return found


def _stays_itself(op: Op, variable: Node) -> bool:
    """Whether what an operation makes of a variable is used as the variable would be.

    A kernel may be normalized before it is used, but a variance is not a scale.
    """
    return len(variable.shape) > 1 or op.name not in ELEMENTWISE or op.name in LINEAR


def _used(op: Op, n: int, of_weights: bool) -> dict[int, Use]:
    """What an operation does with its n-th input, by axis; whether it reads weights alone."""
    node = op.inputs[n]
    if op.name in PRODUCTS and n < 2:
        shape = shape_of(op)
        reads = {pair[n]: Use.READS for pair in shape.summed}
        return reads | dict.fromkeys(shape.to_output(n), Use.MAKES)
    if op.name == "gather" and n == 0:
        return {axis: Use.MAKES for axis, _ in whole_axes_of(op)}
    axes = range(len(node.shape))
    if op.name == "concatenate" and not of_weights:
        return dict.fromkeys((a for a in axes if a != op.params["dimension"]), Use.ADDS)
    return dict.fromkeys(axes, OF.get(op.name, NOTHING))


def _followed(op: Op, n: int) -> dict[int, tuple[int, ...]]:
    """The axes of the output that each axis of an input becomes; none if it is another array."""
    node, out = op.inputs[n], op.outputs[0]
    axes = range(len(node.shape))
    match op.name:
        case "transpose" | "squeeze":
            return {axis: (to,) for axis, to in same_axes(op)}
        case "broadcast_in_dim":
            return {k: (int(to),) for k, to in enumerate(op.params["broadcast_dimensions"])}
        case "reshape":
            runs = joined_axes(node.shape, out.shape) if 0 not in node.shape else []
            return {a: tuple(new) for old, new in runs for a in old}
    same = op.name in ELEMENTWISE and len(axes) > 1 and node.shape == out.shape
    if same or op.name in ("rev", "slice", "convert_element_type"):
        return {a: (a,) for a in axes}
    return {}


def with_closers(graph: Graph, params: Collection[str], group: UnitGroup, mixed: bool) -> UnitGroup:
    """The group, whose members say whether they close its units.

    `params`: paths of what is trained, unlike the statistics of a normalization. `mixed`: whether
    the model sums over the units without a weight: then zeros in the weights that read them are not
    enough, whatever the outputs for these inputs.
    """
    own = [member for member in group.members if member.path in params]
    closing = [] if group.held else _fewest(graph, own, mixed)
    members = tuple(dataclasses.replace(m, closes=m in closing) for m in group.members)
    return dataclasses.replace(group, members=members)


def _fewest(graph: Graph, own: list[UnitAxis], mixed: bool) -> list[UnitAxis]:
    """The weights that read the units, those that make them, or all: the first that are enough."""
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
    """The values of weights, moved so that none is 0 or 1 only because training starts there."""
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
