"""Why dead units stay: the operations that keep them, where these are called, and the weights.

1. A unit is dead where a product's weights into it are all zeros, or those out of it.
2. Positions that are kept have a reason, passed on from where they were first un-marked.
3. A dead unit that a product needs is followed to the operation that mixes it with other values.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from flax.errors import ScopeParamShapeError

from jsparse._pure import SizesByName
from jsparse.export._shrinking.constants import Knowledge, holding
from jsparse.export._shrinking.graph import Graph, Node, Op, every, readers_in
from jsparse.export._shrinking.liveness import (
    COUNTS,
    ENDS,
    NEEDS_WHOLE,
    WHOLE,
    Axis,
    Reason,
    Removal,
)
from jsparse.export._shrinking.operations import NEUTRAL, PRODUCTS, is_closed, touched
from jsparse.export._shrinking.products import along, shape_of
from jsparse.export._shrinking.source import frames, place, raised, told
from jsparse.export._shrinking.verify import Fault

CONSTANT = "reads it as a constant that no bias can absorb"
MIXES = "joins it with values that count"
SHARED = "joins it with an array that counts elsewhere"
OF_LINEN = re.compile(r'parameter "(.+?)" in "/?(.*?)"')


def removed_near(graph: Graph, removal: Removal, fault: Fault) -> list[Axis]:
    """Axes with removed positions: of the nodes at fault, or of the nearest that led to them."""
    makers = {node: op for op in every(graph.ops) for node in op.outputs}
    seen = dict.fromkeys(fault.nodes)
    layer = list(seen)
    while layer:
        found = [axis for node in layer for axis in _removed_axes(removal, node)]
        if found:
            return found
        before = [n for node in layer if node in makers for n in makers[node].inputs]
        layer = [node for node in dict.fromkeys(before) if node not in seen]
        seen |= dict.fromkeys(layer)
    return []


class Groups:
    """Arrays that lose positions together: their lengths, and the variables among them."""

    def __init__(self, graph: Graph, removal: Removal):
        self._removal = removal
        self._next: dict[Node, set[Node]] = {}
        for op in every(graph.ops):
            inner = [node for body in op.bodies for node in (*body.inputs, *body.outputs)]
            near = [n for n in (*op.inputs, *op.outputs, *inner) if _removed_axes(removal, n)]
            for node in near:
                self._next.setdefault(node, set()).update(near)
        self._found: dict[Node, tuple[set[int], set[str]]] = {}

    def around(self, node: Node) -> tuple[set[int], set[str]]:
        """The lengths and the paths of variables of the group of a node."""
        if node not in self._found:
            found: tuple[set[int], set[str]] = (set(), set())
            waiting = [node]
            self._found[node] = found
            while waiting:
                one = waiting.pop()
                found[0].update(n.shape[axis] for n, axis in _removed_axes(self._removal, one))
                found[1].update([one.path] if one.path else [])
                for other in self._next.get(one, ()):
                    if other not in self._found:
                        self._found[other] = found
                        waiting.append(other)
        return self._found[node]


def _removed_axes(removal: Removal, node: Node) -> list[Axis]:
    axes = range(len(node.shape))
    return [(node, axis) for axis in axes if removal.removed(node, axis).any()]


def at_error(graph: Graph, removal: Removal, error: BaseException) -> list[Fault]:
    """The operations where the smaller model's code raised an error.

    They are looked for by file and line: as the innermost call first, then anywhere. Of those at
    one line, the ones that the error names come first, then those that share most of its lines.
    """
    if isinstance(error, SizesByName):
        error = error.__cause__ or error
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, ScopeParamShapeError) and (found := _at_weight(graph, removal, first)):
        return found
    text = f"fixes a size in the code ({type(error).__name__}: {first})"
    lines = raised(error.__traceback__)
    calls = {op: frames(op) for op in every(graph.ops)}
    for line in lines:
        for innermost in (True, False):
            ops = [op for op, found in calls.items() if line in found[: 1 if innermost else None]]
            ops.sort(key=lambda op: (op.name not in first, -len({*calls[op]} & {*lines})))
            found = [Fault(text, op, (*op.inputs, *op.outputs)) for op in ops]
            if found := [f for f in found if any(_removed_axes(removal, n) for n in f.nodes)]:
                return found
    return [Fault(f"{text} at {told(lines)}")]


def _at_weight(graph: Graph, removal: Removal, text: str) -> list[Fault]:
    """The weight that Linen refuses, as its size is not that by the attributes of its module."""
    named = OF_LINEN.search(text)
    path = "/".join(filter(None, (named[2], named[1]))) if named else ""
    text = "its size follows from an attribute of a Linen module"
    return [
        Fault(f"{node.path}: {text}", None, (node,))
        for node in graph.variables
        if f"/{node.path}".endswith(f"/{path}") and _removed_axes(removal, node)
    ]


def explain(
    graph: Graph, knowledge: Knowledge, removal: Removal, foldable: Mapping[Op, np.ndarray]
) -> dict[str, str]:
    """Why weights with dead units were not cut there, by path.

    `foldable`: positions that may be removed as constants, by product: [n], or [].
    """
    texts: dict[str, dict[str, None]] = {}
    ways, weights = _Ways(graph, knowledge, foldable), graph.origins()
    for op in every(graph.ops):
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
                    texts.setdefault(path, {})[f"{count}: {said(reason)}"] = None
    return {path: "; ".join(found) for path, found in texts.items()}


def said(reason: Reason) -> str:
    if reason.op is None:
        return reason.text
    return f"`{reason.op.name}` at {place(reason.op)} {reason.text}"


def _dead(
    op: Op, knowledge: Knowledge, weights: Collection[Node]
) -> Iterator[tuple[int, Node, int, np.ndarray]]:
    """Where a product's weights are all zeros: which factor they are, and a node's axis, [n].

    Of layers that a loop runs, where those of all layers are.
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
    """The same for an operation that is not understood: where a weight that it reads is zeros."""
    if not is_closed(op):
        return
    for side, node in enumerate(op.inputs):
        known = knowledge.get(node)
        if known is None or known.value.ndim < 2 or node not in weights:
            continue
        for axis in range(known.value.ndim):
            if (dead := holding(known, axis)).any():
                yield side, node, axis, dead


class _Ways:
    """Which nodes lead to which, back to variables and on to readers."""

    def __init__(self, graph: Graph, knowledge: Knowledge, foldable: Mapping[Op, np.ndarray]):
        ops = every(graph.ops)
        self._foldable = foldable
        self._knowledge, self._readers = knowledge, readers_in(ops)
        self._order = {op: n for n, op in enumerate(ops)}
        self._before: dict[Node, list[Node]] = {}
        for op in ops:
            self._before |= dict.fromkeys(op.outputs, op.inputs)
            for body in op.bodies:
                for n, inner in zip(body.reads, body.inputs, strict=True):
                    self._before[inner] = [op.inputs[n]]

    def paths(self, node: Node) -> list[str]:
        """Of all variables from which a node is computed."""
        found, waiting = dict.fromkeys([node]), [node]
        while waiting:
            for before in self._before.get(waiting.pop(), ()):
                if before not in found:
                    found[before] = None
                    waiting.append(before)
        return [one.path for one in found if one.path]

    def leads_on(self, node: Node) -> bool:
        """Whether another product reads what is computed from a node."""
        found, waiting = {node}, [node]
        while waiting:
            for op in self._readers.get(waiting.pop(), ()):
                if op.name in PRODUCTS or op.bodies:
                    return True
                waiting += [out for out in op.outputs if out not in found]
                found.update(op.outputs)
        return False

    def mixing(self, node: Node, axis: int, dead: np.ndarray) -> Reason | None:
        """The first operation at which dead units stop being constants, or are read as ones.

        Otherwise the first that joins them with a weight or a constant that others read too.
        """
        shared = None
        marks = {node: np.broadcast_to(along(dead, axis, len(node.shape)), node.shape)}
        waiting = {self._order[op]: op for op in self._readers.get(node, [])}
        while waiting:
            op = waiting.pop(min(waiting))
            if op.name in PRODUCTS:
                if self._folds(op, marks):
                    continue
                return Reason(WHOLE, op, CONSTANT)
            if op.name in NEUTRAL and self._changes_nothing(op, marks[op.inputs[0]]):
                continue
            if shared is None and any(map(self._is_shared, op.inputs)):
                shared = Reason(WHOLE, op, SHARED)
            given = [marks.get(n, np.zeros(n.shape, bool)) for n in op.inputs]
            made = None if op.bodies else touched(op, given)
            if made is None:
                return Reason(WHOLE, op, NEEDS_WHOLE)
            for out, mask in zip(op.outputs, made, strict=True):
                known = self._knowledge.get(out)
                if mask.any() and (known is None or (mask & known.unknown).any()):
                    return Reason(WHOLE, op, MIXES)
                marks[out] = mask
                if mask.any():
                    waiting |= {self._order[o]: o for o in self._readers.get(out, [])}
        return shared

    def _is_shared(self, node: Node) -> bool:
        """Whether a node is a weight or a constant, but for its shape, that is read repeatedly."""
        while node.value is None and len(before := self._before.get(node, ())) == 1:
            node = before[0]
        return node.value is not None and bool(node.shape) and len(self._readers[node]) > 1

    def _changes_nothing(self, op: Op, marks: np.ndarray) -> bool:
        known = self._knowledge.get(op.inputs[0])
        return known is not None and bool((known.value[marks] == NEUTRAL[op.name]).all())

    def _folds(self, op: Op, marks: Mapping[Node, np.ndarray]) -> bool:
        """Whether a product passes all marked units of its inputs to a bias."""
        taken = self._foldable.get(op, np.zeros((), bool))
        for side, node in enumerate(op.inputs[:2]):
            if taken.ndim and node in marks:
                axis = shape_of(op).summed[0][side]
                rest = tuple(k for k in range(len(node.shape)) if k != axis)
                if (marks[node].any(axis=rest) & ~taken).any():
                    return False
        return bool(taken.ndim)
