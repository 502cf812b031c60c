"""Structured pruning of a trained model in one call: a smaller plain model.

1. Find the groups of units that are removed together (`jsparse.groups`), and score their units.
2. Order all units: in each group by itself (`Whole`), or over the model (`WholeModel`).
3. Remove the lowest until the density and the budget are met. Each group keeps a minimum of units,
   and its width is rounded to the nearest allowed one.
4. Cut them, and compare the smaller model with the one that has zeros in their place: operation by
   operation, and by its outputs. A group at fault keeps its units, and step 3 is repeated.

Numbers: tests/prune/test_units.py compares with the masked model on nets of every kind.
"""

import bisect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from jsparse._checks import check_density, uncalled_hint
from jsparse._pattern import Scope, Whole, WholeModel
from jsparse._pure import by_name, by_position, calling, examples, settings
from jsparse._surgery import Model, fold
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_function, check_in, check_whole, is_number, shown
from jsparse.export._shrinking.attributes import Mend, stock
from jsparse.export._shrinking.groups import described, free, try_each
from jsparse.export._shrinking.guessing import tell_of_guesses
from jsparse.export._shrinking.liveness import ENDS
from jsparse.export._shrinking.record import Record
from jsparse.export._shrinking.shrink import alive_paths, check_called
from jsparse.export._shrinking.sizes import Narrowed, Sizes, Widths, sizes_after
from jsparse.export._shrinking.smaller import Smaller
from jsparse.export._shrinking.source import place
from jsparse.export._shrinking.units import Units
from jsparse.export._shrinking.uses import Use
from jsparse.importance import Importance, Norm
from jsparse.importance._members import Scores, ranked, scored

Cost = Callable[[Sizes], Any]
L2, EACH = Norm(2), Whole()


def _operations(sizes: Sizes) -> float:
    return sizes.operations


@by_density
@outside_jit
def units(
    model: Model,
    *example_inputs: Any,
    density: float = 1.0,
    budget: float = 1.0,
    cost: Cost = _operations,
    importance: Importance = L2,
    scope: Scope = EACH,
    round_to: int = 1,
    least_width: int = 1,
    keep: str | Collection[str] = (),
    mend: Mend = stock,
    **options: Any,
) -> tuple[Model, Record]:
    """Remove the least important units of a trained model; return a smaller plain model.

    A unit is removed with all that belongs to it: see `jsparse.groups`, which lists the groups. The
    outputs are those of the model with zeros in place of the units, to float tolerance: where the
    model divides by a number that follows a width, as attention and RMS norms do, weights and an
    epsilon absorb the difference. Any other mean over units, as in a layer norm, is over those that
    are left. Train the smaller model on afterwards, with a new optimizer.

    Args:
      model: any NNX module, sparse or plain; not changed.
      *example_inputs: arguments of a call, as for `shrink`: arrays or shapes.
      density: fraction of the removable units to keep, in (0, 1].
      budget: fraction of the cost to keep, in (0, 1]. If both are given, both are met.
      cost: a function of the `Sizes` of a model, such as `lambda sizes: sizes.parameters`; its
        operations by default. `costs.latency(x)` compiles and times about ten smaller models.
      importance: what a unit is worth: an entry of `jsparse.importance`, or a function of a model
        and groups; `Norm(2)` by default.
      scope: `Whole()`, the same fraction of each group, or `WholeModel()`, the lowest of all.
      round_to: widths become the nearest for which the inputs and outputs of matrices are a
        multiple of it, where a head counts as its width; a group whose own width is nearer stays
        whole. The record's `widths` gives the new width of each group.
      least_width: no group becomes narrower than this, under an RMS norm than 2,
        under a layer norm than 3.
      keep: patterns of weights, as in `sparsify`, whose groups stay whole.
      mend: as for `shrink`.
      **options: arguments by name, as for `shrink`.

    Returns:
      (the smaller model, the record from which `jsparse.export.rebuild` makes one of that size).
      With a budget, the record's `cost` is what both models cost, seconds of `costs.latency`.

    Raises:
      TypeError, ValueError: wrong arguments, a pattern of keep that matches no weight that the call
        uses, scores of another shape or NaN, as of weights that are not finite.
      ValueError: nothing can be removed, or not enough for the budget; the error says what prevents
        it. The cost is not a number, 0 or more; that of the whole model is 0 or infinite.

    Example:
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> small, record = units(model, (1, 4), budget=0.5)
      >>> small.layers[0].kernel.shape, record.widths
      ((4, 4), {'layers/0/kernel:1': '8 -> 4'})
    """
    with settings(density=density, budget=budget, cost=cost, importance=importance, mend=mend):
        check_density(density)
        check_in("(0, 1]", budget=budget)
        check_function(cost=cost, importance=importance, mend=mend)
    with settings(round_to=round_to, least_width=least_width, scope=scope):
        check_whole(round_to=round_to, least_width=least_width)
        if not isinstance(scope, Whole | WholeModel):
            raise TypeError(
                f"scope must be an instance, such as Whole() or WholeModel(); got {shown(scope)}"
            )
    if density == 1 and budget == 1:
        given = f"; {', '.join(options)} by name would go to the model" if options else ""
        raise ValueError(
            "density and budget are both 1, which removes nothing; pass one of them below 1, such "
            f"as budget=0.5 for half the operations{given}"
        )
    called, inputs = by_position(model, example_inputs, options)
    inputs, plain = examples(inputs), fold(called)
    with settings(keep=keep):
        stay = alive_paths(plain, keep)
    with calling("example_inputs", inputs):
        found = Units(plain, inputs, mend)
    with settings(keep=keep):
        check_called(found.graph, plain, keep)
    if budget < 1 and cost is not _operations:
        try_each(found)  # a smaller model that is measured has to run
    chosen = _Chosen(found, stay, Widths(least_width, round_to), cost)
    scores = scored(importance, fold(model) if options else plain, chosen.groups)
    while True:
        gone = chosen.lowest(ranked(scores, scope), density, budget)
        small = found.tried(gone)
        if small and not chosen.needs_more_units(gone, small):
            tell_of_guesses(small.guessed)
            return by_name(small.model), _record(chosen, gone, small)
        scores = {n: own for n, own in scores.items() if n in chosen.free()}


class _Chosen:
    """Which units are removed."""

    def __init__(self, units: Units, keep: Collection[str], widths: Widths, cost: Cost):
        self.units, self._widths, self._cost = units, widths, cost
        self._all = described(units)
        self._stay = {
            n for n, group in self._all.items() if {m.path for m in group.members} & {*keep}
        }
        self.groups = {n: self._all[n] for n in self.free()}
        self.wanted: dict[int, int] = {}
        self._least: dict[int, int] = {}
        self._spent: dict[tuple, float] = {}

    def free(self) -> list[int]:
        """The numbers of the groups whose units may be removed."""
        loose = {n for n in free(self.units) if n in self._all and n not in self._stay}
        return sorted(
            loose.difference(*(one for one in self.units.alike if not one.keys() <= loose))
        )

    def lowest(self, order: Scores, density: float, budget: float) -> dict[int, list[int]]:
        """The units to remove by the number of their group, which meets density and budget.

        The order says where each unit stands among all, in (0, 1), by group; inf if it stays.

        Raises:
          ValueError: there are none, or too few.
        """
        if all(np.isinf(own).all() for own in order.values()):
            raise ValueError(f"no unit can be removed: {self._why_held(order)}")
        cuts = np.unique([1 - density, *(one for own in order.values() for one in own)])
        cuts = [*cuts[(cuts >= 1 - density) & (cuts < 1)], 1.0]
        if budget == 1:
            return self._removed_at(cuts[0], order)
        self._check_budget(budget, self._removed_at(cuts[-1], order), order)
        limit = budget * self._cost_of({})
        fits = lambda cut: self._cost_of(self._removed_at(cut, order)) <= limit
        first = bisect.bisect_left(cuts, True, hi=len(cuts) - 1, key=fits)
        return self._removed_at(cuts[first], order)

    def _check_budget(self, budget: float, least: dict[int, list[int]], order: Scores) -> None:
        whole = self._cost_of({})
        if not 0 < whole < math.inf:
            raise ValueError(
                f"the cost of the whole model is {whole:g}, of which no fraction can be kept; give "
                "one that counts weights without rules, as costs.parameters does and costs.tiles "
                "does not"
            )
        left = self._cost_of(least)
        if left <= budget * whole:
            return
        if least and left >= whole:
            raise ValueError(
                f"budget {budget} cannot be met: the cost of the whole model is {whole:g}, and "
                f"{left:g} at the least widths; give a cost that falls with the widths, such as "
                f"lambda sizes: sizes.parameters; {self._why_held(order)}"
            )
        raise ValueError(
            f"budget {budget} cannot be met: at the least widths {left / whole:.3g} of the cost "
            f"remains; allow narrower groups by least_width or round_to; {self._why_held(order)}"
        )

    def _removed_at(self, cut: float, order: Scores) -> dict[int, list[int]]:
        gone = {}
        together = [self.units.step(n) for n in sorted(order)]
        for step in [one for k, one in enumerate(together) if one not in together[:k]]:
            own = {n: order[n] for n in step}
            lowest = {n: int((one >= cut - 1e-9).sum()) for n, one in own.items()}
            self.wanted.update(lowest)
            removed = [(len(own[n]) - lowest[n]) / count for n, count in step.items()]
            groups = [self._narrowed(n, own[n], count) for n, count in step.items()]
            steps = self._widths.steps(sum(removed) / len(removed), groups)
            for n, count in step.items() if steps else ():
                gone[n] = sorted(np.argsort(own[n], kind="stable")[: steps * count].tolist())
        return gone

    def _narrowed(self, n: int, order: np.ndarray, step: int) -> Narrowed:
        members = [m for m in self._all[n].members if m.use & (Use.MAKES | Use.READS)]
        stay = max(int(np.isinf(order).sum()), self._least.get(n, 1))
        return Narrowed(len(order), step, stay, {m.across for m in members} or {1})

    def needs_more_units(self, gone: Mapping[int, list[int]], small: Smaller) -> bool:
        """Whether groups have to keep more units, or the norms over them would say little.

        Two numbers less their mean become 1 and -1, whatever they were; one by its root mean
        square becomes its sign.
        """
        before = dict(self._least)
        for n in gone:
            for op in self.units.families[n].sums:
                shape = small.removal.kept_shape(op.inputs[0])
                least = 3 if op in small.means else 2
                if math.prod(shape[axis] for axis in op.params["axes"]) < least:
                    self._least[n] = max(least, self._least.get(n, 1))
        return self._least != before

    def _cost_of(self, gone: Mapping[int, list[int]]) -> float:
        key = tuple((n, *own) for n, own in gone.items())
        if key not in self._spent:  # a measurement would give another number each time
            families, graph = self.units.families, self.units.graph
            classes = (families[n].units[u] for n, own in gone.items() for u in own)
            model = lambda: by_name(self.units.smaller(gone).model)
            spent = self._cost(sizes_after(graph, self.units.removal(classes), model))
            scalar = isinstance(spent, jax.Array | np.ndarray) and spent.ndim == 0
            spent = spent.item() if scalar else spent
            if not is_number(spent) or not spent >= 0:
                got = f"{shown(spent)}{uncalled_hint(spent)}"
                raise ValueError(f"cost must give a number, 0 or more; got {got}")
            self._spent[key] = float(spent)
        return self._spent[key]

    def cost(self, gone: Mapping[int, list[int]]) -> tuple[float, ...]:
        """Of the whole model and of the one without these units, where a budget asked for it."""
        return (self._cost_of({}), self._cost_of(gone)) if self._spent else ()

    def stayed(self) -> dict[str, str]:
        """Why groups cannot shrink, by path of the weight; inputs and outputs left out."""
        found: dict[str, dict[str, None]] = {}
        for n, group in described(self.units).items():
            if (held := self.units.families[n].held) and held.kind != ENDS:
                found.setdefault(group.members[0].path, {})[group.held] = None
        return {path: "; ".join(texts) for path, texts in found.items()}

    def _why_held(self, order: Scores) -> str:
        found = [
            f"{self._all[n].name}: {count} of {len(own)} scores are infinite, so units stay"
            for n, own in order.items()
            if (count := int(np.isinf(own).sum()))
        ]
        found += [f"{path}: {why}" for path, why in self.stayed().items()]
        found += [f"{self._all[n].name}: named by keep" for n in sorted(self._stay)]
        bound = {*free(self.units)} & self._all.keys() - self._stay - {*self.free()}
        found += [
            f"{self._all[n].name}: as wide as one that stays, or in proportion to it"
            for n in sorted(bound)
        ]
        if found:
            return "held are " + "; ".join(found[:4])
        return "nothing else is held; inputs, outputs and groups of one unit keep their width"


def _record(chosen: _Chosen, gone: Mapping[int, list[int]], small: Smaller) -> Record:
    widths, families = {}, chosen.units.families
    for n, group in chosen.groups.items():
        if n not in chosen.free():
            continue
        left = group.width - len(gone.get(n, ()))
        text = f"{group.width} -> {left}" if left < group.width else f"{group.width}, all"
        if (wanted := chosen.wanted[n]) != left:
            text += f" (rounded from {wanted})"
        if means := [place(op) for op in families[n].sums if op in small.means]:
            text += f"; the mean at {', '.join(dict.fromkeys(means))} is over what is left"
        widths[group.name] = text
    made = {"cuts": small.cuts, "attributes": small.attributes, "factors": small.factors}
    return Record(**made, stayed=chosen.stayed(), widths=widths, cost=chosen.cost(gone))
