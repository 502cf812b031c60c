"""Rules over coupled units: training that keeps or drops whole units of several layers together.

1. The weights of each chosen group become parts of the model that share one rule and its state.
2. After each train step the norms of the units are recomputed, over all entries of each.
3. The rule says which units are closed. The weights that read a closed unit, or those that make it,
   have 0 there, so that it has no effect; in a folded model all that belongs to it is 0.

Numbers: tests/prune/test_couple.py trains small nets whose units die, and shrinks them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jsparse._bridge import fit_bridges
from jsparse._coupled import CoupledSparse, CoupledUnits
from jsparse._events import share_cuts_in_place
from jsparse._paths import listed, naming, pairs
from jsparse._pattern import Role
from jsparse._roles import role_of
from jsparse._sharding import padded, placed, shards, where_is
from jsparse._slots import Slot, check_rngs, refuse_unseen, refuse_wrapped, slots
from jsparse._sparse import Sparse
from jsparse._surgery import Model, copied
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_is, check_pattern, shown
from jsparse._variables import Setting
from jsparse.export._shrinking.groups import UnitGroups, chosen_groups
from jsparse.export._shrinking.uses import UnitAxis, UnitGroup
from jsparse.rules._coupled import (
    VECTOR,
    Coupled,
    Follows,
    Group,
    Span,
    root_mean_square,
    rule_name,
)
from jsparse.rules._held import Held
from jsparse.rules._keep import Keep
from jsparse.rules._rule import Rules, unit_of, with_role

Places = Mapping[str, Sequence[Slot]]
"""The slots of the variable that a path names, by any of its paths."""


@explain_abstract_model
def couple(model: Model, groups: UnitGroups, *rules: Rules, rngs: nnx.Rngs | None = None) -> Model:
    """A copy of the model in which each chosen group of coupled units has a rule.

    A unit is closed in all weights that it spans: in a residual stream in every layer that adds to
    it, with biases and the scales of normalizations, and in every layer that reads it. So `shrink`
    removes it, where `Filter()` zeroes the units of one layer while others still add to them.

    The rule decides by the root mean square of each unit over all its weights; thresholds, gates,
    scores and draws exist once per group. `scope=WholeModel()` lets the units of all groups under
    equal rules compete. Train with `jsparse.Optimizer`, which recomputes the norms after each step.
    In training only the weights that read a unit are gated, so that what makes it can still change;
    where that is not enough, as under a layer norm, those that make it are gated. `masks`, `fold`
    and `shrink` mask all of them, which changes no output. Layers stacked for `nnx.scan` share
    their units, ranked by their norms over all layers.

    Args:
      model: any NNX module without rules on the weights of these groups; it is not changed.
      groups: what `jsparse.groups` found, of this model or of one of the same size.
      *rules: pairs of a pattern for names of groups, such as "stem/kernel:3", and a rule with
        `unit=Group()`: Top, Threshold, Gibbs, HardConcrete, SoftThreshold, Movement or
        SoftMovement; or `Held()`, whose masks a revision with `unit=Group()` may change. The first
        match wins; groups without a match, those that cannot shrink and those under `Keep()` stay
        as they are.
      rngs: for rules with a random initial state; by default a fixed key.

    Returns:
      The copy.

    Raises:
      TypeError: not a model, groups or rules.
      ValueError: no rules; a rule with another unit or one that cannot take groups; a pattern that
        matches no group that can shrink; a weight that has a rule, is in a wrapper that writes
        weights, or is not in the model; stacked layers under a rule that learns numbers.

    Example:
      >>> from jsparse import Top, groups
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> model = couple(model, groups(model, (1, 4)), (".*", Top(density=0.5, unit=Group())))
      >>> [int(part.read_mask().sum()) for part in (model.layers[0].bias, model.layers[2].kernel)]
      [4, 12]
    """
    check_is(UnitGroups, "what jsparse.groups gives", groups=groups)
    rngs = nnx.Rngs(0) if rngs is None else rngs
    check_rngs(rngs)
    given = pairs(rules)
    for pair in given:
        _check(pair)
    chosen = {
        name: rule
        for name, rule in chosen_groups(groups, given, "rules", "couple").items()
        if not isinstance(rule, Keep)
    }
    copy = copied(model)
    at: dict[int, list[Slot]] = {}
    for slot in slots(copy):
        at.setdefault(id(slot.value), []).append(slot)
    places = {slot.path: own for own in at.values() for slot in own}
    spans: dict[int, list[tuple[Span, CoupledUnits]]] = {}
    for name, rule in chosen.items():
        group = groups[name]
        unit = {} if isinstance(rule, Held) else {"unit": Coupled()}  # Held's are single entries
        new = _spans(group, dataclasses.replace(rule, role=VECTOR, **unit), places)
        key, units = rngs.params(), {}
        for slot, span in new:
            stack = slot.value.shape[: _role(slot).stack]
            if stack not in units:
                units[stack] = _units(group.name, new, stack, key)
            spans.setdefault(id(slot.value), []).append((span, units[stack]))
    params = [slot for own in at.values() for slot in own if isinstance(slot.value, nnx.Param)]
    for one, several in spans.items():
        slot = at[one][0]
        refuse_unseen(slot, params)
        role = dataclasses.replace(_role(slot), recurrent=slot.recurrent)
        rule = Follows(tuple(span for span, _ in several), role=role)
        part = CoupledSparse(slot.value, rule, [units for _, units in several])
        for slot in at[one]:
            slot.put(part)
    fit_bridges(copy)
    share_cuts_in_place(copy)
    return copy


def _spans(group: UnitGroup, rule: Any, places: Places) -> list[tuple[Slot, Span]]:
    """Where the units of a group are in each of its parameters."""
    at = [(_place(member, group.name, places), member) for member in group.members]
    found = [(slot, member) for slot, member in at if isinstance(slot.value, nnx.Param)]
    for slot, member in found:
        _check_stack(slot, member, group.name, rule)
    sizes = [_entries_per_unit(slot, member, group.width) for slot, member in found]
    total = sum(sizes)
    if not total:
        raise ValueError(
            f"groups: the units of {group.name} have no parameters, or different numbers of them; "
            "leave this group without a rule, by Keep() first"
        )
    spans = []
    for (slot, member), size in zip(found, sizes, strict=True):
        in_order = np.array_equal(member.units, np.arange(group.width))
        span = Span(
            axis=member.axis - slot.value.ndim,
            units=() if in_order else tuple(member.units.tolist()),
            width=group.width,
            entries=total,
            own=size,
            closes=member.closes,
            rule=rule,
        )
        spans.append((slot, span))
    return spans


def _entries_per_unit(slot: Slot, member: UnitAxis, width: int) -> int:
    """How many entries of a weight each unit has; 0 if they differ in that."""
    often = np.bincount(member.units[member.units >= 0], minlength=width)
    return slot.value.size // len(member.units) * int(often[0]) if len({*often}) == 1 else 0


def _place(member: UnitAxis, name: str, places: Places) -> Slot:
    """The first slot of a weight."""
    if member.path not in places:
        raise ValueError(
            f"groups: {name} has the weight {member.path}, which is not in the model; its weights "
            f"are {listed(places)}. Give the groups of this model, from jsparse.groups"
        )
    slot = places[member.path][0]
    for one in places[member.path]:
        refuse_wrapped(one)
    if isinstance(slot.value, Sparse):
        raise ValueError(
            f"{member.path} is under {rule_name(slot.value.rule)} already, and a weight has one "
            f"rule; leave it or the group {name} without one"
        )
    shape = slot.value.shape
    if len(shape) <= member.axis or shape[member.axis] != len(member.units):
        raise ValueError(
            f"groups: {member.path} has length {len(member.units)} on axis {member.axis} there, "
            f"and shape {shape} in the model; give the groups of this model, from jsparse.groups"
        )
    return slot


def _role(slot: Slot) -> Role:
    return role_of(slot.parent, slot.key, slot.value.ndim)


def _check_stack(slot: Slot, member: UnitAxis, name: str, rule: Any) -> None:
    """Refuse stacked layers that cannot have the same units."""
    stack = _role(slot).stack
    if stack and member.axis < stack:
        raise ValueError(
            f"the units of {name} are whole layers that {member.path} stacks, and a stack has no "
            "rule for them; leave this group out, by Keep() first"
        )
    if stack and rule.learned:
        raise ValueError(
            f"{member.path} stacks layers, which nnx.scan passes on one by one, and the units of "
            f"{name} are the same for all of them; what {type(rule).__name__} learns about them "
            "would differ between layers. Use Top, Gibbs, or Held with a revision there; or make "
            "the layers one by one"
        )


def _units(
    name: str, spans: Sequence[tuple[Slot, Span]], stack: tuple[int, ...], key: Array
) -> CoupledUnits:
    """The units of a group, with their rule; one for each layer of a stack."""
    norms = root_mean_square((span, slot.value[...]) for slot, span in spans if span.own)
    span = spans[0][1]
    role = dataclasses.replace(VECTOR, stack=len(stack))
    with naming(name):
        units = CoupledUnits(
            Setting(_along(jnp.broadcast_to(norms, stack + norms.shape), *spans[0])),
            with_role(span.rule, role),
            key=key,
            name=name,
            entries=span.entries,
        )
    units.follow(units)  # the same draw for all layers
    if "price" in units.state_names:  # of each weight
        units.set_state({"price": units.price[...] * span.entries})
    return units


def _along(norms: Array, slot: Slot, span: Span) -> Array:
    """The norms, split over an Auto mesh as the units are in a weight that makes them.

    The compiler places them like that after the first step, which would compile the second anew.
    """
    where = where_is(slot.value[...])
    name = padded(where.spec, slot.value.ndim)[span.axis]
    fits = name is not None and not span.units and norms.shape[-1] % shards(name, where.mesh) == 0
    if not fits or AxisType.Explicit in where.mesh.axis_types:
        return norms
    spec = PartitionSpec(*(None,) * (norms.ndim - 1), name)
    return placed(norms, NamedSharding(where.mesh, spec))


def _check(pair: Any) -> None:
    """Refuse anything but a pair of a pattern and a rule that can decide about groups."""
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise ValueError(
            "rules: each is a pair of a pattern and a rule, such as "
            f'(".*", Top(density=0.5, unit=Group())); got {shown(pair)}'
        )
    pattern, rule = pair
    check_pattern(pattern=pattern)
    if isinstance(rule, type) or not hasattr(rule, "apply"):
        raise TypeError(f"rules: {pattern!r} has {shown(rule)}; pass a rule with unit=Group()")
    if isinstance(rule, Keep | Held):
        return
    name = type(rule).__name__
    if not hasattr(rule, "gates"):
        raise ValueError(
            f"rules: {name} decides about single weights, so it cannot close a unit in all of them;"
            " with unit=Group() there are Top, Threshold, Gibbs, HardConcrete, SoftThreshold, "
            "Movement and SoftMovement, and Held() for masks that are stored"
        )
    if unit_of(rule) != Group():
        raise ValueError(
            f"rules: {name} has the unit {unit_of(rule)}; give it unit=Group(), or give the rule "
            "to jsparse.sparsify, with patterns for weights"
        )
