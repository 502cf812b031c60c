"""Why dead units stay: the operations that keep them, where these are called, and the weights.

1. A unit is dead where a product's weights into it are all zeros, or those out of it.
2. Positions that are kept have a reason, passed on from where they were first un-marked.
3. A dead unit that a product needs is followed to the operation that mixes it with other values.
4. A scan runs the same code for all its layers, and all heads of a product have one width, so a
   unit that is dead in some layers or heads is removed only if it is dead in every one.
5. Weights that an object holds instead of a variable are not cut.
"""

from collections.abc import Collection, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._jaxprs import reachable
from jsparse._pure import pure
from jsparse._slots import own_masks, slots, walk_modules
from jsparse._variables import WRAPPERS as NORMALIZING
from jsparse.export._shrinking.constants import Knowledge, holding
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import COUNTS, ENDS, NEEDS_WHOLE, WHOLE, Reason, Removal
from jsparse.export._shrinking.operations import (
    NEUTRAL,
    PRODUCTS,
    along,
    is_closed,
    others,
    shape_of,
    spread,
    touched,
)
from jsparse.export._shrinking.source import place

CONSTANT = "reads it as a constant that no bias can absorb"
MIXES = "joins it with values that count"
SHARED = "joins it with an array that counts elsewhere"


def explain(
    graph: Graph, knowledge: Knowledge, removal: Removal, foldable: Mapping[Op, np.ndarray]
) -> dict[str, str]:
    """Why weights with dead units were not cut there, by path.

    `foldable` has the positions that each product may lose as constants: [n]; [] for none.
    """
    texts: dict[str, dict[str, None]] = {}
    ways, weights = _DataFlow(graph, knowledge, foldable), graph.origins()
    for op in graph.all_ops:
        found = _dead if op.name in PRODUCTS else _closed
        for side, node, axis, dead in found(op, knowledge, weights):
            kept = dead & removal.kept(node, axis)
            if not kept.any() or node.shape[axis] < 2:
                continue
            made = node is op.outputs[0]
            reasons = [r for r, k in zip(removal.why(node, axis), kept, strict=True) if k]
            hidden = made and ways.leads_on(node)
            shown = {WHOLE: True, COUNTS: made, ENDS: hidden}
            reasons = [r for r in reasons if shown[r.kind] and (r.text or r.kind == COUNTS)]
            for reason in dict.fromkeys(reasons):
                if reason.kind == COUNTS:
                    reason = ways.mixing(node, axis, kept)
                if reason is None:
                    continue
                count = f"{int(kept.sum())} of {len(kept)} dead units stay"
                for path in ways.paths(op.inputs[side]):
                    texts.setdefault(path, {})[f"{count}: {reason_text(reason)}"] = None
    return {path: "; ".join(found) for path, found in texts.items()}


def reason_text(reason: Reason) -> str:
    """A reason in words, with the operation and where it is called."""
    if reason.op is None:
        return reason.text
    return f"`{reason.op.name}` at {place(reason.op)} {reason.text}"


def _dead(
    op: Op, knowledge: Knowledge, weights: Collection[Node]
) -> Iterator[tuple[int, Node, int, np.ndarray]]:
    """The factor of a product that holds zeros, and which positions of a node's axis are dead: [n].

    In a loop over layers, those that are dead in every layer.
    """
    shape = shape_of(op)
    for side in (0, 1):
        known = knowledge.get(op.inputs[side])
        if known is None or known.value.ndim < 2:
            continue
        if known.unknown.any() and op.inputs[side] not in weights:
            continue
        ends = [(axis, op.outputs[0], to) for axis, to in shape.free[side].items()]
        if not op.extra:
            ends += [(pair[side], op.inputs[1 - side], pair[1 - side]) for pair in shape.summed]
        for axis, node, to in ends:
            if (dead := holding(known, axis)).any():
                yield side, node, to, dead


def _closed(
    op: Op, knowledge: Knowledge, weights: Collection[Node]
) -> Iterator[tuple[int, Node, int, np.ndarray]]:
    """The same for an operation that is not understood, and reads a weight with zeros."""
    if not is_closed(op):
        return
    for side, node in enumerate(op.inputs):
        known = knowledge.get(node)
        if known is None or known.value.ndim < 2 or node not in weights:
            continue
        for axis in range(known.value.ndim):
            if (dead := holding(known, axis)).any():
                yield side, node, axis, dead


class _DataFlow:
    """Which nodes lead to which, back to variables and on to readers."""

    def __init__(self, graph: Graph, knowledge: Knowledge, foldable: Mapping[Op, np.ndarray]):
        self._foldable, self._knowledge = foldable, knowledge
        self._readers, self._order, self._before = graph.readers, graph.order, graph.before

    def paths(self, node: Node) -> list[str]:
        """Of all variables from which a node is computed."""
        found = reachable([node], lambda one: self._before.get(one, ()))
        return [one.path for one in found if one.path]

    def leads_on(self, node: Node) -> bool:
        """Whether another product reads what is computed from a node."""
        ends = lambda op: op.name in PRODUCTS or bool(op.bodies)
        after = lambda node: self._readers.get(node, [])
        onward = lambda op: () if ends(op) else [o for out in op.outputs for o in after(out)]
        return any(map(ends, reachable(after(node), onward)))

    def mixing(self, node: Node, axis: int, dead: np.ndarray) -> Reason | None:
        """The first operation at which dead units stop being constants, or are read as ones.

        Otherwise the first that joins them with a weight or a constant that others read too, or
        that reads them as zeros.
        """
        shared = zeros = None
        marks = {node: np.broadcast_to(along(dead, axis, len(node.shape)), node.shape)}
        waiting = {self._order[op]: op for op in self._readers.get(node, [])}
        while waiting:
            op = waiting.pop(min(waiting))
            if op.name in PRODUCTS:
                if self._folds(op, marks):
                    continue
                constant = Reason(WHOLE, op, CONSTANT)
                if not self._zero(op, marks):
                    return constant
                zeros = zeros or constant
            if op.name in NEUTRAL and self._changes_nothing(op, marks[op.inputs[0]]):
                continue
            if shared is None and any(map(self._is_shared, op.inputs)):
                shared = Reason(WHOLE, op, SHARED)
            given = [marks.get(n, np.zeros(n.shape, bool)) for n in op.inputs]
            made = None if op.bodies else _passed(op, given)
            if made is None:
                return Reason(WHOLE, op, NEEDS_WHOLE)
            for out, mask in zip(op.outputs, made, strict=True):
                known = self._knowledge.get(out)
                if mask.any() and (known is None or (mask & known.unknown).any()):
                    return Reason(WHOLE, op, MIXES)
                marks[out] = mask
                if mask.any():
                    waiting |= {self._order[o]: o for o in self._readers.get(out, [])}
        return shared or zeros

    def _is_shared(self, node: Node) -> bool:
        """Whether a node is a weight or a constant, or one reshaped, that is read repeatedly."""
        while node.value is None and len(before := self._before.get(node, ())) == 1:
            node = before[0]
        return node.value is not None and bool(node.shape) and len(self._readers[node]) > 1

    def _changes_nothing(self, op: Op, marks: np.ndarray) -> bool:
        known = self._knowledge.get(op.inputs[0])
        return known is not None and bool((known.value[marks] == NEUTRAL[op.name]).all())

    def _zero(self, op: Op, marks: Mapping[Node, np.ndarray]) -> bool:
        """Whether all marked units of the inputs of a product are zeros."""
        read = [(self._knowledge.get(n), marks[n]) for n in op.inputs[:2] if n in marks]
        known = [k is not None and not (k.unknown | (k.value != 0))[mask].any() for k, mask in read]
        return all(known) and not op.extra

    def _folds(self, op: Op, marks: Mapping[Node, np.ndarray]) -> bool:
        """Whether a product passes all marked units of its inputs to a bias."""
        taken = self._foldable.get(op, np.zeros((), bool))
        for side, node in enumerate(op.inputs[:2]):
            if taken.ndim and node in marks:
                axis = shape_of(op).summed[0][side]
                if (marks[node].any(axis=others(len(node.shape), axis)) & ~taken).any():
                    return False
        return bool(taken.ndim)


def _passed(op: Op, masks: list[np.ndarray]) -> list[np.ndarray] | None:
    """Where each output depends on marked units alone, which are zeros where a product reads them.

    None if the operation is not understood.
    """
    if op.name not in PRODUCTS:
        return touched(op, masks)
    out = np.zeros(op.outputs[0].shape, bool)
    for side in (0, 1):
        to = shape_of(op).to_output(side)
        part = np.asarray(masks[side].all(axis=others(masks[side].ndim, *to)))
        out |= spread(part, [to[axis] for axis in sorted(to)], out.shape)
    return [out]


def partly_dead(graph: Graph, knowledge: Knowledge, removal: Removal) -> dict[str, str]:
    """Why units that are dead in some layers or heads only stay, by path of the stacked weight."""
    found: dict[str, str] = {}
    sources = graph.sources()
    for op in graph.all_ops:
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
            for axis, beside in ends:
                dead = _all_zeros(left, beside, axis)
                if count := int((dead.any(axis=0) & ~dead.all(axis=0)).sum()):
                    where = "layers of the stack" if beside == stack else "heads or layers"
                    found[path] = (
                        f"{count} of {dead.shape[1]} units are dead in some {where} only, and "
                        f"`{op.name}` at {place(op)} has one width for all of them"
                    )
    return found


def _all_zeros(value: np.ndarray, stack: list[int], axis: int) -> np.ndarray:
    """Which positions of an axis are all zeros, in each layer: bool [layers, n]."""
    first = np.moveaxis(value, [*stack, axis], range(len(stack) + 1))
    layers = int(np.prod(first.shape[: len(stack)]))
    return (first.reshape(layers, value.shape[axis], -1) == 0).all(axis=2)


def hidden_weights(model: nnx.Module, cut: Collection[str]) -> dict[str, str]:
    """Why weights are not cut that are in objects or that a layer computes, by path."""
    _, variables, kinds = pure(model)
    opened_ones = {slot.path for slot in slots(model)}
    modules = [f"{path}/" if path else "" for path, _ in walk_modules(model)]
    found, inside = {}, []
    for path, module in walk_modules(model):
        own = f"{path}/".lstrip("/")
        if isinstance(module, NORMALIZING):
            inside.append(own)
            if not any(one.startswith(own) for one in cut):
                found[path or "the model"] = (
                    f"{type(module).__name__} computes the weights of the layer in it at each call;"
                    " call the model once, put that layer (layer_instance) in its place, and shrink"
                    " again"
                )
    for path in sorted(variables.keys() - opened_ones - own_masks(model).keys()):
        if not issubclass(kinds[path], nnx.RngState) and not path.startswith((*inside,)):
            above = max(filter(path.startswith, modules), key=len)
            name = path[len(above) :].split("/")[0]
            if above + name != path or issubclass(kinds[path], nnx.Variable):
                found[above + name] = (
                    "an object holds it that shrink does not open, such as those of qwix; "
                    "shrink the model first, and quantize the smaller one"
                )
            elif variables[path].size > 1 and jnp.issubdtype(variables[path].dtype, jnp.floating):
                found[path] = "a plain array, which shrink does not cut: hold it in an nnx.Variable"
    return found
