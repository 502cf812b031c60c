"""The interface of a rule.

Throughout: mask 1 = kept, score high = kept, density = fraction kept.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jsparse._checks import check_scope, check_unit, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole, WholeModel
from jsparse._score import magnitude
from jsparse._step import masked
from jsparse._tiles import grid_shape, spread
from jsparse._topk import above_cut, common_cut, cuts, rivals, winners
from jsparse._values import check_is

State = dict[str, Array]
APART = 0x6A73
"""Folded into the keys of rules, because layers may have been initialized from the same keys."""


class Rule(Protocol):
    """Which weights of one layer are kept: pure functions of the weight and a small state.

    A rule is a frozen, keyword-only dataclass of numbers, so equal rules compare equal and are
    traced once. Arrays belong in its state. `learned` names the entries of the state that are
    trained by gradients; the others change only in `advance`, or when a control sets them. Four
    entries mean the same in every rule:

      weight: replaces the weight itself (a reparameterization), once, at the start.
      draw: [2], the source of the rule's random numbers; see `jsparse._random`. To make a model
        deterministic, `mask` and `apply` get a state without it.
      cut: [4], the cut of the scores over all layers, for `WholeModel`; see `common_cut`.
      gone: [grid of units], what weights removed from a unit contribute to its mean square; see
        `jsparse.rules._remaining`.

    A rule may have more members, which a Protocol cannot declare; missing ones have a default:

      unit: what is pruned together, a `Unit`; default Weight(). See `unit_of`.
      scope: which units compete, or share a number, a `Scope`; no default. See `Scoped`.
      score, kept: how units compete; needed with the state's `cut`. See `Rival` and `rival`.
      alone, measures: class variables, whether units can be removed during training; default
        False. See `jsparse.rules._remaining`.
      gates: needed with the unit Group(), as is `passes`. See `jsparse.rules._coupled`.
    """

    learned: ClassVar[tuple[str, ...]]

    @property
    def role(self) -> Role:
        """The meaning of the weight's axes."""
        ...

    def init(self, weight: Array, key: Array) -> State:
        """State for a weight of one layer: weight [...], key [] -> arrays by name."""
        ...

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight: 1 kept, 0 dropped, with the rule's soft backward pass."""
        ...

    def apply(self, weight: Array, state: State) -> Array:
        """[...] like the weight: the masked weight, which the layer reads in its place."""
        ...

    def cost(self, state: State) -> Array:
        """[]: the term that the rule adds to the loss; 0 if nothing is learned."""
        ...

    def advance(self, weight: Array, state: State) -> State:
        """The state after the events of a train step, with the weight already updated."""
        ...


Rules = tuple[str, Rule] | Sequence[tuple[str, Rule]] | Mapping[str, Rule]
"""Pairs of a pattern and a rule: one, several, or a dict of them."""


class Tiled(Protocol):
    """A rule or a revision that has units."""

    @property
    def unit(self) -> Unit: ...

    @property
    def role(self) -> Role: ...


class Scoped(Tiled, Protocol):
    """A rule or a revision whose units compete, or share a number, within a scope."""

    @property
    def scope(self) -> Scope: ...


class Rival(Rule, Scoped, Protocol):
    """A rule whose units compete by score, and so may compete over a whole model."""

    def score(self, weight: Array, state: State) -> Array:
        """[grid of units]: the scores of the units."""
        ...

    def kept(self, state: State) -> float | Array:
        """[]: the fraction of the units to keep at this step."""
        ...


AnyRule = TypeVar("AnyRule", bound=Rule)


def unit_of(rule: Rule) -> Unit:
    """What the rule prunes together."""
    return getattr(rule, "unit", Weight())


def rival(rule: Rule) -> Rival:
    """The rule, typed as one whose units compete, as when its state has a `cut`."""
    return cast(Rival, rule)


# Methods that many rules share, as in `cost = no_cost`.
def no_cost(rule: Rule, state: State) -> Array:
    """[], 0: the rule adds nothing to the loss."""
    return jnp.zeros(())


def unchanged(rule: Rule, weight: Array, state: State) -> State:
    """The state as it is: no event changes it."""
    return state


def mask_as_gates(rule: Rule, weight: Array, state: State) -> Array:
    """[units] of a group, the mask of its units."""
    return rule.mask(weight, state)


def init_by_magnitude(rule: Rival, weight: Array, key: Array) -> State:
    """No state; with scope `WholeModel` the cut, [4].

    Raises:
      ValueError: the group size of the scope does not divide the length of its axis.
    """
    check_weight(weight)
    return with_cut(rule, weight, {})


def score_by_magnitude(rule: Tiled, weight: Array, state: State) -> Array:
    """[grid of units], the magnitude."""
    return unit_magnitude(rule, weight)


def own_density(rule: Any, state: State) -> float:
    """The fraction of the units to keep, the same at every step."""
    return rule.density


def mask_of_winners(rule: Rival, weight: Array, state: State) -> Array:
    """[...] like the weight: 1 where its unit is kept, else 0; constant for differentiation."""
    score = lax.stop_gradient(rule.score(weight, state))
    return to_weights(rule, compete(rule, score, state), weight)


def weight_times_mask(rule: Rule, weight: Array, state: State) -> Array:
    """[...], the product of weight and mask."""
    return masked(weight, rule.mask(weight, state))


def with_role(rule: AnyRule, role: Role) -> AnyRule:
    """The rule with another role."""
    return dataclasses.replace(rule, role=role)  # type: ignore[type-var]


def unit_magnitude(rule: Tiled, weight: Array) -> Array:
    """`magnitude` of each unit of the rule: float32 or wider, [grid of units]."""
    return magnitude(weight, rule.unit.tile(weight.shape, rule.role))


def to_weights(rule: Tiled, units: Array, weight: Array) -> Array:
    """Give each weight the value of its unit: [grid of units] -> shape and type of the weight."""
    return spread(units.astype(weight.dtype), rule.unit.tile(weight.shape, rule.role), weight.shape)


def sharing(rule: Scoped, shape: tuple[int, ...]) -> list[tuple[int, bool]]:
    """The length of each axis of the grid of units, and whether units share along it."""
    grid = grid_shape(shape, rule.unit.tile(shape, rule.role))
    shared = rule.scope.axes(len(shape), rule.role)
    return [(n, axis in shared) for axis, n in enumerate(grid)]


def compete(rule: Rival, score: Array, state: State) -> Array:
    """Which units are kept: bool, [grid] like the score."""
    kept = rule.kept(state)
    if isinstance(kept, float | int) and kept == 1:
        return jnp.ones_like(score, bool)
    if "cut" in state:
        return above_cut(score, state["cut"])
    return winners(score, kept, rule.scope, rule.role)


def cut_of(rule: Rival, score: Array, state: State) -> Array:
    """For each unit, the cut between kept and dropped scores: float32, [grid] like the score."""
    if "cut" in state:
        return jnp.broadcast_to(state["cut"][0], score.shape)
    return cuts(score, rule.kept(state), rule.scope, rule.role)


def with_cut(rule: Rival, weight: Array, state: State) -> State:
    """The initial state, with the cut that the scope `WholeModel` needs; units must compete."""
    score = rule.score(weight, state)
    shape, axes = rivals(score.shape, rule.scope, rule.role)
    if score.size > 1 and all(shape[a] == 1 for a in axes):
        raise ValueError(
            f"with unit {rule.unit} on a weight {weight.shape}, each unit is alone in its scope "
            f"{rule.scope} and none would be dropped; use Whole(), WholeModel() or another unit"
        )
    if not isinstance(rule.scope, WholeModel):
        return state
    return state | {"cut": common_cut([score], rule.kept(state), (0,))[0]}


def share_cuts(
    rules: Sequence[Rule], states: Sequence[State], scores: Sequence[Array]
) -> list[State]:
    """The states of layers whose units compete over the whole model, with their global cut.

    Layers compete if their rules are equal apart from the role. Scores are [stack..., grid].
    """
    groups: dict[Rival, list[int]] = {}
    for n, rule in enumerate(rules):
        groups.setdefault(with_role(rival(rule), Role()), []).append(n)
    new = list(states)
    for rule, members in groups.items():
        kept = jnp.ravel(jnp.asarray(rule.kept(states[members[0]])))[0]
        stacks = tuple(new[n]["cut"].ndim - 1 for n in members)
        found = common_cut([scores[n] for n in members], kept, stacks)
        for n, cut in zip(members, found, strict=True):
            new[n] = new[n] | {"cut": cut}
    return new


def without_draw(state: State) -> State:
    """The state without its draw, which makes a rule deterministic."""
    return {name: value for name, value in state.items() if name != "draw"}


def check_structure(rule: object) -> None:
    """Refuse a rule or a revision whose unit, scope or role is not valid."""
    check_unit(getattr(rule, "unit", Weight()))
    check_scope(getattr(rule, "scope", Whole()))
    check_is(Role, "a Role, such as Role()", role=getattr(rule, "role", Role()))


def total_cost(costs: Iterable[Array], kinds: Iterable[DTypeLike]) -> Array:
    """The sum of the costs of layers, [], in the widest of the types, or in any if there are none.

    Rules without a cost return a plain 0, whose type may be wider or narrower than their weight.
    """
    widest = max(kinds, key=lambda kind: jnp.finfo(kind).bits, default=None)
    # 0.0 is weakly typed: the cost of a dense model can be added to a loss of any type
    return sum((c if widest is None else c.astype(widest) for c in costs), jnp.asarray(0.0))
