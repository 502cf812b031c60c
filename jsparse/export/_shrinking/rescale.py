"""Weights that take up a factor, where a number in the code follows a width that was cut.

An attention divides by the square root of the width of its heads. Cut to half of it, the logits
would be larger by the square root of 2; so the query's weights become smaller by it:

1. Follow the number through operations on numbers alone to a product or a quotient with an array.
2. Go back from that array, along what is linear in it, to weights that nothing else reads.
"""

from collections.abc import Iterable

import numpy as np

from jsparse.export._shrinking.graph import Graph, Node, Op, every, readers_in
from jsparse.export._shrinking.operations import PRODUCTS, bind
from jsparse.export._shrinking.verify import Fault

SAME = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "convert_element_type", "copy"}
SAME |= {"neg", "expand_dims", "stop_gradient"}


class Rescale:
    """What must be scaled for the factors of some faults to cancel out."""

    def __init__(self, graph: Graph):
        self._readers = readers_in(every(graph.ops))
        self._makers = {node: op for op in every(graph.ops) for node in op.outputs}
        self._ends = set(graph.outputs)

    def cancelled(self, faults: Iterable[Fault]) -> tuple[dict[str, float], list[Fault]]:
        """The factor of each weight by path, and the faults that remain."""
        factors: dict[str, float] = {}
        left = []
        for fault in faults:
            found = self._of(fault) if fault.factor > 0 and fault.op else None
            if not found:
                left.append(fault)
                continue
            for path, factor in found:
                factors[path] = factors.get(path, 1.0) * factor
        return factors, left

    def _of(self, fault: Fault) -> list[tuple[str, float]] | None:
        assert fault.op is not None
        number = next((n for n in fault.op.inputs if n not in fault.nodes), None)
        if number is None or number.value is None:
            return None
        old = number.value.reshape(())
        return self._forward(fault.op, number, old, np.asarray(old * fault.factor, old.dtype))

    def _forward(
        self, op: Op, number: Node, old: np.ndarray, new: np.ndarray
    ) -> list[tuple[str, float]] | None:
        """What cancels a number that an operation reads changing from one value to another."""
        spreads = bool(op.outputs[0].shape) and len(op.inputs) == 1
        if op.bodies or len(op.outputs) != 1 or (spreads and op.name not in SAME):
            return None
        others = [node for node in op.inputs if node is not number]
        if all(node.value is not None and node.value.size == 1 for node in others):
            made = [self._made(op, number, value) for value in (old, new)]
            found = []
            for reader in self._readers.get(op.outputs[0], ()):
                one = self._forward(reader, op.outputs[0], *made)
                if one is None:
                    return None
                found += one
            return found
        if op.name not in ("mul", "div") or len(others) != 1 or not old or not new:
            return None
        ratio = float(old / new)
        if op.name == "div":
            if op.inputs[1] is not number:
                return None
            ratio = 1 / ratio
        paths = self._back(others[0])
        return None if paths is None else [(path, ratio) for path in paths]

    @staticmethod
    def _made(op: Op, number: Node, value: np.ndarray) -> np.ndarray:
        """What an operation makes of numbers: one of them, or an array filled with it."""
        given = [value if n is number else np.reshape(np.asarray(n.value), ()) for n in op.inputs]
        if op.outputs[0].shape:  # spread over an array
            return value
        with np.errstate(all="ignore"):
            return bind(op, *given)[0]

    def _back(self, node: Node) -> list[str] | None:
        """Paths of the weights that scale an array, each once; None where none scales it."""
        if node in self._ends or len(self._readers.get(node, ())) != 1:
            return None
        if node.path:
            return [node.path] if node.value is not None else None
        op = self._makers.get(node)
        if op is None or op.bodies:
            return None
        if op.name in SAME or op.name == "div":
            return self._back(op.inputs[0])
        if op.name in ("add", "sub"):
            sides = [self._back(one) for one in op.inputs]
            return None if None in sides else [path for side in sides for path in side or ()]
        if op.name == "mul" or op.name in PRODUCTS:
            found = (self._back(one) for one in op.inputs[:2])
            return next((paths for paths in found if paths is not None), None)
        return None
