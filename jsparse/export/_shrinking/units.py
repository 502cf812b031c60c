"""The units of a model: which positions are removed together, and the model without some.

1. Trace the model; let each operation say which positions it joins (`links`).
2. Units with as many positions on the same axes are a family: the width of a residual stream, the
   heads of an attention.
3. Cut some units of some families, trace the smaller model, and compare it operation by operation
   with the cut one (`verify`). Where a number follows a width, weights compensate for it
   (`rescale`), or a mean is over the units that are left. Families at other faults are held, by the
   operation where it shows, unless others have to lose units with them (`shares`).
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from flax import nnx

from jsparse.export._shrinking.attributes import Mend, heads, mend_in_place, merged
from jsparse.export._shrinking.blame import removed_near
from jsparse.export._shrinking.contractions import tie_unsummed
from jsparse.export._shrinking.couplings import pin_ends, tie
from jsparse.export._shrinking.cut import cut_in_place
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.guessing import Guesses
from jsparse.export._shrinking.links import Classes, Links
from jsparse.export._shrinking.liveness import NEEDS_WHOLE, WHOLE, Axis, Reason, Removal
from jsparse.export._shrinking.operations import PRODUCTS
from jsparse.export._shrinking.plan import compared, cuts_of, groups_of, with_sizes
from jsparse.export._shrinking.rescale import Made, Rescale
from jsparse.export._shrinking.shares import Family, Parts, Spread, Step
from jsparse.export._shrinking.signs import not_negative
from jsparse.export._shrinking.smaller import LOSES, Smaller, same_outputs, same_sums
from jsparse.export._shrinking.terms import averaged_at, partial_sums
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import Fault

NEAREST = 4  # families of the same width that are tried as a pair
LARGEST = 2  # families of which a width may be a fraction
Gone = Mapping[int, Sequence[int]]
"""Units, by the number of their family."""


class Units:
    """The units of a model without rules, called with some inputs; `mend`: see `shrink`.

    Attributes:
      families: of all units that have axes of variables.
      alike: steps of families that the code requires to lose units together, without families in
        common.
    """

    def __init__(self, model: nnx.Module, inputs: tuple, mend: Mend):
        self.model, self.inputs, self.mend = model, inputs, mend
        self.graph = trace(model, inputs)
        self._links = Links(self.graph)
        self._sums: dict[Axis, list[Op]] = {}
        self._not_negative = not_negative(self.graph)
        self._tie_axes()
        self._parts = Parts(self.graph, self._links)
        self._rescale = Rescale(model, self.graph)
        self._guesses = Guesses(model, inputs, self.graph)
        found = [(one.label, self._families(one)) for one in self._links.solutions()]
        self._label, self.families = max(found, key=lambda one: _removable(one[1]))
        self.alike: list[Step] = []

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

    def _families(self, solution: Classes) -> list[Family]:
        label = solution.label
        order = np.argsort(label, kind="stable")
        starts = np.searchsorted(label[order], np.arange(label.max(initial=-1) + 2))
        on = lambda n: order[starts[n] : starts[n + 1]]
        weights = {k for k, (node, _) in enumerate(self._links.axes) if node.path}
        found: dict[tuple, tuple[Spread, Reason | None, list[np.ndarray]]] = {}
        for unit in solution.units():
            spread = self._parts.spread(np.concatenate([on(n) for n in unit.classes]))
            if weights.intersection(self._parts.owner[spread.parts].tolist()):
                key = (*(part.tobytes() for part in spread), unit.held)
                found.setdefault(key, (spread, unit.held, []))[2].append(unit.classes)
        made = []
        for spread, held, classes in found.values():
            axes = np.unique(self._parts.owner[spread.parts])
            mine = tuple(self._links.axes[n] for n in axes)
            sums = tuple(dict.fromkeys(op for axis in mine for op in self._sums.get(axis, ())))
            made.append(Family(mine, tuple(classes), held, sums, spread))
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

    def tried(self, gone: Gone) -> Smaller | None:
        """The model without some units; None if families, or sizes found, turned out wrong."""
        one = self.checked(gone)
        if not one.faults:
            if not self._guesses.fit_other_shapes(one.model, one.graph, one.guessed):
                return None
            rest = self._not_averaged(one.means, gone) if one.means else {}
            return one if not rest or self.tried(rest) else None
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
                mine = self.step(n).keys() & gone.keys()
                tested = self.checked({k: gone[k] for k in (*good, *mine)})
                if tested.faults:
                    held |= dict.fromkeys(mine, (tested, tested.faults[0]))
                else:
                    good += mine
            if held:
                break
        held = held or dict.fromkeys(good, (one, one.faults[0]))
        before, others = [*self.alike], {k: gone[k] for k in good}
        self._fraction([n for n, (_, fault) in held.items() if fault.text != LOSES], others)
        for n, (tested, fault) in held.items():
            if any(n in one for one in self.alike if one not in before):
                continue
            if self._share(n, others) or self._pair(n, others, fault):
                continue
            near = removed_near(self.graph, tested.removal, fault) if fault.text != LOSES else []
            told = with_sizes(self.model, self.graph, tested.removal, [fault], [near])
            reason = Reason(WHOLE, fault.op, next(told))
            self.families[n] = self.families[n]._replace(held=reason)
        return None

    def _not_averaged(self, means: Collection[Op], gone: Gone) -> Gone:
        """The units that are in no mean, so that the outputs without them can be compared."""
        over = {n for n in gone if not set(means).isdisjoint(self.families[n].sums)}
        over.update(*(one for one in self.alike if one.keys() & over))
        return {n: units for n, units in gone.items() if n not in over}

    def step(self, n: int) -> Step:
        """What is removed together with a unit of a family."""
        return next((one for one in self.alike if n in one), {n: 1})

    def last(self, step: Step) -> Gone:
        """The last units of some families."""
        widths = {n: len(self.families[n].units) for n in step}
        return {n: range(widths[n] - k, widths[n]) for n, k in step.items()}

    def _share(self, n: int, good: Gone) -> bool:
        """Find families with which this one keeps the proportions in which axes are divided."""
        own = self.step(n)
        free = {k: one for k, one in enumerate(self.families) if one.held is None}
        if not own.keys() <= free.keys():
            return False
        others = [one for one in self.alike if n not in one and one.keys() <= free.keys()]
        others += [{k: 1} for k in free if k != n and not any(k in one for one in self.alike)]
        spreads = {k: one.spread for k, one in free.items()}
        widths = {k: len(one.units) for k, one in free.items()}
        step = self._parts.joined([own, *others], spreads, widths)
        return len(step) > len(own) and self._join(step, good)

    def _fraction(self, held: Collection[int], good: Gone) -> None:
        """Find a family of which the width of some that are at fault is a fraction in the code.

        Heads may be as wide as the stream divided by their number.
        """
        free = [k for k, one in enumerate(self.families) if one.held is None]
        single = [k for k in free if len(self.step(k)) == 1]
        widths = {k: len(self.families[k].units) for k in single}
        for part in sorted({widths[n] for n in held if n in widths}, reverse=True):
            own = [n for n in held if widths.get(n) == part]
            alike = [k for k in single if widths[k] == part]  # some may be at fault only later
            whole = [k for k in single if widths[k] > part > 1 and widths[k] % part == 0]
            whole.sort(key=lambda k: -len(self.families[k].axes))
            for k in whole[:LARGEST]:
                for parts in (own, alike) if len(alike) > len(own) else (own,):
                    if self._join({k: widths[k] // part, **dict.fromkeys(parts, 1)}, good):
                        return

    def _pair(self, n: int, good: Gone, fault: Fault) -> bool:
        """Find a family with which this one shrinks if both keep the same width.

        Attention may require queries and values of the same width. If the fault of this family
        remains even when each of the others loses a unit as well, none of them is its partner.
        """
        own, width = self.step(n), len(self.families[n].units)
        same = [k for k, one in enumerate(self.families) if one.held is None and k not in own]
        same = [k for k in same if len(self.families[k].units) == width]
        near = sorted(same, key=lambda k: abs(k - n))[:NEAREST]
        without = functools.reduce(operator.or_, map(self.last, map(self.step, (n, *near))))
        if len(near) > 1 and fault in self.smaller({**good, **without}).faults:
            return False
        for k in near:
            other = self.step(k)
            units = math.lcm(own[n], other[k])
            both = {m: count * units // own[n] for m, count in own.items()}
            both |= {m: count * units // other[k] for m, count in other.items()}
            if self._join(both, good):
                return True
        return False

    def _join(self, step: Step, good: Gone) -> bool:
        """Remove these units together from now on, if that is right."""
        if any(k >= len(self.families[n].units) for n, k in step.items()):
            return False
        right = not self.checked({**good, **self.last(step)}).faults
        if right:
            self.alike = [one for one in self.alike if not one.keys() & step.keys()] + [step]
        return right

    def smaller(self, gone: Gone) -> Smaller:
        """The model without some units, and what is wrong with its operations."""
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
        return Smaller(small, graph, removal, cuts, *made, averaged[graph], found)

    def checked(self, gone: Gone) -> Smaller:
        """The same, and where its operations are right, what is wrong with its sums or outputs."""
        one = self.smaller(gone)
        wrong = one.faults or same_sums(self.graph, one) or same_outputs(self.graph, one)
        return dataclasses.replace(one, faults=wrong)

    def _blamed(self, smaller: Smaller, fault: Fault, gone: Gone) -> list[int]:
        """The families of which a unit was removed near a fault; all if none is known."""
        near: set[int] = set()
        for node, axis in removed_near(self.graph, smaller.removal, fault):
            labels = self._label[self._links.at((node, axis))]
            near.update(labels[smaller.removal.removed(node, axis)].tolist())
        units = {n: np.concatenate([self.families[n].units[u] for u in gone[n]]) for n in gone}
        return [n for n, classes in units.items() if near.intersection(classes.tolist())] or [*gone]


def _removable(families: Iterable[Family]) -> int:
    """How many units may go, as far as is known."""
    several = (one for one in families if one.held is None and len(one.units) > 1)
    return sum(len(one.units) for one in several)
