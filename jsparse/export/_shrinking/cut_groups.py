"""Cutting units out of what the weights of a group share: its rule's state, and where they are.

1. A unit is removed when all its positions are cut from all weights of its group.
2. Entries that are cut from a unit which stays, as they belong to units of another group too, still
   count in its mean square, by the entry `gone` of the state (`jsparse.rules._remaining`).
3. The weights record at which positions the remaining units are.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._coupled import Member, Units
from jsparse._slots import Slot
from jsparse._sparse import Sparse
from jsparse._variables import Setting
from jsparse.export._shrinking.products import along
from jsparse.rules._coupled import Span, mean_square
from jsparse.rules._remaining import Keep
from jsparse.rules._rule import with_role

Pairs = Iterable[tuple[Member, Keep]]
"""Weights of groups, each once, and the positions that stay on the axes that are cut."""


def members_of(places: Iterable[Slot]) -> dict[int, Member]:
    """Weights of groups by identity."""
    return {id(slot.value): slot.value for slot in places if isinstance(slot.value, Member)}


def staying(pairs: Pairs) -> dict[str, np.ndarray]:
    """Which units of each group have a position that stays: bool [units], by name."""
    found: dict[str, np.ndarray] = {}
    for group, span, at, stays in _positions(pairs):
        units = found.setdefault(group.name, np.zeros(span.width, bool))
        units[at[stays & (at >= 0)]] = True
    return found


def divided(pairs: Pairs) -> set[str]:
    """The groups with units of which some positions stay and others are cut."""
    pairs = list(pairs)
    there = staying(pairs)
    return {
        group.name
        for group, _, at, stays in _positions(pairs)
        if there[group.name][at[~stays & (at >= 0)]].any()
    }


def note_gone_in_place(pairs: Pairs) -> None:
    """Add to the state of each group what is cut from units which stay; before the cut."""
    groups: dict[int, Units] = {}
    more: dict[str, Array] = {}
    for member, keep in pairs:
        for span, group in member.pairs:
            groups[id(group)] = group
            inside = {a: kept for a, kept in keep.items() if a != span.axis + member.ndim}
            if inside and span.own and getattr(group.rule, "measures", False):
                own = mean_square(span, _removed(member.weight[...], inside))
                more[group.name] = more.get(group.name, jnp.zeros_like(own)) + own
    for group in groups.values():
        if group.name in more:
            before = group.state.get("gone", 0)
            store_in_place(group, "gone", group.each(more[group.name]) + before)


def store_in_place(part: Sparse, name: str, value: Array) -> None:
    """Store an entry of the state, which may be one that the rule did not start with."""
    part.state_names = tuple(dict.fromkeys((*part.state_names, name)))
    setattr(part, name, Setting(value))


def renumber_in_place(pairs: Pairs, stays: Mapping[str, np.ndarray]) -> None:
    """Record in weights which units are where, after the groups were cut."""
    for member, keep in pairs:
        spans = []
        for span, group in member.pairs:
            at = _at(span)
            kept = keep.get(span.axis + member.ndim, range(len(at)))
            new = np.append(np.cumsum(stays[group.name]) - 1, -1)  # no unit stays no unit
            at, width = new[at[list(kept)]], int(stays[group.name].sum())
            left = group.rule.role.left
            spans.append(
                dataclasses.replace(
                    span,
                    units=() if np.array_equal(at, np.arange(width)) else tuple(at.tolist()),
                    width=width,
                    # the remaining units of its group's rule
                    rule=with_role(span.rule, dataclasses.replace(span.rule.role, left=left)),
                )
            )
        member.rule = dataclasses.replace(member.rule, spans=tuple(spans))


def _at(span: Span) -> np.ndarray:
    return np.asarray(span.units or range(span.width))


def _positions(pairs: Pairs) -> Iterator[tuple[Units, Span, np.ndarray, np.ndarray]]:
    """Each group and span, the unit at each position (-1 for none), and whether it stays."""
    for member, keep in pairs:
        for span, group in member.pairs:
            at = _at(span)
            axis = span.axis + member.ndim
            kept = keep.get(axis, range(len(at)))
            yield group, span, at, np.isin(np.arange(len(at)), list(kept))


def _removed(weight: Array, keep: Keep) -> Array:
    """The weight with zeros where it stays: [...]."""
    stays = jnp.ones((), bool)
    for axis, kept in keep.items():
        there = np.isin(np.arange(weight.shape[axis]), kept)
        stays = stays & along(there, axis, weight.ndim)
    return jnp.where(stays, jnp.zeros((), weight.dtype), weight)
