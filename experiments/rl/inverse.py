"""Learning what is forbidden from an expert who obeys: the network zeta of inverse constraints.

Trajectories of an expert and of the policy as it is; zeta(s, a) in (0, 1) says how allowed an
action is, and the product of it over an episode how allowed that is. With zeta' at the start of the
updates, an episode of the policy weighs w ~ prod_t (zeta + e) / (zeta' + e), of mean 1, and zeta
descends

    -mean log zeta(expert) + mean w log zeta(policy) + delta mean (1 - zeta)

until the weights have gone too far from 1. Products are sums of logarithms: over 200 steps they
are smaller than what float32 can hold.

Reference: Malik, Anwar, Aghasi and Ahmed, Inverse constrained reinforcement learning, ICML 2021,
arXiv 2011.09999, algorithm 1 and its code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.rl.environments.ring import Allowed
from jsparse.optim import Multiplier

EPS, FORWARD, BACKWARD = 1e-5, 10.0, 2.5
"""e, and the largest divergences of the weighted episodes, from the policy's and to them."""
Walks = Array
"""What was seen and done, [episodes, steps, inputs]."""
Objective = Callable[[Allowed, Allowed, Walks, Walks], tuple[Array, Array]]
"""(zeta, zeta before, expert, policy) -> the loss, and whether to continue, []."""


def difference(cost: Array, limit: Array) -> Array:
    """How far a cost is above its limit, which may be 0."""
    return cost - limit


def price(integral: float) -> Multiplier:
    """Of the cost 1 - zeta, which may not be at all: 1 at first, and never less."""
    return Multiplier(0.0, start=1.0, integral=integral, proportional=0.0, excess=difference)


def logs(allowed: Allowed, walks: Walks) -> Array:
    """log(zeta + e), [episodes, steps]."""
    return jnp.log(jax.nn.sigmoid(allowed.logit(walks)) + EPS)


def weighted(allowed: Allowed, before: Allowed, walks: Walks) -> tuple[Array, Array]:
    """Weights [episodes] of mean 1, and whether both divergences are within their bounds, []."""
    change = (logs(allowed, walks) - logs(before, walks)).sum(axis=1)
    weight = len(change) * jax.nn.softmax(change)
    forward, backward = -change.mean(), (weight * change).mean() - change.mean()
    return weight, (forward <= FORWARD) & (backward <= BACKWARD)


def loss(
    allowed: Allowed, before: Allowed, expert: Walks, walks: Walks, delta: float
) -> tuple[Array, Array]:
    """What zeta descends, [], and whether the weights are still within their bounds, []."""
    weight, near = weighted(jax.lax.stop_gradient(allowed), before, walks)
    log = weight[:, None] * logs(allowed, walks)
    few = sum(jax.nn.sigmoid(-allowed.logit(one)).mean() for one in (expert, walks))
    return log.mean() - logs(allowed, expert).mean() + delta * few, near


def unlike(allowed: Allowed, before: Allowed, expert: Walks, walks: Walks) -> tuple[Array, Array]:
    """The same of a classifier: cross-entropy of expert against policy; nothing is weighted."""
    own = jax.nn.log_sigmoid(allowed.logit(expert)).mean()
    return -own - jax.nn.log_sigmoid(-allowed.logit(walks)).mean(), jnp.array(True)


def improved(
    objective: Objective, allowed: Allowed, expert: Walks, walks: Walks, rate: float, passes: int
) -> Allowed:
    """Zeta after some steps of Adam, fewer if the weights go too far."""
    before, tx = allowed, optax.adam(rate, eps=1e-5)

    def step(at: tuple, _: None) -> tuple[tuple, None]:
        allowed, state, going = at
        slope, near = jax.grad(objective, has_aux=True)(allowed, before, expert, walks)
        going = going & near
        updates, state = tx.update(slope, state, allowed)
        after = optax.apply_updates(allowed, updates)
        allowed = jax.tree.map(lambda new, old: jnp.where(going, new, old), after, allowed)
        return (allowed, state, going), None

    start = allowed, tx.init(allowed), jnp.array(True)
    return jax.lax.scan(step, start, None, length=passes)[0][0]
