"""Channel permutations before N:M sparsity: an order of inputs in which N of M loses least.

1. Of each M neighboring inputs of an output the N largest weights stay. The order of the inputs is
   free: units of a group (`jsparse.groups`) may stand in any order, if it is the same in all layers
   that make and read them. The model computes the same.
2. For two units in different neighborhoods, the gain of a swap is how much more magnitude N:M then
   keeps, over all weights that read them. The gains of all pairs are found at once: with t the N-th
   largest and S the sum of the N largest of the other M - 1 weights of a place, a weight x in that
   place changes the sum to S + max(0, x - t).
3. The best swap is made, then the best of those that touch none of its neighborhoods, and so on;
   then 2. again, until no swap gains. Wide groups are searched a few hundred units at a time.
4. The outputs before and after are compared; a group whose order matters keeps its own.

Reference: Pool and Yu, Channel permutations for N:M sparsity, NeurIPS 2021, algorithm 1 (greedy
channel swaps). Their escapes from local optima are left out.

Numbers: the rows "permuted" of experiments/one_shot.py; none is published for these models.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jsparse._checks import check_density
from jsparse._paths import named, naming
from jsparse._pattern import Groups
from jsparse._pure import by_name, by_position, calling, examples, settings
from jsparse._roles import role_of
from jsparse._slots import slots, sparse_parts
from jsparse._surgery import Model
from jsparse._topk import rivals
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_is, patterns_of
from jsparse.export._shrinking.attributes import stock
from jsparse.export._shrinking.cut import Cut, cut_in_place
from jsparse.export._shrinking.groups import UnitAxis, described
from jsparse.export._shrinking.shrink import alive_paths
from jsparse.export._shrinking.units import Units
from jsparse.export._shrinking.verify import apart, rounding

TOGETHER = 512
"""Units whose swaps are compared at once."""
SWEEPS, ENOUGH = 100, 1e-4
"""Rounds of swaps, at most, and the share of the magnitude below which the last one may gain."""


class _Read(NamedTuple):
    """A weight that is to be N:M: its magnitudes, and what N of M is along its last axis.

    Attributes:
      size: [others, inputs], its input axis last.
      axis: that axis in the weight.
      keep: N.
      of: M.
    """

    size: np.ndarray
    axis: int
    keep: int
    of: int


class _View(NamedTuple):
    """A weight that reads the units of a group, and where they are: [places of a unit, units]."""

    read: _Read
    places: np.ndarray


@by_density
@outside_jit
def permute(
    model: Model,
    *example_inputs: Any,
    density: float,
    scope: Groups,
    weights: str | Collection[str] = ".*kernel",
    **options: Any,
) -> tuple[Model, dict[str, tuple[float, float]]]:
    """Reorder the units of a trained model so that N:M sparsity keeps more of its weights.

    The model computes the same as before. Do it before `sparsify` with `Top`, `SRSTE` or `Held` and
    the same scope and density. Which axes are reordered together is read from the traced
    computation, as for `jsparse.groups`: residual streams with all their layers, heads by
    themselves. Inputs and outputs of the model keep their order. On a CPU the time grows as the
    square of a group's width times the outputs that read it, up to a width of 512.

    Args:
      model: trained, without rules; not changed.
      *example_inputs: arguments of a call, as for `jsparse.groups`: arrays or shapes.
      density: N / M.
      scope: `Groups(M)`; with `skip=True` weights that M does not divide are left out.
      weights: patterns, as in `sparsify`, of the weights that will be sparse.
      **options: arguments by name, as for `shrink`.

    Returns:
      (the reordered model, the fraction of the summed magnitude of each weight that N:M keeps
      before and after, by path).

    Raises:
      TypeError: scope is something other than Groups; the model cannot take the inputs.
      ValueError: density out of range; the model has rules; a pattern that matches no parameter, or
        a weight that M does not divide, or that is not finite.

    Example:
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> better, kept = permute(model, (1, 4), density=0.5, scope=Groups(4))
      >>> [f"{before:.3f} -> {after:.3f}" for before, after in kept.values()]
      ['0.673 -> 0.673', '0.699 -> 0.727']
    """
    with settings(density=density, scope=scope, weights=weights):
        check_density(density)
        check_is(Groups, "Groups(M), such as Groups(4) for 2:4", scope=scope)
        patterns = patterns_of(weights=weights)
    model, inputs = by_position(model, example_inputs, options)
    if held := [*sparse_parts(model)]:
        raise ValueError(
            f"{held[0]} is under a rule; permute the dense model, then use sparsify. "
            "jsparse.fold(model) has no rules"
        )
    reads, before = _reads(model, density, scope, alive_paths(model, patterns))
    inputs = examples(inputs)
    with calling("example_inputs", inputs):
        found = Units(model, inputs, stock)
    orders = _searched(found, reads)
    small = nnx.clone(model)
    cut_in_place(small, _checked(found, orders), {})
    after = _reads(small, density, scope, frozenset(before))[1]
    return by_name(small), {path: (before[path], after[path]) for path in before}


Orders = list[dict[tuple[str, int], np.ndarray]]
"""The new order of each group along each axis of a weight."""


def _reads(
    model: nnx.Module, density: float, scope: Groups, paths: Collection[str]
) -> tuple[dict[str, _Read], dict[str, float]]:
    """The weights that are to be N:M, and the part of each that N:M keeps, by path."""
    reads, kept = {}, {}
    once = named(nnx.state(model))  # a shared weight by the path that the graph has for it
    for slot in slots(model):
        if slot.path not in paths or slot.path not in once:
            continue
        weight = np.abs(np.asarray(slot.value[...], np.float32))
        role = role_of(slot.parent, slot.key, weight.ndim)
        with naming(slot.path):
            if not np.isfinite(weight).all():
                raise ValueError("the weight has entries that are not finite")
            axis = scope.axes(weight.ndim, role)[0]
            if weight.shape[axis] % scope.size and scope.skip:
                continue
            rivals(weight.shape, scope, role)  # refuses those that M does not divide
        rows = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis])
        read = _Read(rows, axis, max(1, round(density * scope.size)), scope.size)
        least = read.of - read.keep
        most = np.partition(rows.reshape(-1, read.of), least - 1)[:, least:] if least else rows
        kept[slot.path] = float(most.sum() / rows.sum()) if rows.any() else 1.0
        if read.keep < read.of:
            reads[slot.path] = read
    return reads, kept


def _searched(units: Units, reads: Mapping[str, _Read]) -> Orders:
    """The orders that keep most (2, 3), found one group after the other."""
    reads, orders = dict(reads), []
    for n, group in described(units).items():
        members = {(m.path, m.axis): m for m in group.members}
        found = {axis: _places(member, group.width) for axis, member in members.items()}
        places = {axis: at for axis, at in found.items() if at is not None}
        own = [(path, k) for path, k in places if path in reads and k == reads[path].axis]
        if units.families[n].held or not own or len(places) < len(found):
            continue
        order = _swapped([_View(reads[path], places[path, k]) for path, k in own], group.width)
        if (order == np.arange(group.width)).all():
            continue
        orders.append({})
        for axis, at in places.items():
            orders[-1][axis] = moved = np.arange(members[axis].units.size)
            moved[at] = at[:, order]
        for path, axis in own:
            one = reads[path]
            reads[path] = one._replace(size=one.size[:, orders[-1][path, axis]])
    return orders


def _places(member: UnitAxis, width: int) -> np.ndarray | None:
    """The positions of each unit on an axis, [places of a unit, units]; none if units differ."""
    at = [np.flatnonzero(member.units == n) for n in range(width)]
    return np.stack(at, 1) if len({len(one) for one in at}) == 1 else None


def _swapped(views: Sequence[_View], width: int) -> np.ndarray:
    """The order of the units after swaps that gain: [units]."""
    order, draw = np.arange(width), np.random.default_rng(0)
    best = _total(views, order)
    for _ in range(SWEEPS):
        new = order.copy()
        spots = draw.permutation(width) if width > TOGETHER else np.arange(width)
        for start in range(0, width, TOGETHER):
            part = np.sort(spots[start : start + TOGETHER])
            for a, b in _disjoint(_gains(views, order, part), views, part, best):
                new[[a, b]] = new[[b, a]]
        total = _total(views, new)
        if total <= best:  # a swap next to another one may lose
            return order
        order, before, best = new, best, total
        if best < before * (1 + ENOUGH):
            return order
    return order


def _total(views: Sequence[_View], order: np.ndarray) -> float:
    """The magnitude that N:M keeps in the weights that read the units in this order."""
    return sum(float(_neighbors(view, order)[0].sum()) for view in views)


def _neighbors(view: _View, order: np.ndarray) -> tuple[np.ndarray, ...]:
    """(kept by each neighborhood [others, n], weights [others, inputs], sorted [others, n, M])."""
    read = view.read
    moved = np.arange(read.size.shape[1])
    moved[view.places] = view.places[:, order]
    size = read.size[:, moved]
    high = -np.sort(-size.reshape(len(size), -1, read.of), axis=-1)
    return high[..., : read.keep].sum(-1), size, high


def _gains(views: Sequence[_View], order: np.ndarray, part: np.ndarray) -> np.ndarray:
    """How much more is kept if two spots among some exchange their units: [spots, spots] (2)."""
    from scipy.spatial.distance import cdist  # comes with jax; `import jsparse` does without

    gains = np.zeros((len(part), len(part)))
    for view in views:
        read = view.read
        kept, size, high = _neighbors(view, order)
        for places in view.places[:, part]:
            own = places // read.of  # the neighborhood of each spot
            x, last, next_ = size[:, places], high[:, own, read.keep - 1], high[:, own, read.keep]
            inside = x >= last
            limit = np.where(inside, next_, last)
            others = kept[:, own] - np.where(inside, x - next_, 0)
            # max(0, a) = (|a| + a) / 2, summed over rows for all pairs: [spot, unit that comes]
            more = cdist(limit.T, x.T, "cityblock") + x.sum(0)[None] - limit.sum(0)[:, None]
            after = others.sum(0)[:, None] + more / 2
            here = kept.sum(0)[own]
            gain = after + after.T - here[:, None] - here[None]
            gains += np.where(own[:, None] == own[None], 0.0, gain)
    return gains


def _disjoint(
    gains: np.ndarray, views: Sequence[_View], part: np.ndarray, total: float
) -> Iterable[tuple[int, int]]:
    """The best swaps of which none touches a neighborhood of another one (3)."""
    touched: set[tuple[int, int]] = set()
    near = [
        {(n, int(p)) for n, v in enumerate(views) for p in v.places[:, spot] // v.read.of}
        for spot in part
    ]
    above, right = np.nonzero(np.triu(gains > 1e-7 * total, 1))
    for k in np.argsort(-gains[above, right], kind="stable"):
        a, b = int(above[k]), int(right[k])
        both = near[a] | near[b]
        if not both & touched:
            touched |= both
            yield int(part[a]), int(part[b])


def _checked(units: Units, orders: Orders) -> dict[str, Cut]:
    """The orders that leave the outputs as they are (4), by path of the weight."""
    shapes = {node.path: node.shape for node in units.graph.variables}

    def cuts(orders: Orders) -> dict[str, Cut]:
        keep: dict[str, dict[int, np.ndarray]] = {}
        for (path, axis), moved in itertools.chain.from_iterable(o.items() for o in orders):
            before = keep.setdefault(path, {}).get(axis, np.arange(len(moved)))
            keep[path][axis] = before[moved]
        return {
            path: Cut(shape=shapes[path], keep={a: tuple(o.tolist()) for a, o in own.items()})
            for path, own in keep.items()
        }

    def same(orders: Orders) -> bool:
        moved = cuts(orders)
        values = {n.path: n.value for n in units.graph.variables if n.path in moved}
        new = {path: moved[path].of(value) for path, value in values.items() if value is not None}
        off = apart(expected, units.graph.run(new))
        return off <= rounding(units.graph.variables)

    expected = units.graph.run({})
    if not orders or same(orders):
        return cuts(orders)
    good: Orders = []
    for one in orders:
        good += [one] if same([*good, one]) else []
    return cuts(good)
