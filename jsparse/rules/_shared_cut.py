"""The global cut of layers whose units compete over the whole model.

Numbers: no figure of its own.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Role
from jsparse._topk import common_cut
from jsparse.rules._rule import Rival, Rule, State, rival, with_role


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
