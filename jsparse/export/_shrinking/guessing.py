"""Sizes that custom modules store, found by trying.

1. An operation at fault has axes that lose positions. An attribute of a module around it that is as
   large as such an axis was may be the size that the code has there. If none is right, one that is
   as large as any axis that loses positions may be.
2. In a copy, such an attribute is set to the new length, in all modules of its class at once, and
   the copy is traced again. If the operation then does the same and none before it is at fault, the
   code reads the attribute there.
3. An attribute is set if it is the only one that is right. If none is, two are set if they are the
   only ones that are right together. The next fault follows, until none is left or nothing is
   certain.
4. What makes the example right is tested on inputs of other shapes (`other_shapes`). Attributes
   with which the smaller model is another one there are not tried again. A number that changes
   otherwise there is at fault, though weights compensate for it in the example; a power of a
   width needs no test.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse._bridge import attributes, is_user_code
from jsparse._jaxprs import by_distance
from jsparse._paths import listed
from jsparse._slots import walk_modules
from jsparse.export._shrinking.attributes import Attributes, merged, set_in_place, sizes_stored
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.other_shapes import OtherShapes
from jsparse.export._shrinking.rescale import Made
from jsparse.export._shrinking.source import place
from jsparse.export._shrinking.verify import Fault
from jsparse.optim._notices import warn_at_caller

MOST = 4  # attributes, beyond which no pairs are tried
UNSEEN = {"pure_callback", "io_callback"}  # run code that may read any attribute
Key = tuple[type, str]
"""A class of modules, and the name of an attribute."""
Lengths = Mapping[int, int]
"""What axes of one length become as long as."""


class Option(NamedTuple):
    """Attributes to set together, their values, and the operations at fault without these."""

    keys: frozenset[Key]
    values: Attributes
    ops: frozenset[Op]


class Guesses:
    """Finds sizes that modules of the full model store; remembers what was tried in vain."""

    def __init__(self, model: nnx.Module, inputs: tuple, graph: Graph):
        self._model, self._graph = model, graph
        self._others = OtherShapes(model, inputs, graph)
        self._refused: dict[Key, str] = {}
        self._nodes = graph.nodes()
        self._unseen = any(op.name in UNSEEN for op in graph.all_ops)
        self._vain: set[tuple] = set()

    def made(
        self, small: nnx.Module, removal: Removal, again: Callable[[Any], Made]
    ) -> tuple[Made, Attributes]:
        """A smaller model with the sizes that it needs, and the attributes that were set.

        `again`: from a smaller model to what it computes, and its faults.
        """
        made, found = again(small), dict[str, dict[str, Any]]()
        sure = lambda faults: [fault for fault in faults if fault.sure]
        while made.faults and (chosen := self._next(sure(made.faults), small, removal, again)):
            made, small, values = chosen
            found = merged(found, values)
        if not made.faults and not found:
            made = made._replace(faults=self._wrong_numbers(made, removal))
        return made._replace(faults=list(map(self._naming_refused, made.faults))), found

    def made_for_other_shapes(
        self, small: nnx.Module, removal: Removal, again: Callable[[Any], Made]
    ) -> tuple[Made, Attributes]:
        """The same, with attributes that are right for inputs of other shapes too."""
        while True:
            made, found = self.made(small, removal, again)
            if made.faults or self.fit_other_shapes(made.small, made.graph, found):
                return made, found

    def fit_other_shapes(self, small: nnx.Module, graph: Graph, guessed: Attributes) -> bool:
        """Whether attributes that were set fit inputs of other shapes; if not, refuse them.

        `graph`: what the smaller model computes for the example.
        """
        new = {(path, name): size for path, own in guessed.items() for name, size in own.items()}
        if not new:
            return True
        modules = dict(walk_modules(self._model))
        old = [attributes(modules[path])[name] for path, name in new]
        lengths = {*old, *new.values(), 2 * max(old)}
        lengths |= {2} if min(lengths) > 3 else set()
        wrong = self._others.first_difference(small, graph, lengths - {1})
        if wrong is None:
            return True
        inputs, op = wrong
        at = f" at {place(op)}" if op else ""
        for path, name in new:
            text = f"{path}.{name}".lstrip(".")
            text += f" fits the example, but not inputs of shape {inputs}{at}"
            self._refused[type(modules[path]), name] = text
        return False

    def _wrong_numbers(self, made: Made, removal: Removal) -> list[Fault]:
        """The numbers that weights compensate for in the example, but not at other lengths."""
        weights = [n for n in self._graph.variables if n.path in made.changes.weights]
        widths = _pairs(weights, removal)
        doubtful = [op for op, by in made.changes.numbers.items() if not _is_power(op, by, widths)]
        if not doubtful:
            return []
        lengths = {2, 2 * max((before for before, _ in widths), default=1), *self._others.doubled()}
        ops = self._others.changed_by_lengths(doubtful, lengths)
        wrong = self._others.first_difference(made.small, made.graph, lengths) if ops else None
        if wrong is None:
            return []
        text = "reads a number that depends on a width and a length; weights can compensate for it "
        text += f"in the example, but not for inputs of shape {wrong[0]}"
        return [Fault(text, op, _arrays_met(self._graph, op)) for op in ops]

    def _naming_refused(self, fault: Fault) -> Fault:
        """The fault, with the attributes around it that were refused."""
        near = self._near(fault.op) if fault.op and self._refused else []
        kinds = {type(module) for path, module in walk_modules(self._model) if _around(path, near)}
        told = [text for (kind, _), text in self._refused.items() if kind in kinds]
        return dataclasses.replace(fault, text="; ".join([fault.text, *told])) if told else fault

    def _next(
        self, faults: list[Fault], small: nnx.Module, removal: Removal, again: Callable[[Any], Made]
    ) -> tuple[Made, nnx.Module, Attributes] | None:
        """The only attribute, or pair, that mends some of the faults; None if it is not certain."""
        if self._unseen:
            return None
        ends = lambda op: _lengths([*op.inputs, *op.outputs], removal)
        everywhere = _lengths(self._nodes, removal)
        near = self._options(faults, small, ends)
        far = self._options(faults, small, lambda op: everywhere)
        here = frozenset(f.op for f in faults), tuple(map(removal.kept_shape, self._nodes))
        for single in (near, far):
            pairs = itertools.combinations(single, 2) if len(single) <= MOST else ()
            for options in (single, [_both(*two) for two in pairs]):
                right = []
                for keys, values, ops in options:
                    if (keys, ops, *here) in self._vain:
                        continue
                    changed = _with(small, values)
                    made = again(changed) if changed else None
                    if made and self._mends(made.faults, faults, ops):
                        right.append((made, changed, values))
                    else:
                        self._vain.add((keys, ops, *here))
                if right:
                    return right[0] if len(right) == 1 else None
        return None

    def _mends(self, now: list[Fault], before: list[Fault], ops: Iterable[Op]) -> bool:
        """Whether the faults at some operations are gone, and no new one is before them.

        An error hides what is before it, so numbers there may turn out to follow a width.
        """
        known = {fault.op for fault in before} - {*ops}
        new = [fault for fault in now if fault.sure and fault.op not in known]
        order, first = self._graph.order, min(self._graph.order[op] for op in ops)
        return all(
            fault.op is not None
            and fault.op not in ops
            and (order[fault.op] > first or fault.factor)
            for fault in new
        )

    def _options(
        self, faults: list[Fault], small: nnx.Module, lengths: Callable[[Op], Lengths]
    ) -> list[Option]:
        """Attributes around operations at fault that are as large as an axis was."""
        modules = [(path, module) for path, module in walk_modules(small) if is_user_code(module)]
        found: dict[Key, Option] = {}
        doubtful: set[Key] = set()
        for fault in faults:
            if fault.op is None or not (new := lengths(fault.op)):
                continue
            near = self._near(fault.op)
            for path, module in modules:
                if not _around(path, near):
                    continue
                for name, value in sizes_stored(module).items():
                    key = type(module), name
                    if not isinstance(value, int) or value not in new or key in self._refused:
                        continue
                    one = found.get(key, Option(frozenset([key]), {}, frozenset()))
                    found[key] = one._replace(ops=one.ops | {fault.op})
                    if one.values.setdefault(path, {}).setdefault(name, new[value]) != new[value]:
                        doubtful.add(key)
        return [one for key, one in found.items() if key not in doubtful]

    def _near(self, op: Op) -> list[str]:
        """The paths of the variables nearest before an operation, or else after it."""
        back = lambda node: self._graph.before.get(node, ())
        on = lambda node: [
            n for op in self._graph.readers.get(node, ()) for n in (*op.inputs, *op.outputs)
        ]
        for start, onward in ((op.inputs, back), (op.outputs, on)):
            for nodes in by_distance(start, onward):
                if paths := [node.path for node in nodes if node.path]:
                    return paths
        return []


def _arrays_met(graph: Graph, op: Op) -> tuple[Node, ...]:
    """The arrays beside a number, at the operation that reads it or at the next ones."""
    onward = lambda op: [reader for out in op.outputs for reader in graph.readers.get(out, ())]
    for ops in by_distance([op], onward):
        if near := tuple(n for op in ops for n in op.inputs if n.shape):
            return near
    return ()


def _around(path: str, variables: Iterable[str]) -> bool:
    """Whether a module holds any of some variables."""
    inside = f"{path}/" if path else ""
    return any(one.startswith(inside) for one in variables)


def _with(small: nnx.Module, values: Attributes) -> nnx.Module | None:
    """A copy with attributes set; None if a module refuses them."""
    changed = nnx.clone(small)
    try:
        set_in_place(changed, values)
    except Exception:  # the `__setattr__` of others may raise anything
        return None
    return changed


def tell_of_guesses(guessed: Attributes) -> None:
    """Warn that sizes were found by trying; the rest of the code may read them otherwise."""
    if names := [f"{path}.{name}".lstrip(".") for path, own in guessed.items() for name in own]:
        warn_at_caller(
            f"{listed(names, 3)}: set to the new size because that is right for the example "
            "inputs. Where the code also uses it otherwise (in another method, in a branch, for "
            "inputs of another shape), results change; then say with mend=... what sizes to store"
        )


def _lengths(nodes: Iterable[Node], removal: Removal) -> Lengths:
    """The new lengths of axes that lose positions, where all axes of one length lose as many."""
    pairs = _pairs(nodes, removal)
    several = Counter(before for before, _ in pairs)
    return {before: after for before, after in pairs if several[before] == 1}


def _pairs(nodes: Iterable[Node], removal: Removal) -> set[tuple[int, int]]:
    """The lengths of axes that lose positions, before and after."""
    return {
        (before, after)
        for node in nodes
        for before, after in zip(node.shape, removal.kept_shape(node), strict=True)
        if before != after
    }


def _is_power(op: Op, factor: float, widths: Iterable[tuple[int, int]]) -> bool:
    """Whether a number that an operation reads is a width, its root, or one over them."""
    numbers = [n.value.item() for n in op.inputs if n.value is not None and not n.shape]
    powers = [(float(w) ** p, (k / w) ** p) for w, k in widths for p in (1, 0.5, -0.5, -1)]
    return any(np.allclose([n, factor], one, rtol=1e-6) for n in numbers for one in powers)


def _both(first: Option, second: Option) -> Option:
    values = merged(first.values, second.values)
    return Option(first.keys | second.keys, values, first.ops | second.ops)
