"""Agents that learn from stored transitions alone.

1. Observations are standardized; the acting network reads them raw (`raw`).
2. Cloning regresses the actor on the data's actions (BC). TD3+BC is `td3` with another objective;
   `iql` is implicit Q-learning.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array

from experiments.rl.births import Loss
from experiments.rl.learning import Updates, improve
from experiments.rl.networks import Actor, Kind, Layers
from experiments.rl.replay import Batch
from experiments.rl.td3 import Objective, Td3, critic_loss, trained


class Scale(NamedTuple):
    """Mean and deviation of observations, [observed]."""

    mean: np.ndarray
    deviation: np.ndarray

    def standard(self, batch: Batch) -> Batch:
        """The batch with standardized observations."""
        change = lambda x: (x - self.mean) / self.deviation
        return batch._replace(
            observation=change(batch.observation), following=change(batch.following)
        )

    def raw(self, layers: Layers) -> Layers:
        """The actor's layers, for raw observations: the scale is in the first one."""
        (kernel, bias), *rest = layers
        kernel = kernel / self.deviation[:, None]
        return [(kernel, bias - self.mean @ kernel), *rest]


def scale_of(observations: np.ndarray) -> Scale:
    """That of a data set; numbers that hardly vary are only shifted."""
    deviation = observations.std(axis=0)
    return Scale(observations.mean(axis=0), np.where(deviation > 1e-3, deviation, 1).astype("f"))


class Clone(nnx.Module):
    """BC: an actor and its optimizer."""

    def __init__(self, settings: Td3, kind: Kind, last: int, seed: int, actor: Actor):
        self.actor = actor
        self.actor_optimizer = trained(settings, kind, seed, last, actor)

    def update(self, batch: Batch) -> Array:
        """One step, in place; the loss."""
        return improve(self.actor, self.actor_optimizer, lambda actor: distance(actor, batch))


class Learner(Updates):
    """Updates of an agent that has one kind of them; used like `td3.Trainer`.

    Its agents have an `actor`, and their `update` takes a batch, changes them in place and returns
    the loss.
    """

    def __init__(self, networks: Callable, agent: Callable, kind: Kind):
        super().__init__(networks, agent, kind)
        self.train = jax.jit(self._train, donate_argnums=0)

    def _train(self, state: Any, batches: Batch, key: Array) -> tuple[Any, Array, Layers]:
        """As `Trainer.train`; batches [updates / 2, 2, batch, ...] to losses [updates]."""

        def one(state: Any, batch: Batch) -> tuple[Any, Array]:
            agent = self.agent(state)
            loss = agent.update(batch)
            return nnx.state(agent), loss

        flat = Batch(*(column.reshape(-1, *column.shape[2:]) for column in batches))
        state, losses = jax.lax.scan(one, state, flat)
        return state, losses, self.agent(state).actor.net.layers()


def cloner(settings: Td3, kind: Kind, observed: int, actions: int, last: int) -> Learner:
    """Compiled updates of BC, whose masks are fixed after update `last`."""
    networks = lambda rngs: (Actor(observed, actions, settings.width, rngs),)
    return Learner(networks, partial(Clone, settings, kind, last), kind)


def distance(actor: Actor, batch: Batch) -> Array:
    """The loss of BC, []."""
    return ((actor(batch.observation) - batch.action) ** 2).mean()


def near_data_losses(networks: tuple, settings: Td3, objective: Objective) -> tuple[Loss, ...]:
    """The losses by which actor and critic of TD3+BC are pruned: their own, at the start."""
    actor, critic = networks
    noise = jax.random.key(0)
    return (
        lambda actor, batch: objective(critic, batch, actor(batch.observation)),
        lambda new, batch: critic_loss(new, actor, critic, settings, batch, noise),
    )
