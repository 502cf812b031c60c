"""Cutting positions out of variables, and out of the rules and states that belong to them.

What the weights of a group share, its rule's state and where its units are, is cut before them:

1. A unit is removed when all its positions are cut from all weights of its group.
2. Entries that are cut from a unit which stays, as they belong to units of another group too, still
   count in its mean square, by the entry `gone` of the state (`jsparse.rules._remaining`).
3. The weights record at which positions the remaining units are.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._bridge import fit_linen_in_place
from jsparse._coupled import CoupledSparse, CoupledUnits
from jsparse._events import share_norms_in_place
from jsparse._sharding import followed
from jsparse._slots import Slot, own_masks, slots
from jsparse._sparse import Sparse
from jsparse._values import check_is, check_shape, is_whole
from jsparse._variables import Setting
from jsparse.export._shrinking.operations import along
from jsparse.rules._coupled import Span, mean_square
from jsparse.rules._remaining import Keep, gone_after, left_after
from jsparse.rules._rule import with_role
from jsparse.rules._stacked import shapes_if_doubled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """What is kept of one variable.

    Attributes:
      shape: before.
      keep: the positions to keep, by axis; whole axes are omitted.
    """

    shape: tuple[int, ...]
    keep: Mapping[int, tuple[int, ...]]

    def __post_init__(self) -> None:
        check_shape("shape", self.shape, least=0)
        check_is(Mapping, "the positions to keep, by axis", keep=self.keep)
        for axis, kept in self.keep.items():
            there = is_whole(axis) and 0 <= axis < len(self.shape)
            if not there or not all(is_whole(k) and 0 <= k < self.shape[axis] for k in kept):
                raise ValueError(f"keep must hold positions that {self.shape} has, got {self.keep}")
            if len(set(kept)) < len(kept):
                raise ValueError(f"keep must hold each position once, got {self.keep}")

    @property
    def left(self) -> tuple[int, ...]:
        """The shape after."""
        return tuple(len(self.keep.get(axis, range(n))) for axis, n in enumerate(self.shape))

    def then(self, later: "Cut") -> "Cut":
        """This cut and a later one of its result, as one.

        Raises:
          ValueError: the later one has another shape.
        """
        if later.shape != self.left:
            raise ValueError(f"leads to shape {self.left}, the later record is of {later.shape}")
        keep = dict(self.keep)
        for axis, kept in later.keep.items():
            before = self.keep.get(axis, range(self.shape[axis]))
            keep[axis] = tuple(before[n] for n in kept)
        return Cut(shape=self.shape, keep=keep)

    def of(self, value: np.ndarray) -> np.ndarray:
        """An array of that shape after the cut."""
        for axis, kept in self.keep.items():
            value = value.take(kept, axis=axis)
        return value

    def placed(self, value: jax.Array) -> jax.Array:
        """The same, on the devices of the array."""
        return _made_like(self.of(np.asarray(value)), value)

    def zeroed(self, value: np.ndarray) -> np.ndarray:
        """An array of that shape with zeros where it is cut."""
        return np.where(_stays(self.shape, self.keep), value, np.zeros((), value.dtype))


def _stays(shape: tuple[int, ...], keep: Keep) -> np.ndarray:
    """Which elements of an array stay: bool, with axes of length 1 where all do."""
    masks = (along(np.isin(np.arange(shape[n]), kept), n, len(shape)) for n, kept in keep.items())
    return functools.reduce(np.logical_and, masks, np.ones((), bool))


def cut_in_place(
    model: nnx.Module, cuts: Mapping[str, Cut], add: Mapping[str, np.ndarray]
) -> dict[str, Cut]:
    """Cut each variable, of a Sparse with the state of its rule; shared ones stay shared.

    A shared variable has one of its paths in `cuts`. What is in `add` is added to a plain variable
    before it is cut. Returns what was cut, by its path in `nnx.state(model)`, at each place.
    """
    places = slots(model)
    chosen = {id(s.value): s.path for s in places if s.path in cuts or s.path in add}
    made: dict[int, nnx.Variable] = {}
    done: dict[int, dict[str, Cut]] = {}
    found = _cut_groups(places, {one: cuts[path] for one, path in chosen.items() if path in cuts})
    for layer in own_masks(model).values():
        cut = cuts.get(chosen.get(id(layer.kernel), ""))
        if cut and layer.mask.shape == cut.shape:  # else it was cut with the same layer elsewhere
            array = isinstance(layer.mask, jax.Array)
            layer.mask = cut.placed(layer.mask) if array else cut.of(layer.mask)
    for slot in places:
        held, path = slot.value, chosen.get(id(slot.value))
        if path is None:
            continue
        if isinstance(held, Sparse):
            if id(held) not in done:
                done[id(held)] = _cut_part(held, cuts[path])
            found |= {f"{slot.path}/{name}": cut for name, cut in done[id(held)].items()}
            continue
        if id(held) not in made:
            value = np.asarray(held[...])
            if path in add:
                value = value + np.asarray(add[path], value.dtype)
            value = cuts[path].of(value) if path in cuts else value
            made[id(held)] = held.replace(_made_like(value, held[...]))
        slot.put(made[id(held)])
        if path in cuts:
            found[slot.path] = cuts[path]
    share_norms_in_place(model)
    fit_linen_in_place(model, found)
    return found


def _cut_groups(places: Sequence[Slot], cuts: Mapping[int, Cut]) -> dict[str, Cut]:
    """Cut what weights of groups share, before the weights. `cuts`: of the weights, by identity."""
    members = {id(s.value): s.value for s in places if isinstance(s.value, CoupledSparse)}
    pairs = [(member, cuts[one].keep if one in cuts else {}) for one, member in members.items()]
    stays = _staying(pairs)
    _note_gone_in_place(pairs)
    done: dict[int, dict[str, Cut]] = {}
    found: dict[str, Cut] = {}
    for slot in places:
        if id(slot.value) not in members:
            continue
        for key, group in slot.value.groups.items():
            kept, shape = stays[group.name], group.weight.shape
            if id(group) not in done:
                cut = Cut(shape=shape, keep={len(shape) - 1: tuple(np.flatnonzero(kept).tolist())})
                done[id(group)] = {} if kept.all() else _cut_part(group, cut)
            found |= {f"{slot.path}/{key}/{name}": c for name, c in done[id(group)].items()}
    _renumber_in_place(pairs, stays)
    return found


def _cut_part(part: Sparse, cut: Cut) -> dict[str, Cut]:
    """Cut the weight, the rule's state and role; return what was cut."""
    weight, state, role = part.weight[...], part.state, part.rule.role
    axes = tuple(range(weight.ndim))
    longer, stack = shapes_if_doubled(part.rule, weight), role.stack
    follow = followed(longer, stack, axes, state, lambda axis, n: n == weight.shape[axis])
    found = {"weight": cut}
    for name, places in follow.items():
        keep = {k: cut.keep[axis] for k, axis in enumerate(places) if axis in cut.keep}
        if keep:
            found[name] = Cut(shape=state[name].shape, keep=keep)
    gone = gone_after(part.rule, weight, state, cut.keep)
    left = left_after(role, weight.shape, cut.keep)
    part.rule = with_role(part.rule, dataclasses.replace(role, left=left))
    for name, one in found.items():
        old = getattr(part, name)
        setattr(part, name, old.replace(one.placed(old[...])))
    for name, value in gone.items():
        _store_in_place(part, name, placed_like(value, weight))
    return found


def placed_like(value: np.ndarray | jax.Array, like: jax.Array) -> jax.Array:
    """An array on the devices of another one, spread as it where the new shape allows."""
    if len(like.sharding.device_set) == 1:
        return jax.device_put(value)
    try:
        like.sharding.shard_shape(value.shape)
    except ValueError:
        return jax.device_put(value)
    return jax.device_put(value, like.sharding)


def _made_like(value: np.ndarray, like: jax.Array) -> jax.Array:
    """The same, weakly typed if the other is, as `jnp.where(x, 0.0, 1.0)`: both promote alike."""
    weak = like.weak_type  # set on one device: slices of what is spread need a sharding
    made = jax.lax.full_like(like, 0, shape=value.shape).at[...].set(value) if weak else value
    return placed_like(made, like)


Pairs = Sequence[tuple[CoupledSparse, Keep]]
"""Weights of groups, each once, and the positions that stay on the axes that are cut."""


def _staying(pairs: Pairs) -> dict[str, np.ndarray]:
    """Which units of each group have a position that stays: bool [units], by name."""
    found: dict[str, np.ndarray] = {}
    for group, span, at, stays in _positions(pairs):
        units = found.setdefault(group.name, np.zeros(span.width, bool))
        units[at[stays & (at >= 0)]] = True
    return found


def divided(pairs: Pairs) -> set[str]:
    """The groups with units of which some positions stay and others are cut."""
    there = _staying(pairs)
    return {
        group.name
        for group, _, at, stays in _positions(pairs)
        if there[group.name][at[~stays & (at >= 0)]].any()
    }


def _note_gone_in_place(pairs: Pairs) -> None:
    """Add to the state of each group what is cut from units which stay; before the cut."""
    groups = {id(group): group for member, _ in pairs for _, group in member.pairs}
    more: dict[str, Array] = {}
    for member, keep in pairs:
        for span, group in member.pairs:
            inside = {a: kept for a, kept in keep.items() if a != span.axis + member.ndim}
            if inside and span.own and getattr(group.rule, "measures", False):
                weight = member.weight[...]
                cut = jnp.where(_stays(weight.shape, inside), jnp.zeros((), weight.dtype), weight)
                own = mean_square(span, cut)
                more[group.name] = more.get(group.name, jnp.zeros_like(own)) + own
    for group in groups.values():
        if group.name in more:
            before = group.state.get("gone", 0)
            _store_in_place(group, "gone", group.each(more[group.name]) + before)


def _store_in_place(part: Sparse, name: str, value: Array) -> None:
    """Store an entry of the state, which may be one that the rule did not start with."""
    part.state_names = tuple(dict.fromkeys((*part.state_names, name)))
    setattr(part, name, Setting(value))


def _renumber_in_place(pairs: Pairs, stays: Mapping[str, np.ndarray]) -> None:
    """Record in weights which units are where, after the groups were cut."""
    for member, keep in pairs:
        spans = []
        for group, span, at, here in _positions([(member, keep)]):
            new = np.append(np.cumsum(stays[group.name]) - 1, -1)  # -1, no unit, stays -1
            at, width = new[at[here]], int(stays[group.name].sum())
            left = group.rule.role.left
            spans.append(
                dataclasses.replace(
                    span,
                    units=() if np.array_equal(at, np.arange(width)) else tuple(at.tolist()),
                    width=width,
                    # the rule of the group has the remaining units already
                    rule=with_role(span.rule, dataclasses.replace(span.rule.role, left=left)),
                )
            )
        member.rule = dataclasses.replace(member.rule, spans=tuple(spans))


def _positions(pairs: Pairs) -> Iterator[tuple[CoupledUnits, Span, np.ndarray, np.ndarray]]:
    """Each group and span, the unit at each position (-1 for none), and whether it stays."""
    for member, keep in pairs:
        for span, group in member.pairs:
            at = np.asarray(span.units or range(span.width))
            kept = keep.get(span.axis + member.ndim, range(len(at)))
            yield group, span, at, np.isin(np.arange(len(at)), list(kept))
