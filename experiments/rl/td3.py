"""TD3, with sparse networks or dense ones.

1. The target of both critics is r + gamma min(Q1', Q2') at the target actor's action, to which
   clipped noise is added. Where a task ended, it is r; a time limit is not an end.
2. Both critics regress on it.
3. At every second update the actor ascends Q1, and the targets move by tau.
4. Sparse networks: weights are masked as they are read, revisions change the masks after the step
   of an optimizer, and each matrix of a target keeps its largest links, as many as its network has.

Decay is added to the gradient, before Adam. The critics' masks change at updates 2, 2 + every, ...,
and the actor's with them.

Reference: Fujimoto et al., Addressing function approximation error in actor-critic methods, ICML
2018; Sokar et al., Dynamic sparse training for deep reinforcement learning, IJCAI 2022.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.learning import Updates, improve, optimizer
from experiments.rl.networks import Actor, Critic, Kind, Layers
from experiments.rl.replay import Batch

Objective = Callable[[Critic, Batch, Array], Array]
"""(critic, batch, the actor's actions) -> the actor's loss, []."""
DELAY = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Td3:
    """Settings, those of the sparse paper."""

    width: int = 256
    """Units of both hidden layers of each network."""
    batch: int = 100
    """Transitions of an update."""
    learning_rate: float = 1e-3
    """Of Adam."""
    decay: float = 2e-4
    """Of all weights and biases."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """How far the targets move."""
    noise: float = 0.2
    """Of the target's action, clipped at `clip`."""
    clip: float = 0.5
    """Largest such noise."""
    every: int = 1000
    """Updates between changes of the masks."""
    fraction: float = 0.05
    """Of a matrix's links, exchanged at each change."""


class Agent(nnx.Module):
    """The four networks and two optimizers; masks are fixed after update `last`."""

    def __init__(
        self, settings: Td3, kind: Kind, last: int, seed: int, actor: Actor, critic: Critic
    ):
        self.actor, self.critic = actor, critic
        self.actor_target = jsparse.hold(self.actor)
        self.critic_target = jsparse.hold(self.critic)
        made = partial(trained, settings, kind, seed, last)
        self.actor_optimizer = made(self.actor, DELAY)
        self.critic_optimizer = made(self.critic, 1)


def trained(
    settings: Td3, kind: Kind, seed: int, last: int, network: nnx.Module, delay: int = 1
) -> jsparse.Optimizer:
    """Adam with L2 decay; its steps are every `delay`-th update, and masks fixed after `last`."""
    tx = optax.chain(optax.add_decayed_weights(settings.decay), optax.adam(settings.learning_rate))
    first, every, last = (max(1, n // delay) for n in (DELAY, settings.every, last))
    when = {"first": first, "every": every, "last": last, "fraction": settings.fraction}
    return optimizer(network, tx, kind, seed, **when)


def critic_loss(
    critic: Critic, actor_target: Actor, critic_target: Critic, settings: Td3, batch: Batch,
    key: Array,
) -> Array:  # fmt: skip
    """1. and 2.: squared distance of both values to the target, []."""
    noise = settings.noise * jax.random.normal(key, batch.action.shape)
    action = actor_target(batch.following) + noise.clip(-settings.clip, settings.clip)
    after = jnp.minimum(*critic_target(batch.following, action.clip(-1, 1)))
    target = jax.lax.stop_gradient(batch.reward + settings.gamma * batch.going * after)
    q1, q2 = critic(batch.observation, batch.action)
    return ((q1 - target) ** 2).mean() + ((q2 - target) ** 2).mean()


def improve_critic(agent: Agent, settings: Td3, batch: Batch, key: Array) -> Array:
    """2., in place; the loss."""
    targets = agent.actor_target, agent.critic_target
    loss_of = lambda critic: critic_loss(critic, *targets, settings, batch, key)
    return improve(agent.critic, agent.critic_optimizer, loss_of)


def ascend(critic: Critic, batch: Batch, action: Array) -> Array:
    """The objective of TD3."""
    return -critic.first(batch.observation, action).mean()


def near_data(alpha: float) -> Objective:
    """That of TD3+BC: Q over its mean size times alpha, and the squared distance to the data.

    Reference: Fujimoto and Gu, A minimalist approach to offline reinforcement learning, NeurIPS
    2021.
    """

    def objective(critic: Critic, batch: Batch, action: Array) -> Array:
        value = critic.first(batch.observation, action)
        scale = alpha / jax.lax.stop_gradient(jnp.abs(value).mean())
        return ((action - batch.action) ** 2).mean() - scale * value.mean()

    return objective


def improve_actor(agent: Agent, settings: Td3, objective: Objective, batch: Batch) -> Array:
    """3. and 4., in place; the loss."""
    value = jsparse.resolve(agent.critic)
    loss_of = lambda actor: objective(value, batch, actor(batch.observation))
    loss = improve(agent.actor, agent.actor_optimizer, loss_of)
    move = partial(jsparse.average, rate=settings.tau, keep="count")
    agent.actor_target = move(agent.actor_target, agent.actor)
    agent.critic_target = move(agent.critic_target, agent.critic)
    return loss


class Trainer(Updates):
    """Compiled updates of an agent, whose masks are fixed after update `last`."""

    def __init__(
        self, settings: Td3, kind: Kind, observed: int, actions: int, last: int,
        objective: Objective = ascend,
    ):  # fmt: skip
        self.settings, self.objective = settings, objective
        self.observed, self.actions = observed, actions
        self.train = jax.jit(self._train, donate_argnums=0)
        self.layers = jax.jit(self._layers)
        sizes = observed, actions, settings.width
        networks = lambda rngs: (Actor(*sizes, rngs), Critic(*sizes, rngs))
        super().__init__(networks, partial(Agent, settings, kind, last), kind)

    def _train(self, state: Any, batches: Batch, key: Array) -> tuple[Any, Array, Layers]:
        """Updates in turn: batches [updates / 2, 2, batch, ...] to losses [updates / 2, 3].

        Returns:
          The new state, the losses of both updates of the critic and of the actor, and the layers
          of the actor.
        """

        def critic(state: Any, given: tuple[Batch, Array]) -> tuple[Any, Array]:
            agent = self.agent(state)
            loss = improve_critic(agent, self.settings, *given)
            return nnx.state(agent), loss

        def pair(state: Any, given: tuple[Batch, Array]) -> tuple[Any, Array]:
            state, losses = jax.lax.scan(critic, state, given)
            agent, last = self.agent(state), Batch(*(column[-1] for column in given[0]))
            loss = improve_actor(agent, self.settings, self.objective, last)
            return nnx.state(agent), jnp.append(losses, loss)

        keys = jax.random.split(key, (len(batches.reward), DELAY))
        state, losses = jax.lax.scan(pair, state, (batches, keys))
        return state, losses, self._layers(state)

    def _layers(self, state: Any) -> Layers:
        """The layers of the actor, as it reads them."""
        return jsparse.resolve(self.agent(state).actor).net.layers()
