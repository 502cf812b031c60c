"""Which removed units a fault comes from: those nearest to it, or to the call that failed."""

import re

from flax.errors import ScopeParamShapeError

from jsparse._jaxprs import by_distance, reachable
from jsparse._pure import SizesByName
from jsparse.export._shrinking.graph import Graph, Node
from jsparse.export._shrinking.liveness import Axis, Removal
from jsparse.export._shrinking.source import called, called_at, raised
from jsparse.export._shrinking.verify import Fault

OF_LINEN = re.compile(r'parameter "(.+?)" in "/?(.*?)"')


def removed_near(graph: Graph, removal: Removal, fault: Fault) -> list[Axis]:
    """Axes with removed positions: of the nodes at fault, or of the nearest that led to them."""
    makers = graph.makers
    before = lambda node: makers[node].inputs if node in makers else []
    for nodes in by_distance(fault.nodes, before):
        if found := [axis for node in nodes for axis in _removed_axes(removal, node)]:
            return found
    return []


class Groups:
    """Arrays that lose positions together: their lengths, and the variables among them."""

    def __init__(self, graph: Graph, removal: Removal):
        self._removal = removal
        self._next: dict[Node, set[Node]] = {}
        for op in graph.all_ops:
            near = [n for n in op.nodes if n not in op.extra and _removed_axes(removal, n)]
            for node in near:
                self._next.setdefault(node, set()).update(near)
        self._found: dict[Node, tuple[frozenset[str], frozenset[int]]] = {}

    def around(self, node: Node) -> tuple[frozenset[str], frozenset[int]]:
        """The paths of variables and the lengths of the group of a node."""
        if node not in self._found:
            group = reachable([node], lambda one: self._next.get(one, ()))
            axes = [axis for one in group for axis in _removed_axes(self._removal, one)]
            lengths = frozenset(n.shape[axis] for n, axis in axes)
            found = frozenset(one.path for one in group if one.path), lengths
            self._found |= dict.fromkeys(group, found)
        return self._found[node]


def _removed_axes(removal: Removal, node: Node) -> list[Axis]:
    axes = range(len(node.shape))
    return [(node, axis) for axis in axes if removal.removed(node, axis).any()]


def at_error(graph: Graph, removal: Removal, error: BaseException) -> list[Fault]:
    """The operations where the smaller model's code raised an error.

    They are looked for by the call that raised it, then by its line. Of those found, the ones that
    the error names come first, then those that share most of its calls.
    """
    if isinstance(error, SizesByName):
        error = error.__cause__ or error
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, ScopeParamShapeError) and (found := _at_weight(graph, removal, first)):
        return found
    text = f"fixes a size in the code ({type(error).__name__}: {first})"
    lines = raised(error.__traceback__)
    calls = {op: called(op.source) for op in graph.all_ops}
    ways = [(exact, end) for exact in (True, False) for end in (1, None)]  # innermost calls first
    for line in lines:
        for exact, end in ways:
            part = slice(None if exact else 2)  # without a place in the line
            ops = [o for o, f in calls.items() if line[part] in [one[part] for one in f[:end]]]
            ends = {op: (*op.inputs, *op.outputs) for op in ops}
            ops = [o for o in ops if any(_removed_axes(removal, n) for n in ends[o])]
            apart = {op: (op.name not in first, -len({*calls[op]} & {*lines})) for op in ops}
            ops.sort(key=apart.__getitem__)
            if ops:
                return [Fault(text, o, ends[o], sure=apart[o] == apart[ops[0]]) for o in ops]
    return [Fault(f"{text} at {called_at(lines)}")]


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
