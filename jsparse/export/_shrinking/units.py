"""The units of a model: which positions are removed together, and the model without some.

1. Trace the model; let each operation say which positions it joins (`links`).
2. Units with the same axes are a family: the width of a residual stream, the heads of an attention.
3. Cut some units of some families, trace the smaller model, and compare it operation by operation
   with the cut one (`verify`). Where a number follows a width, weights compensate for it
   (`rescale`), or a mean is over the units that are left. Families at other faults are held, by the
   operation where it shows.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse._jaxprs import reached
from jsparse.export._shrinking.attributes import Attributes, Mend, heads, mend_in_place
from jsparse.export._shrinking.blame import removed_near
from jsparse.export._shrinking.constants import Known, know, nonzero
from jsparse.export._shrinking.contractions import LINKS, tie_unsummed
from jsparse.export._shrinking.couplings import pin_ends, tie
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.guessing import Guesses
from jsparse.export._shrinking.links import Links
from jsparse.export._shrinking.liveness import NEEDS_WHOLE, WHOLE, Axis, Reason, Removal
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.plan import compared, cuts_of, groups_of, with_sizes
from jsparse.export._shrinking.rescale import Rescale, merged
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import Fault, apart, rounding

NEAREST = 4  # families of the same width that are tried as a pair


class Family(NamedTuple):
    """Units that have the same axes.

    Attributes:
      axes: that the units have positions on.
      units: the classes of each.
      held: what holds them; none if nothing does.
      sums: the operations that sum over them.
    """

    axes: tuple[Axis, ...]
    units: tuple[np.ndarray, ...]
    held: Reason | None
    sums: tuple[Op, ...]


@dataclasses.dataclass(frozen=True)
class Smaller:
    """A model without some units.

    Attributes:
      model: smaller.
      graph: what it computes.
      removal: what was removed.
      cuts: by path of the variable.
      attributes: new values by path of the module and name.
      guessed: those of them that were found by trying.
      factors: that weights were multiplied by, by path, as a number in the code follows a width.
      means: sums over units that are divided by how many are left.
      faults: where it does not compute what the full model would without these units.
    """

    model: Any
    graph: Graph
    removal: Removal
    cuts: dict[str, Cut]
    attributes: Attributes
    guessed: Attributes
    factors: dict[str, float]
    means: frozenset[Op]
    faults: list[Fault]


Gone = Mapping[int, Sequence[int]]
"""Units, by the number of their family."""
Tests = Sequence[Callable[[Graph, Smaller], list[Fault]]]
"""What is tested in a smaller model besides its operations."""


class Units:
    """The units of a model without rules.

    Args:
      model: without rules.
      inputs: of a call.
      mend: see `shrink`.

    Attributes:
      families: of all units that have axes of variables.
      alike: sets of families, by number, that the code requires to have the same width.
    """

    def __init__(self, model: nnx.Module, inputs: tuple, mend: Mend):
        self.model, self.inputs, self.mend = model, inputs, mend
        self.graph = trace(model, inputs)
        self._links = Links(self.graph)
        self._sums: dict[Axis, list[Op]] = {}
        self._say()
        classes = self._links.solved()
        self._label = classes.label
        self._rescale = Rescale(model, self.graph)
        self._guesses = Guesses(model, inputs, self.graph)
        self.families = self._families(classes.units())
        self.alike: list[set[int]] = []

    def _say(self) -> None:
        links = self._links
        pin_ends(self.graph, (), links)
        nodes = {node.path: node for node in self.graph.variables}
        for axes in heads(self.model):
            there = [(nodes[path], len(nodes[path].shape) + axis) for path, axis in axes]
            links.tie(*([axis] for axis in there))
        for op in self.graph.all_ops:
            if op.name not in PRODUCTS:
                links.because(Reason(WHOLE, op, NEEDS_WHOLE))
                tie(op, links, self._summed)
            elif (shape := tie_unsummed(op, links)) is not None and not op.extra:
                for x, y in shape.summed:
                    links.tie([(op.inputs[0], x)], [(op.inputs[1], y)])

    def _summed(self, op: Op, node: Node, axis: int) -> np.ndarray:
        """A sum can do without any of its terms."""
        sums = op.name == "reduce_sum" and axis in op.params["axes"]
        if sums:
            self._sums.setdefault((node, axis), []).append(op)
        return np.full(node.shape[axis], sums)

    def _families(self, units: list[Any]) -> list[Family]:
        order = np.argsort(self._label, kind="stable")
        starts = np.searchsorted(self._label[order], np.arange(self._label.max(initial=-1) + 2))
        owner = self._links.owner[order]
        on = lambda n: np.unique(owner[starts[n] : starts[n + 1]])
        weights = {k for k, (node, _) in enumerate(self._links.axes) if node.path}
        found: dict[tuple, list[np.ndarray]] = {}
        for unit in units:
            axes = np.unique(np.concatenate([on(n) for n in unit.classes]))
            if weights.intersection(axes.tolist()):
                found.setdefault((axes.tobytes(), unit.held), []).append(unit.classes)
        made = []
        for (axes, held), classes in found.items():
            mine = tuple(self._links.axes[n] for n in np.frombuffer(axes, int))
            sums = [op for axis in mine for op in self._sums.get(axis, ())]
            made.append(Family(mine, tuple(classes), held, tuple(dict.fromkeys(sums))))
        return made

    def on(self, family: Family, axis: Axis) -> np.ndarray:
        """The number of the unit of each position of an axis, -1 for none: [n]."""
        number = np.full(self._label.max() + 1, -1)
        for n, classes in enumerate(family.units):
            number[classes] = n
        return number[self._label[self._links.at(axis)]]

    def removal(self, gone: Iterable[np.ndarray]) -> Removal:
        """Without some classes."""
        marks = np.zeros(self._label.max() + 1, bool)
        for classes in gone:
            marks[classes] = True
        at = {axis: marks[self._label[self._links.at(axis)]] for axis in self._links.axes}
        return Removal.of(self.graph, at)

    def tried(self, gone: Gone, tests: Tests) -> Smaller | None:
        """The model without some units; None if families, or sizes found, turned out wrong."""
        one = self.smaller(gone, tests)
        if not one.faults:
            return one if self._guesses.hold(one.model, one.graph, one.guessed) else None
        blamed = [self._blamed(one, fault, gone) for fault in one.faults]
        sure = [found[0] for found in blamed if len(found) == 1]
        # a fault may follow from another one: each by itself, with those that are good together;
        # first those that alone are near a fault, then all that are near one, then the rest
        good: list[int] = []
        held: dict[int, tuple[Smaller, Fault]] = {}
        for suspects in (sure, itertools.chain(*blamed), gone):
            for n in dict.fromkeys(suspects):
                if n in good or n in held:
                    continue
                mine = {n}.union(*(one & gone.keys() for one in self.alike if n in one))
                tested = self.smaller({k: gone[k] for k in (*good, *mine)}, tests)
                if tested.faults:
                    held |= dict.fromkeys(mine, (tested, tested.faults[0]))
                else:
                    good += mine
            if held:
                break
        held = held or dict.fromkeys(good, (one, one.faults[0]))
        before = [*self.alike]
        for n, (tested, fault) in held.items():
            self._pair(n, {k: gone[k] for k in good}, fault, tests)
            if not any(n in one for one in self.alike if one not in before):
                near = removed_near(self.graph, tested.removal, fault)
                told = with_sizes(self.model, self.graph, tested.removal, [fault], [near])
                reason = Reason(WHOLE, fault.op, next(told))
                self.families[n] = self.families[n]._replace(held=reason)
        return None

    def _pair(self, n: int, good: Gone, fault: Fault, tests: Tests) -> None:
        """Find a family with which this one shrinks if both keep the same width.

        Attention may require queries and values of the same width. If the fault of this family
        remains even when each of the others loses a unit as well, none of them is its partner.
        """
        width = len(self.families[n].units)
        same = [k for k, one in enumerate(self.families) if one.held is None and k != n]
        same = [k for k in same if len(self.families[k].units) == width]
        near = sorted(same, key=lambda k: abs(k - n))[:NEAREST]
        near = [k for k in near if not any({n, k} <= one for one in self.alike)]
        all_of_them = {n, *near}.union(*(one for one in self.alike if one & {n, *near}))
        without = {**good, **dict.fromkeys(all_of_them, (width - 1,))}
        if len(near) > 1 and fault in self.smaller(without, ()).faults:
            return
        for k in near:
            joined = [one for one in self.alike if one & {n, k}]
            both = {n, k}.union(*joined)
            last = dict.fromkeys(both, (width - 1,))
            if not self.smaller({**good, **last}, tests).faults:
                self.alike = [one for one in self.alike if one not in joined] + [both]
                return

    def smaller(self, gone: Gone, tests: Tests) -> Smaller:
        """The model without some units, and what is wrong with it."""
        classes = [self.families[n].units[unit] for n, units in gone.items() for unit in units]
        removal = self.removal(classes)
        small = nnx.clone(self.model)
        cuts = cuts_of(self.graph, removal)
        cut_in_place(small, cuts, {})
        attributes = mend_in_place(small, groups_of(self.model, self.graph, removal), self.mend)
        same = functools.partial(compared, self.graph, self.inputs, removal)
        partial = functools.cache(lambda: self._partial(removal, cuts))
        again = lambda one: self._rescale.made_up(one, cuts, same, partial)
        (small, graph, changes, found), guessed = self._guesses.made(small, removal, again)
        attributes = merged(merged(attributes, guessed), changes.attributes)
        found += [
            Fault("would leave no position of an axis", None, (node,))
            for node in self.graph.nodes()
            if 0 in removal.kept_shape(node) and 0 not in node.shape
        ][:1]
        means: dict[Fault, Op] = {}
        for sum_op, divides, ratio in self._means(removal):
            near = [f for f in found if f.op is divides]
            means |= {f: sum_op for f in near if np.isclose(f.factor, [ratio, 1 / ratio]).any()}
        found = [fault for fault in found if fault not in means]
        averaged = frozenset(means.values())
        made = attributes, guessed, changes.factors
        one = Smaller(small, graph, removal, cuts, *made, averaged, found)
        more = () if found else (fault for test in tests for fault in test(self.graph, one))
        return dataclasses.replace(one, faults=[*found, *more])

    def _blamed(self, smaller: Smaller, fault: Fault, gone: Gone) -> list[int]:
        """The families of which a unit was removed near a fault; all if none is known."""
        near: set[int] = set()
        for node, axis in removed_near(self.graph, smaller.removal, fault):
            labels = self._label[self._links.at((node, axis))]
            near.update(labels[smaller.removal.removed(node, axis)].tolist())
        units = {n: np.concatenate([self.families[n].units[u] for u in gone[n]]) for n in gone}
        return [n for n, classes in units.items() if near.intersection(classes.tolist())] or [*gone]

    def _partial(self, removal: Removal, cuts: Mapping[str, Cut]) -> set[Node]:
        """Sums that lose terms other than zeros, with zeros where something is cut."""
        values = zeroed(self.graph, cuts)
        given = {path: Known(v, np.zeros(v.shape, bool)) for path, v in values.items()}
        knowledge = know(self.graph, given)
        found: set[Node] = set()
        for (node, axis), ops in self._sums.items():
            may = nonzero(node, knowledge)
            gone = removal.removed(node, axis)
            if gone.any() and (may is None or np.moveaxis(may, axis, 0)[gone].any()):
                found.update(out for op in ops for out in op.outputs)
        readers = self.graph.readers
        links = lambda node: [op for op in readers.get(node, ()) if op.name in LINKS]
        return {*reached(found, lambda node: [out for op in links(node) for out in op.outputs])}

    def _means(self, removal: Removal) -> Iterator[tuple[Op, Op, float]]:
        """Sums of which terms go, what may divide each by their number, and how that changes."""
        readers, made = self.graph.readers, self.graph.makers
        read_by = lambda op: [reader for out in op.outputs for reader in readers.get(out, ())]

        def onward(reader: Op) -> list[Op]:
            number = reader.name in ("div", "mul") and any(not n.shape for n in reader.inputs)
            # a number: as where a variance is summed again
            return read_by(reader) if number or reader.name in LINKS | {"select_n"} else []

        for (node, _), ops in self._sums.items():
            for op in ops:
                axes = op.params["axes"]
                before = np.prod([node.shape[axis] for axis in axes])
                after = np.prod([removal.kept_shape(node)[axis] for axis in axes])
                if before == after or not after:
                    continue
                for reader in reached(read_by(op), onward):
                    if reader.name in ("div", "mul"):  # by n, or by n - ddof
                        by = (made[n] for n in reader.inputs if n in made)
                        for divides in (reader, *(one for one in by if one.name == "sub")):
                            yield op, divides, float(after / before)


def zeroed(graph: Graph, cuts: Mapping[str, Cut]) -> dict[str, np.ndarray]:
    """The variables that are cut, with zeros in place of what goes, by path."""
    values = {n.path: n.value for n in graph.variables if n.path in cuts}
    return {path: cuts[path].zeroed(v) for path, v in values.items() if v is not None}


def same_outputs(full: Graph, small: Smaller) -> list[Fault]:
    """A fault if a model gives other outputs than one with zeros; a mean over what is left may."""
    if small.means:
        return []
    off = apart(full.run(zeroed(full, small.cuts)), small.graph.run({}))
    if off <= rounding(full.nodes()):
        return []
    return [Fault(f"gives outputs that are off by {off:.1e} of the largest if they are cut")]
