"""Implicit Q-learning: from stored transitions alone, never asking for the value of other actions.

1. The value V of a state regresses on min(Q1', Q2') at the data's action, by expectiles: an error u
   = Q - V counts |tau - 1(u < 0)| u^2, so that V comes near what the better actions are worth.
2. The actor, a normal distribution, ascends min(100, exp(beta (min(Q1', Q2') - V))) log pi(a | s).
3. Both critics regress on r + gamma V(s'); where a task ended, on r.
4. The targets Q' move toward the critics; each of their matrices keeps equally many links.

The means are a function of the observation, in (-1, 1), and the deviations are numbers that are
learned; the mean acts. As in the authors' code, rewards are scaled so that returns of the data span
1,000. Unlike theirs, the actor's learning rate is constant.

Reference: Kostrikov, Nair and Levine, Offline reinforcement learning with implicit Q-learning,
ICLR 2022, equations 5 to 7, algorithm 1 and appendix B.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.births import Loss
from experiments.rl.learning import improve
from experiments.rl.networks import MLP, Critic, Kind
from experiments.rl.offline import Learner
from experiments.rl.policies import Gaussian
from experiments.rl.replay import Batch
from experiments.rl.td3 import Td3, trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Iql:
    """What only this algorithm has; the rest is as in `Td3`."""

    expectile: float = 0.7
    """tau of 1., in (0, 1); at 0.5 V is the mean."""
    beta: float = 3.0
    """How sharply the actor prefers what is better than V."""
    cap: float = 100.0
    """Of the weight of an action."""

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ValueError(f"--iql.expectile is in (0, 1), got {self.expectile}")
        if self.beta < 0 or self.cap <= 0:
            raise ValueError(
                f"--iql.beta is 0 or more and --iql.cap above 0, got {self.beta} and {self.cap}"
            )


class Normal(nnx.Module):
    """A policy with normal noise: observations [n, observed] to means [n, actions] in (-1, 1)."""

    def __init__(self, observed: int, actions: int, width: int, rngs: nnx.Rngs):
        self.net = MLP(observed, actions, width, rngs)
        self.log_deviation = nnx.Param(jnp.zeros(actions))

    def __call__(self, observation: Array) -> Array:
        return jnp.tanh(self.net(observation))

    def log_prob(self, observation: Array, action: Array) -> Array:
        """[n], of actions."""
        mean = self(observation)
        log = jnp.broadcast_to(self.log_deviation[...], mean.shape)
        out = jnp.concatenate([mean, log], axis=-1)
        return Gaussian(mean.shape[-1]).log_prob(out, action)


class Value(nnx.Module):
    """Values of places: observations [n, observed] to [n]."""

    def __init__(self, observed: int, width: int, rngs: nnx.Rngs):
        self.value = MLP(observed, 1, width, rngs)

    def __call__(self, observation: Array) -> Array:
        return self.value(observation)[:, 0]


def value_loss(value: Value, target: Critic, settings: Iql, batch: Batch) -> Array:
    """1., []."""
    error = jnp.minimum(*target(batch.observation, batch.action)) - value(batch.observation)
    share = jnp.where(error > 0, settings.expectile, 1 - settings.expectile)
    return (share * error**2).mean()


def actor_loss(actor: Normal, value: Value, target: Critic, settings: Iql, batch: Batch) -> Array:
    """2., []; neither value nor target is climbed."""
    better = jnp.minimum(*target(batch.observation, batch.action)) - value(batch.observation)
    weight = jnp.minimum(jnp.exp(settings.beta * better), settings.cap)
    log = actor.log_prob(batch.observation, batch.action)
    return -(jax.lax.stop_gradient(weight) * log).mean()


def critic_loss(critic: Critic, value: Value, gamma: float, batch: Batch) -> Array:
    """3., []."""
    target = batch.reward + gamma * batch.going * jax.lax.stop_gradient(value(batch.following))
    q1, q2 = critic(batch.observation, batch.action)
    return ((q1 - target) ** 2 + (q2 - target) ** 2).mean()


class Agent(nnx.Module):
    """The networks, the critics' target and three optimizers; masks stay after update `last`."""

    def __init__(
        self, settings: Td3, own: Iql, kind: Kind, last: int,
        seed: int, actor: Normal, critic: Critic, value: Value,
    ):  # fmt: skip
        self.settings, self.own = settings, own
        self.actor, self.critic, self.value = actor, critic, value
        self.critic_target = jsparse.hold(critic)
        made = partial(trained, settings, kind, seed, last)
        self.actor_optimizer, self.critic_optimizer = made(actor), made(critic)
        self.value_optimizer = made(value)

    def update(self, batch: Batch) -> Array:
        """1. to 4., in place; the sum of the three losses."""
        target, own, gamma = self.critic_target, self.own, self.settings.gamma
        of_value = lambda value: value_loss(value, target, own, batch)
        of_actor = lambda actor: actor_loss(actor, self.value, target, own, batch)
        of_critic = lambda critic: critic_loss(critic, self.value, gamma, batch)
        loss = improve(self.value, self.value_optimizer, of_value)
        loss += improve(self.actor, self.actor_optimizer, of_actor)
        loss += improve(self.critic, self.critic_optimizer, of_critic)
        self.critic_target = jsparse.average(target, self.critic, self.settings.tau, keep="count")
        return loss


def learner(settings: Td3, own: Iql, kind: Kind, observed: int, actions: int, last: int) -> Learner:
    """Compiled updates, after `last` of which masks stay."""

    def networks(rngs: nnx.Rngs) -> tuple[Normal, Critic, Value]:
        sizes = observed, actions, settings.width, rngs
        return Normal(*sizes), Critic(*sizes), Value(observed, settings.width, rngs)

    return Learner(networks, partial(Agent, settings, own, kind, last), kind)


def birth_losses(networks: tuple, settings: Td3, own: Iql) -> tuple[Loss, ...]:
    """The losses by which actor, critic and value are pruned: their own, at the start."""
    _, critic, value = networks
    return (
        lambda new, batch: actor_loss(new, value, critic, own, batch),
        lambda new, batch: critic_loss(new, value, settings.gamma, batch),
        lambda new, batch: value_loss(new, critic, own, batch),
    )


def reward_scale(rows: Batch) -> float:
    """1,000 over the span of the returns of whole episodes; 1 where they do not differ.

    Args:
      rows: transitions in the order in which they were made, [n, ...].
    """
    starts = np.flatnonzero((rows.following[:-1] != rows.observation[1:]).any(axis=1)) + 1
    if len(starts) < 2:
        return 1.0
    returns = np.add.reduceat(rows.reward, [0, *starts])[:-1]  # the last may have been cut
    span = float(returns.max() - returns.min())
    return 1000 / span if span > 0 else 1.0
