"""Units that are removed for good during training, and what rules still know of them.

`shrink_training` cuts units out of a weight and records in `Role.left` which positions of the whole
weight remain. The rule then decides about the remaining units as if the weight were whole. Two
optional class variables say that a rule can do this:

  alone: True if the rule decides each unit independently of the others.
  measures: True if it does so by `lasting_magnitude`. Weights that are removed from a unit which
    stays (an input of a filter) then still count in the unit's mean square, by the entry `gone` of
    the state, [grid of units].

Example, a kernel [3 inputs, 3 outputs] whose units are its columns (Filter). Input 1 and output 2
are removed:

    1 2 .      left = ((True, False, True), (True, True, False))
    . . .      gone = [3^2 / 3, 4^2 / 3], if row 1 was 3 4 5
    6 7 .      lasting_magnitude = sqrt((1 + 36) / 3 + 9 / 3), sqrt((4 + 49) / 3 + 16 / 3)
"""

import math
from collections.abc import Mapping

import numpy as np
from jax import Array

from jsparse._pattern import Role
from jsparse._score import root, squares, wide
from jsparse._tiles import pool
from jsparse.rules._rule import Rule, State, Tiled, unit_magnitude, unit_of

Keep = Mapping[int, tuple[int, ...]]
"""The positions that stay, by axis of a weight [stack..., layer...]."""


def removable(rule: Rule) -> bool:
    """Whether units can be removed from the rule's weight for good."""
    return getattr(rule, "alone", False)


def whole_axes(rule: Rule, shape: tuple[int, ...]) -> list[int]:
    """The axes of a weight that nothing can be removed from: stacked ones, and those of blocks."""
    stack = rule.role.stack
    tile = unit_of(rule).tile(shape[stack:], rule.role)
    return [*range(stack), *(a for a, t in enumerate(tile, stack) if 1 < t < shape[a])]


def whole_shape(rule: Rule | Tiled, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the weight of one layer before units were removed from it."""
    return tuple(map(len, rule.role.left)) or shape


def select_remaining(rule: Tiled, units: Array) -> Array:
    """Select the remaining units from values for all original units: [original grid] -> [grid]."""
    for axis, places in enumerate(rule.role.left):
        if units.shape[axis] == len(places):
            units = units.take(np.flatnonzero(places), axis=axis)
    return units


def lasting_magnitude(rule: Tiled, weight: Array, state: State) -> Array:
    """`unit_magnitude`, in which weights removed from a unit count with their last values."""
    if "gone" not in state:
        return unit_magnitude(rule, weight)
    whole = rule.unit.tile(whole_shape(rule, weight.shape), rule.role)
    total = pool(squares(weight), rule.unit.tile(weight.shape, rule.role))
    return root(total / math.prod(whole) + state["gone"])


def left_after(role: Role, shape: tuple[int, ...], keep: Keep) -> tuple[tuple[bool, ...], ...]:
    """`Role.left` of a weight [stack..., layer...] after one more cut."""
    left = []
    for axis, n in enumerate(shape[role.stack :], role.stack):
        places = np.array(role.left[axis - role.stack] if role.left else [True] * n)
        stay = np.flatnonzero(places)[list(keep.get(axis, range(n)))]
        left.append(tuple(np.isin(np.arange(len(places)), stay).tolist()))
    return tuple(left)


def gone_after(rule: Rule, weight: Array, state: State, keep: Keep) -> dict[str, np.ndarray]:
    """The entry `gone` of the state after one more cut; empty if the rule has no use for it.

    The rule with its role, the weight [stack..., layer...] and its state are those before the cut.
    """
    stack, shape = rule.role.stack, weight.shape[rule.role.stack :]
    tile = unit_of(rule).tile(shape, rule.role)
    inside = {axis: kept for axis, kept in keep.items() if tile[axis - stack] > 1}
    if not getattr(rule, "measures", False) or not (inside or "gone" in state):
        return {}
    value = np.asarray(weight, wide(weight.dtype))
    stays = np.ones(value.shape, bool)
    for axis, kept in inside.items():
        others = np.delete(np.arange(value.shape[axis]), kept)
        stays[(slice(None),) * axis + (others,)] = False
    summed = tuple(axis for axis, n in enumerate(tile, stack) if n > 1)
    total = np.where(stays, 0, value**2).sum(axis=summed, keepdims=True)
    whole = math.prod(unit_of(rule).tile(whole_shape(rule, shape), rule.role))
    total = total / np.asarray(whole, value.dtype) + np.asarray(state.get("gone", 0), value.dtype)
    for axis in keep.keys() - inside.keys():
        total = total.take(keep[axis], axis=axis)
    return {"gone": total}
