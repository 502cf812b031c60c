"""Rules on any tree of arrays: Linen params, or a dictionary of parameters.

`plan` assigns rules to leaves, `init` makes the state, and `apply` returns the tree that the model
reads. State trained by gradients (`learned`) and state changed only by events (`held`) are separate
trees, so an optimizer for the first never touches the second.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._paths import map_by_path, match, named, naming, pairs
from jsparse._sharding import follow, where_is
from jsparse._values import check_key, check_mapping, shown
from jsparse.rules._keep import where_it_fits
from jsparse.rules._rule import Rule, Rules, State, rival, share_cuts, total_cost, without_draw
from jsparse.rules._stacked import (
    over_stack,
    shapes_if_doubled,
    stacked_advance,
    stacked_cost,
    stacked_init,
)

Plan = Mapping[str, Rule]
States = dict[str, State]


def plan(params: Any, *rules: Rules) -> dict[str, Rule]:
    """Assign rules to leaves by path.

    Args:
      params: tree of arrays; a leaf's path joins its keys with slashes, as in "Dense_0/kernel".
      *rules: pairs of a regular expression, matched against the whole path, and a rule, or a list
        or dict of them. The first match wins; a leaf without a match stays dense. Axes are taken to
        be [spatial..., in, out]; for other weights, such as the projections of attention, give the
        rule a `Role`. A tree does not show which cells are recurrent: mark them with
        Role(recurrent=True), or `Threshold` also resets the thresholds of those that keep 1 % or
        less.

    Returns:
      Rule by path.

    Raises:
      ValueError: no rules, or a pattern that matches no leaf; the error lists near misses.

    Example:
      >>> import jax.numpy as jnp
      >>> from jsparse import Threshold
      >>> sorted(plan({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
      ...             (".*/kernel", Threshold())))
      ['dense/kernel']
    """
    leaves = named(params)
    chosen = match(leaves, pairs(rules))
    return {path: where_it_fits(rule, jnp.shape(leaves[path])) for path, rule in chosen.items()}


def init(plan: Plan, params: Any, key: Array) -> tuple[States, States]:
    """State for each planned leaf.

    A rule that reparameterizes its weight (`Powerpropagation`) stores it in `learned`; the leaf
    itself is then no longer read.

    Args:
      plan: rule by path.
      params: tree of arrays.
      key: [], consumed.

    Returns:
      (learned, held): the arrays to train along with the params, and those changed only by events,
      each by path and name.

    Raises:
      TypeError: a planned leaf is not of a floating type.
      ValueError: a planned leaf is a scalar, or its shape does not suit the rule.
    """
    check_key(key=key)
    leaves = _planned(plan, params)
    learned: States = {}
    held: States = {}
    for path, part in zip(plan, jax.random.split(key, max(1, len(plan))), strict=False):
        rule = plan[path]
        with naming(path):
            state = stacked_init(rule, leaves[path], part)
            where = where_is(leaves[path])
            if not where.mesh.empty:
                state = follow(shapes_if_doubled(rule, leaves[path]), rule.role.stack, state, where)
        # a reparameterized weight is trained in place of the leaf, so it is learned
        mine = (*rule.learned, "weight")
        learned[path] = {n: v for n, v in state.items() if n in mine}
        held[path] = {n: v for n, v in state.items() if n not in mine}
    return learned, _shared(plan, leaves, learned, held)


def apply(plan: Plan, params: Any, learned: States, held: States) -> Any:
    """The tree that the model reads: each planned leaf replaced by its masked weight.

    Args:
      plan: rule by path.
      params: tree of arrays.
      learned: from `init`.
      held: from `init`.

    Returns:
      A tree like params.
    """
    new = _each(plan, params, learned, held, lambda rule: rule.apply)
    return map_by_path(new.get, params)


def mask(plan: Plan, params: Any, learned: States, held: States) -> Any:
    """A tree of masks like params, 1 kept and 0 dropped; ones for leaves without a rule."""
    new = _each(plan, params, learned, held, lambda rule: rule.mask)
    return map_by_path(new.get, jax.tree.map(jnp.ones_like, params))


def cost(plan: Plan, learned: States, held: States) -> Array:
    """The term that the rules add to the loss, []."""
    _check_states(plan, learned=learned, held=held)
    costs = (stacked_cost(r, learned[p] | held[p], r.role.stack) for p, r in plan.items())
    return total_cost(costs, [leaf.dtype for leaf in jax.tree.leaves(learned)])


def advance(plan: Plan, params: Any, learned: States, held: States) -> tuple[States, States]:
    """(learned, held) after the events of a train step, with params already updated."""
    _check_states(plan, learned=learned, held=held)
    leaves = _planned(plan, params)
    new_learned: States = {}
    new_held: States = {}
    for path, rule in plan.items():
        weight, state = _entry(leaves[path], learned[path] | held[path])
        state = learned[path] | stacked_advance(rule, rule.role.stack, weight, state)
        new_learned[path] = {n: state[n] for n in learned[path]}
        new_held[path] = {n: state[n] for n in held[path]}
    return new_learned, _shared(plan, leaves, new_learned, new_held)


def settled(held: States) -> States:
    """`held` without the draws, to pass to `apply` and `mask` for evaluation."""
    _check_states({}, held=held)
    return {path: without_draw(state) for path, state in held.items()}


def _each(
    plan: Plan, params: Any, learned: States, held: States, method: Callable[[Rule], Callable]
) -> dict[str, Array]:
    """What a method of the rules gives for each planned leaf, by path."""
    _check_states(plan, learned=learned, held=held)
    leaves = _planned(plan, params)
    return {
        path: over_stack(method(rule), rule.role.stack)(
            *_entry(leaves[path], learned[path] | held[path])
        )
        for path, rule in plan.items()
    }


def _entry(leaf: Array, state: State) -> tuple[Array, State]:
    """The weight, which is the leaf unless it was reparameterized, and the rest of the state."""
    rest = {name: value for name, value in state.items() if name != "weight"}
    return state.get("weight", leaf), rest


def _shared(plan: Plan, leaves: Mapping[str, Array], learned: States, held: States) -> States:
    """`held` with the cuts of whole models recomputed."""
    paths = [path for path in plan if "cut" in held[path]]
    entries = [_entry(leaves[path], learned[path] | held[path]) for path in paths]
    scores = [
        over_stack(rival(plan[path]).score, plan[path].role.stack)(*entry)
        for path, entry in zip(paths, entries, strict=True)
    ]
    states = share_cuts([plan[path] for path in paths], [state for _, state in entries], scores)
    cuts = {path: {"cut": state["cut"]} for path, state in zip(paths, states, strict=True)}
    return {path: state | cuts.get(path, {}) for path, state in held.items()}


def _planned(plan: Plan, params: Any) -> dict[str, Array]:
    """The leaves by path; every path of the plan must be among them."""
    _check_plan(plan)
    leaves = named(params)
    if absent := [path for path in plan if path not in leaves]:
        raise ValueError(f"params have no {absent[0]!r}, which is in the plan; call plan again")
    return leaves


def _check_plan(plan: Any) -> None:
    """Refuse anything but rules by path."""
    check_mapping("rules by path, which jsparse.tree.plan gives", plan=plan)
    for rule in plan.values():
        if isinstance(rule, type) or not hasattr(rule, "apply"):
            raise TypeError(f"plan must hold rules by path, as tree.plan does; got {shown(rule)}")


def _check_states(plan: Plan, **states: Any) -> None:
    """Refuse anything but the two trees that `init` returns."""
    _check_plan(plan)
    for name, state in states.items():
        check_mapping("arrays by path and name, which jsparse.tree.init gives", **{name: state})
        if absent := [path for path in plan if path not in state]:
            raise ValueError(
                f"{name} has nothing for {absent[0]!r}, which is in the plan; got {list(state)}: "
                "pass what jsparse.tree.init of this plan returned"
            )
