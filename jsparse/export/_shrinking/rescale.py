"""Weights and numbers that compensate for a factor, where a number in the code follows a width.

An attention divides by the square root of the width of its heads. Cut to half of it, the logits
would be larger by the square root of 2; so the query's weights become smaller by it. An RMS norm
divides a sum of squares by the width W of a stream. Cut to K of it, the others being zeros,
mean_W = K/W mean_K and 1 / sqrt(mean_W + eps) = sqrt(W/K) / sqrt(mean_K + W/K eps): epsilon becomes
larger by W/K, and the scale by the root of it.

1. Follow the number through operations on numbers alone to a product or a quotient with an array.
2. Go back from that array, along what is linear in it, to weights that nothing else reads.
3. If there are none, go on to what reads the result (`onward`), until weights end the factor.
4. Numbers that are added along the way must take the factor: set the attributes that store them.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse._slots import slots
from jsparse.export._shrinking.attributes import Attributes, holders, set_in_place
from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.onward import SAME, Stuck, Walk, Ways
from jsparse.export._shrinking.operations import bind
from jsparse.export._shrinking.places import Scaled
from jsparse.export._shrinking.source import place
from jsparse.export._shrinking.verify import Fault, Numbers


@dataclasses.dataclass(frozen=True)
class Changes:
    """What compensates for numbers that change: scaled weights, by path, and new attributes.

    `numbers` has the factor by which the number changes that an operation reads.
    """

    weights: dict[str, Scaled] = dataclasses.field(default_factory=dict)
    numbers: dict[Op, float] = dataclasses.field(default_factory=dict)
    attributes: Attributes = dataclasses.field(default_factory=dict)

    @property
    def factors(self) -> dict[str, float]:
        """By which each weight is multiplied, by path, or by path and places of a part of it."""
        return {k: v for path, one in self.weights.items() for k, v in one.by_path(path).items()}


Compared = Callable[[nnx.Module, Numbers], tuple[Graph, list[Fault]]]
"""What a smaller model computes, and its faults, given numbers that change."""


class Made(NamedTuple):
    """A smaller model, what it computes, what was changed in it, and the faults that remain."""

    small: Any
    graph: Graph
    changes: Changes
    faults: list[Fault]


def as_cut(small: nnx.Module, cuts: Mapping[str, Cut], compared: Compared) -> Made:
    """A smaller model without compensation for faults."""
    graph, found = compared(small, {})
    return Made(small, graph, Changes(), found)


End = tuple[Op, Node | None, float]
"""Where a factor meets an array: the operation, the array unless it divides the number, and the
factor that the output gets."""


class Rescale:
    """What a model has that can compensate for factors."""

    def __init__(self, model: nnx.Module, graph: Graph):
        statistics = {s.path for s in slots(model) if isinstance(s.value, nnx.BatchStat)}
        self._model, self._ways = model, Ways(graph, statistics)
        self._fixed: set[Op] = set()

    def made_up(
        self,
        small: nnx.Module,
        cuts: Mapping[str, Cut],
        compared: Compared,
        partial: Callable[[], Collection[Node]] = tuple,
    ) -> Made:
        """A smaller model in which weights and numbers compensate for the factors of faults.

        No factor compensates for a sum in `partial`, which loses terms other than zeros.
        """
        graph, found = compared(small, {})
        with_changes = functools.partial(_changed, small, cuts, compared)
        while True:
            changes, left = self._canceled(found, partial)
            if not changes.numbers:
                return Made(small, graph, changes, left)
            made = _with_what_is_read(with_changes, changes)
            fixed = _fixed(made)
            if not fixed:
                known = {(fault.op, fault.factor): fault for fault in left}
                again = [known.get((fault.op, fault.factor), fault) for fault in made.faults]
                return made._replace(faults=again)
            self._fixed |= fixed  # another attribute has that value

    def _canceled(
        self, found: list[Fault], partial: Callable[[], Collection[Node]]
    ) -> tuple[Changes, list[Fault]]:
        """What compensates for the factors of some faults, and the faults that remain."""
        left: dict[int, Fault] = {}
        while True:
            waiting = {n: fault for n, fault in enumerate(found) if n not in left}
            changes, stuck = self._attempt(waiting, partial)
            if not stuck:
                return changes, [left[n] for n in sorted(left)]
            # where several factors meet, the one that started last is at fault
            order = lambda n: self._ways.order.get(found[n].op, -1)
            for n, text in ((max(one.origins, key=order), one.text) for one in stuck):
                why = f"{found[n].text}, and weights cannot make up for it {text}"
                left.setdefault(n, dataclasses.replace(found[n], text=why) if text else found[n])

    def _attempt(
        self, faults: dict[int, Fault], partial: Callable[[], Collection[Node]]
    ) -> tuple[Changes, list[Stuck]]:
        walk, stuck = Walk(self._ways), []
        for n, fault in faults.items():
            mine = frozenset([n])
            ends = self._ends(fault) if fault.factor > 0 and fault.op not in self._fixed else []
            cannot = any(node in partial() for op, *_ in ends for node in op.inputs)
            if fault.op is None or not ends or cannot:
                stuck.append(Stuck(mine))
                continue
            walk.numbers[fault.op] = fault.factor
            for op, array, factor in ends:
                if array is None or not walk.scaled(array, factor, mine, op):
                    walk.start(op.outputs[0], factor, mine)
        stuck += walk.run()
        changes = Changes(walk.weights, walk.numbers)
        for number in walk.added:
            paths = {path for path, origins in walk.of.items() if origins & number.origins}
            widths = dict(self._widths(faults[n]) for n in number.origins)
            there = holders(self._model, paths, number.value, widths)
            if not there or number.op in self._fixed:
                old = float(number.value)
                text = f"as `{number.op.name}` at {place(number.op)} reads {old:.6g}, which cannot "
                text += f"become {old * number.factor:.6g}, as no attribute holds it; make the "
                text += "number a float attribute of its module"
                stuck.append(Stuck(number.origins, text))
            changes.numbers[number.op] = number.factor
            for path, module, name in there:
                values = changes.attributes.setdefault(path, {})
                values[name] = getattr(module, name) * number.factor
                if (width := getattr(module, "num_features", 0)) in widths:
                    values["num_features"] = widths[width]
        return changes, stuck

    def _widths(self, fault: Fault) -> tuple[float, int]:
        """What the number at fault is, and what it becomes: the widths of a mean."""
        _, old = self._number(fault)
        return float(old), round(float(old) * fault.factor)

    @staticmethod
    def _number(fault: Fault) -> tuple[Node, np.ndarray]:
        """The number at fault, which is not among the nodes in which something was removed."""
        assert fault.op is not None
        number = next(node for node in fault.op.inputs if node not in fault.nodes)
        assert number.value is not None  # else it would have no factor
        return number, number.value.reshape(())

    def _ends(self, fault: Fault) -> list[End]:
        """Where the factor of a number meets arrays; none where it does something else."""
        assert fault.op is not None
        number, old = self._number(fault)
        new = np.asarray(old * fault.factor, old.dtype)
        return self._forward(fault.op, number, old, new) or []

    def _forward(self, op: Op, number: Node, old: np.ndarray, new: np.ndarray) -> list[End] | None:
        """Where a number that an operation reads, and that changes, meets arrays."""
        spreads = bool(op.outputs[0].shape) and len(op.inputs) == 1
        if op.bodies or len(op.outputs) != 1 or (spreads and op.name not in SAME):
            return None
        others = [node for node in op.inputs if node is not number]
        if all(node.value is not None and node.value.size == 1 for node in others):
            made = [self._made(op, number, value) for value in (old, new)]
            found: list[End] = []
            for reader in self._ways.readers.get(op.outputs[0], ()):
                one = self._forward(reader, op.outputs[0], *made)
                if one is None:
                    return None
                found += one
            return found
        if op.name not in ("mul", "div") or len(others) != 1 or not old or not new:
            return None
        if op.name == "div" and op.inputs[1] is number:
            return [(op, others[0], float(old) / float(new))]
        array = others[0] if op.name == "mul" else None
        return [(op, array, float(new) / float(old))]

    @staticmethod
    def _made(op: Op, number: Node, value: np.ndarray) -> np.ndarray:
        """What an operation makes of numbers: one of them, or an array filled with it."""
        given = [value if n is number else np.reshape(np.asarray(n.value), ()) for n in op.inputs]
        if op.outputs[0].shape:  # spread over an array
            return value
        with np.errstate(all="ignore"):
            return bind(op, *given)[0]


def _with_what_is_read(with_changes: Callable[[Changes], Made], changes: Changes) -> Made:
    """The changed model; of several attributes of a module with one value, those that it reads."""
    made = with_changes(changes)
    for path, values in changes.attributes.items():
        doubtful = values.keys() - {"num_features"}
        for name in sorted(doubtful) if len(doubtful) > 1 else ():
            rest = {
                key: value for key, value in made.changes.attributes[path].items() if key != name
            }
            attributes = made.changes.attributes | {path: rest}
            fewer = dataclasses.replace(changes, attributes=attributes)
            other = with_changes(fewer)
            worse = [(len(_fixed(one)), len(one.faults)) for one in (made, other)]
            made = other if worse[1] <= worse[0] else made
    return made


def _changed(
    small: nnx.Module, cuts: Mapping[str, Cut], compared: Compared, changes: Changes
) -> Made:
    """A smaller model with its weights scaled and its attributes set."""
    changed = nnx.clone(small)
    for slot in slots(changed):
        if slot.path in changes.weights:
            scaled = changes.weights[slot.path]
            slot.value[...] = scaled.of(slot.value[...], cuts.get(slot.path))
    set_in_place(changed, changes.attributes)
    graph, found = compared(changed, changes.numbers)
    return Made(changed, graph, changes, found)


def _fixed(made: Made) -> set[Op]:
    """The operations whose number should have changed, and did not."""
    numbers = made.changes.numbers
    return {fault.op for fault in made.faults if fault.factor and fault.op in numbers}
