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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse.export._shrinking.attributes import Attributes, Mend, heads, mend_in_place
from jsparse.export._shrinking.blame import removed_near
from jsparse.export._shrinking.contractions import tie_unsummed
from jsparse.export._shrinking.couplings import pin_ends, tie
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.guessing import Guesses
from jsparse.export._shrinking.links import Links
from jsparse.export._shrinking.liveness import NEEDS_WHOLE, WHOLE, Axis, Reason, Removal
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.plan import compared, cuts_of, groups_of, with_sizes
from jsparse.export._shrinking.rescale import Made, Rescale, merged
from jsparse.export._shrinking.signs import not_negative
from jsparse.export._shrinking.terms import averaged_at, ops_losing_terms, partial_sums, zeroed
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import Fault, apart, rounding

LOSES = "would lose terms other than 0 if they are cut"
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
        self._not_negative = not_negative(self.graph)
        self._tie_axes()
        classes = self._links.solved()
        self._label = classes.label
        self._rescale = Rescale(model, self.graph)
        self._guesses = Guesses(model, inputs, self.graph)
        self.families = self._families(classes.units())
        self.alike: list[set[int]] = []

    def _tie_axes(self) -> None:
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
        """A sum can do without any of its terms, and so can a maximum of what is at least 0."""
        reduced = axis in op.params.get("axes", ())
        if summed := reduced and op.name == "reduce_sum":
            self._sums.setdefault((node, axis), []).append(op)
        maximum = reduced and op.name == "reduce_max" and node in self._not_negative
        return np.full(node.shape[axis], summed or maximum)

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
            if not self._guesses.fit_other_shapes(one.model, one.graph, one.guessed):
                return None
            rest = self._not_averaged(one.means, gone) if one.means else {}
            return one if not rest or self.tried(rest, tests) else None
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
                sizes = fault.text != LOSES
                near = removed_near(self.graph, tested.removal, fault) if sizes else []
                told = with_sizes(self.model, self.graph, tested.removal, [fault], [near])
                reason = Reason(WHOLE, fault.op, next(told))
                self.families[n] = self.families[n]._replace(held=reason)
        return None

    def _not_averaged(self, means: Collection[Op], gone: Gone) -> Gone:
        """The units that are in no mean, so that the outputs without them can be compared."""
        over = {n for n in gone if not set(means).isdisjoint(self.families[n].sums)}
        over.update(*(one for one in self.alike if one & over))
        return {n: units for n, units in gone.items() if n not in over}

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
        partial = functools.cache(lambda: partial_sums(self.graph, removal, cuts))
        averaged: dict[Graph, frozenset[Op]] = {}

        def again(one: nnx.Module) -> Made:
            made = self._rescale.made_up(one, cuts, same, partial)
            means = averaged_at(self.graph, self._sums, removal, made.faults)
            averaged[made.graph] = frozenset(means.values())
            return made._replace(faults=[fault for fault in made.faults if fault not in means])

        (small, graph, changes, found), guessed = self._guesses.made(small, removal, again)
        attributes = merged(merged(attributes, guessed), changes.attributes)
        found += [
            Fault("would leave no position of an axis", None, (node,))
            for node in self.graph.nodes()
            if 0 in removal.kept_shape(node) and 0 not in node.shape
        ][:1]
        made = attributes, guessed, changes.factors
        one = Smaller(small, graph, removal, cuts, *made, averaged[graph], found)
        more = [] if found else next(filter(None, (test(self.graph, one) for test in tests)), [])
        return dataclasses.replace(one, faults=[*found, *more])

    def _blamed(self, smaller: Smaller, fault: Fault, gone: Gone) -> list[int]:
        """The families of which a unit was removed near a fault; all if none is known."""
        near: set[int] = set()
        for node, axis in removed_near(self.graph, smaller.removal, fault):
            labels = self._label[self._links.at((node, axis))]
            near.update(labels[smaller.removal.removed(node, axis)].tolist())
        units = {n: np.concatenate([self.families[n].units[u] for u in gone[n]]) for n in gone}
        return [n for n, classes in units.items() if near.intersection(classes.tolist())] or [*gone]


def same_sums(full: Graph, small: Smaller) -> list[Fault]:
    """A fault at each operation that loses terms which are not 0 even if the units are zeros."""
    ops = ops_losing_terms(full, small.removal, small.cuts)
    return [Fault(LOSES, op, tuple(op.inputs)) for op in ops if op not in small.means]


def same_outputs(full: Graph, small: Smaller) -> list[Fault]:
    """A fault if the outputs are not those with zeros; none where a mean may change them."""
    if small.means:
        return []
    off = apart(full.run(zeroed(full, small.cuts)), small.graph.run({}))
    if off <= rounding(full.nodes()):
        return []
    return [Fault(f"gives outputs that are off by {off:.1e} of the largest if they are cut")]


TESTS: Tests = (same_sums, same_outputs)
