"""Rules on any tree of arrays: Linen params, or parameters in a dictionary of one's own.

`plan` says which leaf has which rule, `init` makes the state, `apply` returns the tree that the
model reads. State that gradients train (`learned`) and state that only events change (`held`) are
two trees, so that an optimizer over the first never touches the second.
"""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse.pattern import Role
from jsparse.placement import follow, where_is
from jsparse.rules.rule import Rule, State, over_stack, stacked_cost, stacked_init
from jsparse.rules.rule import settled as settled_state
from jsparse.selection import common_cut

Plan = Mapping[str, Rule]
States = dict[str, State]


def plan(params: Any, *rules: tuple[str, Rule]) -> dict[str, Rule]:
    """Which leaf has which rule.

    Args:
      params: tree of arrays; a leaf's path joins its keys by slashes, as in "Dense_0/kernel".
      *rules: pairs of a regular expression, matched against the whole path, and a rule. The first
        match wins; a leaf without a match stays dense. Its axes are [spatial..., in, out]; for
        others, such as the projections of attention, give the rule a `Role`. A tree does not show
        which cells are recurrent: Role(recurrent=True) there, or `Threshold` resets thresholds of
        those that keep 1 % or less too.

    Returns:
      Rule by path.

    Raises:
      ValueError: no rules, or a pattern that matches no leaf; the error lists near misses.

    Example:
      >>> import jax.numpy as jnp
      >>> from jsparse.rules import Threshold
      >>> sorted(plan({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
      ...             (".*/kernel", Threshold())))
      ['dense/kernel']
    """
    return match(_leaves(params), rules)


def init(plan: Plan, params: Any, key: Array) -> tuple[States, States]:
    """State for each planned leaf.

    A rule that reparameterises (`Powerpropagation`) keeps its weight in `learned`; the leaf itself
    is then no longer read.

    Args:
      plan: rule by path.
      params: tree of arrays.
      key: [], consumed.

    Returns:
      (learned, held): the arrays to train with the params, and those that only events change, each
      by path and name.

    Raises:
      TypeError: a planned leaf is not floating.
      ValueError: a planned leaf is a scalar, or its shape does not suit the rule.
    """
    leaves = _planned(plan, params)
    learned: States = {}
    held: States = {}
    for path, part in zip(plan, jax.random.split(key, max(1, len(plan))), strict=False):
        rule = plan[path]
        with naming(path):
            state = stacked_init(rule, leaves[path], part)
            state = follow(rule, leaves[path], state, where_is(leaves[path]))
        # a reparameterised weight is trained in place of the leaf, so it is learned
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
    return _replace(plan, params, learned, held, lambda rule: rule.apply)


def mask(plan: Plan, params: Any, learned: States, held: States) -> Any:
    """A tree like params of masks, 1 kept and 0 not; ones where no rule is planned."""
    ones = jax.tree.map(jnp.ones_like, params)
    masks = _replace(plan, params, learned, held, lambda rule: rule.mask)
    chosen = _leaves(masks)
    return _with_leaves(ones, {path: chosen[path] for path in plan})


def cost(plan: Plan, learned: States, held: States) -> Array:
    """What the rules add to the loss, []."""
    total = jnp.zeros(())
    for path, rule in plan.items():
        total = total + stacked_cost(rule, learned[path] | held[path], rule.role.stack)
    return total


def advance(plan: Plan, params: Any, learned: States, held: States) -> tuple[States, States]:
    """(learned, held) after the events of a train step, with params already updated."""
    leaves = _planned(plan, params)
    new_learned: States = {}
    new_held: States = {}
    for path, rule in plan.items():
        weight, state = _entry(leaves[path], learned[path] | held[path])
        state = learned[path] | _map(rule, rule.advance)(weight, state)
        new_learned[path] = {n: state[n] for n in learned[path]}
        new_held[path] = {n: state[n] for n in held[path]}
    return new_learned, _shared(plan, leaves, new_learned, new_held)


def settled(held: States) -> States:
    """`held` without the draws: what to give `apply` and `mask` for evaluation."""
    return {path: settled_state(state) for path, state in held.items()}


def match(names: Iterable[str], rules: Sequence[tuple[str, Rule]]) -> dict[str, Rule]:
    """The first rule whose pattern matches each whole path.

    A path is also tried with a slash in front, so that ".*/kernel" finds a kernel at the top.

    Args:
      names: the paths.
      rules: pairs of a regular expression and a rule.

    Returns:
      Rule by path, for the paths that match.

    Raises:
      TypeError: the second of a pair is not a rule.
      ValueError: no rules, not a pair, an invalid expression, or one that matches nothing.
    """
    if not rules:
        raise ValueError('no rules given; pass pairs such as (".*/kernel", Threshold())')
    chosen: dict[str, Rule] = {}
    for rule in rules:
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
            raise ValueError(
                f'got {rule!r}; each rule is a pair such as (".*/kernel", Threshold())'
            )
        pattern, choice = rule
        if isinstance(choice, type) or not hasattr(choice, "role"):
            raise TypeError(
                f"{pattern!r}: {choice!r} is no rule; give an instance, as Threshold(alpha=5e-4)"
            )
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        found = [n for n in names if expression.fullmatch(n) or expression.fullmatch("/" + n)]
        if not found:
            raise ValueError(_no_match(pattern, names))
        for name in found:
            chosen.setdefault(name, choice)
    return chosen


def _no_match(pattern: str, names: Iterable[str]) -> str:
    paths = list(names)
    plain = re.sub(r"[\\^$.*+?()\[\]{}|]", "", pattern).strip("/")
    near = [p for p in paths if plain and plain.lower() in p.lower()]
    near += [p for p in difflib.get_close_matches(plain, paths, 5, 0.4) if p not in near]
    shown = near[:8] or paths[:8]
    what = "nearest" if near else "there are"
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return (
        f"pattern {pattern!r} matches no parameter; {what}: {', '.join(shown) or 'none'}{more}. "
        "A pattern is a regular expression for the whole path, such as '.*/kernel'"
    )


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Put the path of a parameter in front of an error raised for it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # not type(error): some of JAX's own take other arguments than a text
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error


def _replace(
    plan: Plan, params: Any, learned: States, held: States, method: Callable[[Rule], Callable]
) -> Any:
    leaves = _planned(plan, params)
    new = {
        path: _map(rule, method(rule))(*_entry(leaves[path], learned[path] | held[path]))
        for path, rule in plan.items()
    }
    return _with_leaves(params, new)


def _entry(leaf: Array, state: State) -> tuple[Array, State]:
    """The weight of a rule, the leaf unless it was reparameterised, and the rest of the state."""
    rest = {name: value for name, value in state.items() if name != "weight"}
    return state.get("weight", leaf), rest


def _shared(plan: Plan, leaves: Mapping[str, Array], learned: States, held: States) -> States:
    """`held` with whole models cut anew."""
    paths = [path for path in plan if "cut" in held[path]]
    entries = [_entry(leaves[path], learned[path] | held[path]) for path in paths]
    scores = [
        _map(plan[path], plan[path].score)(*entry)  # type: ignore[attr-defined]
        for path, entry in zip(paths, entries, strict=True)
    ]
    states = share_cuts([plan[path] for path in paths], [state for _, state in entries], scores)
    cuts = {path: {"cut": state["cut"]} for path, state in zip(paths, states, strict=True)}
    return {path: state | cuts.get(path, {}) for path, state in held.items()}


def share_cuts(
    rules: Sequence[Rule], states: Sequence[State], scores: Sequence[Array]
) -> list[State]:
    """The states of layers whose units compete over the whole model, with their common cut.

    Layers compete if their rules are equal but for the role.

    Args:
      rules: of each layer, with scope `WholeModel`.
      states: of each layer.
      scores: of each layer, [stack..., grid of units].

    Returns:
      The states, in order.
    """
    groups: dict[Rule, list[int]] = {}
    for n, rule in enumerate(rules):
        groups.setdefault(dataclasses.replace(rule, role=Role()), []).append(n)  # type: ignore[type-var]
    new = list(states)
    for rule, members in groups.items():
        kept = jnp.ravel(jnp.asarray(rule.kept(states[members[0]])))[0]  # type: ignore[attr-defined]
        stacks = tuple(new[n]["cut"].ndim - 1 for n in members)
        found = common_cut([scores[n] for n in members], kept, stacks)
        for n, cut in zip(members, found, strict=True):
            new[n] = new[n] | {"cut": cut}
    return new


def _map(rule: Rule, method: Callable) -> Callable:
    return over_stack(method, rule.role.stack)


def path_of(keys: tuple) -> str:
    """A leaf's path, without the attribute in which a variable of NNX keeps its array."""
    inside = [jax.tree_util.GetAttrKey(name) for name in ("value", "raw_value")]
    return _path(keys[:-1] if keys and keys[-1] in inside else keys)


def _path(keys: tuple) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _leaves(params: Any) -> dict[str, Array]:
    leaves: dict[str, Array] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaves.setdefault(_path(keys), leaf) is not leaf:
            raise ValueError(f"two leaves have the path {_path(keys)!r}; rename a key with a slash")
    return leaves


def _planned(plan: Plan, params: Any) -> dict[str, Array]:
    """The leaves by path, with all that the plan names."""
    leaves = _leaves(params)
    absent = [path for path in plan if path not in leaves]
    if absent:
        raise ValueError(f"params have no {absent[0]!r}, which the plan names; plan them anew")
    return leaves


def _with_leaves(params: Any, new: Mapping[str, Array]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: new.get(_path(keys), leaf), params)
