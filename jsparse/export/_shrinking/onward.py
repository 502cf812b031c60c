"""A factor on an array, followed through the operations that read it.

1. A product or quotient of arrays has the product or quotient of their factors, a root the root; a
   sum has the factor that all its terms have. Numbers among them must take it too.
2. Where an array with a factor is multiplied by weights that nothing else reads, these are divided
   by it, and the factor ends there; parts of them, where pieces that are joined differ.
3. Any other operation, and outputs of the model, of loops and of branches, cannot have a factor.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.graph import Body, Graph, Node, Op, spans
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.places import PARTS, NoSource, Part, Scaled, Where, before, piece
from jsparse.export._shrinking.sinks import LINKS
from jsparse.export._shrinking.source import place

REARRANGED = LINKS | {"transpose", "stop_gradient"}
SAME = REARRANGED | {"neg"}
JOINS = {"concatenate", "stack"}
POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0}
POWERS |= dict.fromkeys((*SAME, "abs", "slice", "rev", "reduce_sum", "reduce_max"), 1.0)
SUMS = {"add", "sub", "add_any", "max", "min"} | JOINS
LOOKUPS = {"gather", "dynamic_slice"}
ROUNDING = 1e-9
Origins = frozenset[int]
"""Where a factor comes from: the numbers of faults."""


class Stuck(NamedTuple):
    """The origins of factors that nothing ends, and where they stay."""

    origins: Origins
    text: str = ""


class Number(NamedTuple):
    """A number, [], that an operation reads from the code, and the factor that it must take."""

    op: Op
    value: np.ndarray
    factor: float
    origins: Origins


class Ways:
    """What leads to each array of a computation, and from it; `fixed` ones take no factor."""

    def __init__(self, graph: Graph, fixed: Collection[str] = ()):
        self.readers, self.order = graph.readers, graph.order
        self.ends = {*graph.outputs}
        self._fixed = fixed
        self._variables = {node.path: node for node in graph.variables}
        self._makers = graph.makers
        self._outside: dict[Node, Node] = {}
        for op in graph.all_ops:
            for body in op.bodies:
                self.ends |= {*self._returned(op, body)}
                if op.name == "scan":  # the same at each step, or one slice of it
                    self._outside |= dict(body.uncarried(op))

    def _returned(self, op: Op, body: Body) -> Iterator[Node]:
        """What a body returns, without what nothing reads, as weights that come back unchanged."""
        for k, node in enumerate(body.outputs):
            out = op.outputs[body.makes[k]] if k < len(body.makes) else None
            if out is None or k in body.carried or out in self.readers or out in self.ends:
                yield node

    def number(self, op: Op, node: Node) -> tuple[Op, np.ndarray] | None:
        """The number that an array is filled with, [], and the operation that reads it.

        None if others read the array too, since it would change for them as well.
        """
        while node.value is None and (maker := self._makers.get(node)) and maker.name in REARRANGED:
            if len(self.readers[node]) != 1 or node in self.ends:
                return None
            op, node = maker, maker.inputs[0]
        if node.value is None or node.path or node.value.size != 1:
            return None
        return op, node.value.reshape(())

    def weights(
        self, node: Node, where: Where = None, reader: Op | None = None
    ) -> list[Part] | None:
        """What scales an array, or its elements at some places: parts of weights.

        None where nothing scales it alone. `reader`: for which operation.
        """
        call = reader if where is None and reader in self.calls(node.path) else None
        once = call is not None or self._read_once(node, where)
        if not _is_real(node) or node in self.ends or not once:
            return None
        if node.path:
            known = node.value is not None and node.path not in self._fixed
            return [Part(node.path, 0.0, where, call)] if known else None
        if (outer := self._outside.get(node)) is not None:  # the same, or one slice of it
            return self.weights(
                outer, None if where is None else np.broadcast_to(where, outer.shape)
            )
        op = self._makers.get(node)
        if op is None or op.bodies:
            return None
        of = functools.partial(self._all, op, node, where)
        if op.name in JOINS:
            return of(range(len(op.inputs)))
        if op.name in ("add", "sub"):
            return self._of_sum(op, where)
        if where is None and op.name in LOOKUPS:  # rows of a table, as of an embedding
            beyond = op.params.get("fill_value") or 0.0
            return self.weights(op.inputs[0], None, op) if beyond == 0 or beyond != beyond else None
        if op.name in SAME | PARTS | {"div"}:
            return of([0])
        if op.name == "mul" or op.name in PRODUCTS:
            first = of([0])
            if first and all(part.where is None and not part.call for part in first):
                return first
            return of([1]) or first  # rather than some of it
        return None

    def calls(self, path: str) -> list[Op]:
        """The operations that read a weight, if these are several calls of one layer."""
        ops = self.readers.get(self._variables[path], ()) if path else ()
        kinds = {(op.name, str(op.params.get("dimension_numbers"))) for op in ops}
        return list(ops) if len(kinds) == 1 < len(ops) == len({*ops}) else []

    def _all(self, op: Op, node: Node, where: Where, sides: Iterable[int]) -> list[Part] | None:
        """The parts that scale some inputs of what makes an array; None where one has none."""
        found: list[Part] = []
        for side in sides:
            own = before(op, node, where, side)
            if isinstance(own, NoSource):
                return None
            if own is not None and not own.any():
                continue
            if (parts := self.weights(op.inputs[side], own, op)) is None:
                return None
            found += parts
        return found

    def _read_once(self, node: Node, where: Where) -> bool:
        """Whether one operation alone reads these places of an array, others being slices."""
        readers = self.readers.get(node, ())
        if len(readers) == 1 or where is None or any(op.name != "slice" for op in readers):
            return len(readers) == 1
        return sum(bool(where[spans(op)].any()) for op in readers) == 1

    def _of_sum(self, op: Op, where: Where) -> list[Part] | None:
        for number, other in (op.inputs, op.inputs[::-1]):
            if op.name == "add" and (given := self.number(op, number)):  # as in 1 + scale
                path = self._plain(other) if where is None else ""
                return [Part(path, float(given[1]), None)] if path else None
        return self._all(op, op.outputs[0], where, range(2))

    def _plain(self, node: Node) -> str:
        """The path of the weight that an array is, but for its shape and type."""
        while len(self.readers.get(node, ())) == 1 and node not in self.ends and not node.path:
            maker = self._makers.get(node)
            if node in self._outside:
                node = self._outside[node]
            elif maker and maker.name in REARRANGED and _is_real(node):
                node = maker.inputs[0]
            else:
                return ""
        alone = _is_real(node) and len(self.readers.get(node, ())) == 1
        return node.path if node.value is not None and alone else ""


def _is_real(node: Node) -> bool:
    """Whether an array can have a factor: whole numbers would be rounded."""
    return bool(jnp.issubdtype(node.dtype, jnp.inexact))


class Walk:
    """Factors on arrays, and what ends them.

    Attributes:
      weights: how they are scaled, by path.
      of: whose factors a weight ends, by path.
      numbers: by which factor the number changes that an operation reads.
      added: numbers that must take a factor.
    """

    def __init__(self, ways: Ways):
        self._ways = ways
        self._factors: dict[Node, float] = {}
        self._origins: dict[Node, Origins] = {}
        self._calls: dict[str, dict[Op, float]] = {}
        self.weights: dict[str, Scaled] = {}
        self.of: dict[str, Origins] = {}
        self.numbers: dict[Op, float] = {}
        self.added: list[Number] = []

    def scaled(self, node: Node, factor: float, origins: Origins, op: Op) -> bool:
        """Divide weights that scale an array by its factor in an operation; False if none do."""
        found = self._ways.weights(node, None, op)
        self._scale(found or (), factor, origins)
        return found is not None

    def _scale(self, parts: Iterable[Part], factor: float, origins: Origins) -> None:
        for path, plus, where, call in parts:
            if call:  # it reads all of the weight, and nothing is added before
                by = self._calls.setdefault(path, {})
                by[call] = by.get(call, 1.0) / factor
            else:
                scaled = self.weights.get(path, Scaled(1.0))
                self.weights[path] = Scaled(scaled.times(1 / factor, where), plus)
            self.of[path] = self.of.get(path, frozenset()) | origins

    def start(self, node: Node, factor: float, origins: Origins) -> None:
        """Give an array a factor."""
        factor *= self._factors.get(node, 1.0)
        self._factors[node] = 1.0 if abs(factor - 1) < ROUNDING else factor
        self._origins[node] = origins | self._origins.get(node, frozenset())

    def run(self) -> list[Stuck]:
        """Follow the factors until all have ended, or cannot."""
        stuck = []
        order, waiting = self._ways.order, {*self._factors}
        ops = {order[op]: op for node in waiting for op in self._ways.readers.get(node, ())}
        while ops:
            op = ops.pop(min(ops))
            given = [self._factors.get(node, 1.0) for node in op.inputs]
            if all(one == 1 for one in given):
                continue
            origins = frozenset[int]().union(*(self._origins.get(n, ()) for n in op.inputs))
            factor = self._made(op, given, origins)
            if factor is None:
                if not self._ended_by_pieces(op, given, origins):
                    stuck.append(Stuck(origins, f"after `{op.name}` at {place(op)}"))
                continue
            out = op.outputs[0]
            if abs(factor - 1) > ROUNDING and not self._ended(op, given, factor, origins):
                self.start(out, factor, origins)
                ops |= {order[one]: one for one in self._ways.readers.get(out, ())}
        last = [n for n, factor in self._factors.items() if factor != 1 and n in self._ways.ends]
        stuck += [Stuck(self._origins[node], "before the outputs") for node in last]
        return stuck + self._shared()

    def _shared(self) -> list[Stuck]:
        """Scale weights that several calls read, unless these need different factors."""
        stuck = []
        for path, by in self._calls.items():
            factors = [*by.values()]
            everywhere = len(by) == len(self._ways.calls(path))
            if everywhere and np.allclose(factors, factors[0], rtol=ROUNDING, atol=0):
                self.weights[path] = Scaled(factors[0])
            else:
                stuck.append(Stuck(self.of[path], f"in {path}, which other calls need as it is"))
        return stuck

    def _ended(self, op: Op, given: Sequence[float], factor: float, origins: Origins) -> bool:
        """Whether an operation multiplies by weights that end the factor."""
        if op.name != "mul" and op.name not in PRODUCTS:
            return False
        free = [node for node, one in zip(op.inputs[:2], given, strict=False) if one == 1]
        return any(self.scaled(node, factor, origins, op) for node in free)

    def _ended_by_pieces(self, op: Op, given: Sequence[float], origins: Origins) -> bool:
        """Whether parts of weights that read a concatenation, or a stack, end all factors."""
        parts, out = [], op.outputs[0]
        if op.name not in JOINS or out in self._ways.ends:
            return False
        for reader in self._ways.readers.get(out, ()):
            for n, one in enumerate(given):
                where = piece(op, n, reader)
                found = None if where is None else self._ways.weights(reader.inputs[1], where)
                if found is None:
                    return False
                parts.append((found, one))
        for found, one in parts:
            self._scale(found, one, origins)
        return True

    def _made(self, op: Op, given: Sequence[float], origins: Origins) -> float | None:
        """The factor of what an operation makes of arrays with these; None where it has none."""
        if op.bodies or len(op.outputs) != 1 or not _is_real(op.outputs[0]):
            return None
        if op.name in POWERS:
            return given[0] ** POWERS[op.name]
        if op.name == "integer_pow":
            return given[0] ** op.params["y"]
        if op.name == "mul" or op.name in PRODUCTS:
            return given[0] * given[1]
        if op.name == "div":
            return given[0] / given[1]
        if op.name == "pow" and (power := self._ways.number(op, op.inputs[1])):
            return given[0] ** float(power[1])
        if op.name == "select_n" and given[0] == 1:
            return self._sum(op, op.inputs[1:], given[1:], origins)
        return self._sum(op, op.inputs, given, origins) if op.name in SUMS else None

    def _sum(
        self, op: Op, nodes: Sequence[Node], given: Sequence[float], origins: Origins
    ) -> float | None:
        factor = next(one for one in given if one != 1)
        for node, one in zip(nodes, given, strict=True):
            number = self._ways.number(op, node)
            if number is None:
                same = np.isclose(one, factor, rtol=ROUNDING, atol=0)
                if not same and not (one == 1 and self.scaled(node, 1 / factor, origins, op)):
                    return None
            elif number[1] != 0 and np.isfinite(number[1]):
                self.added.append(Number(*number, factor, origins))
        return factor
