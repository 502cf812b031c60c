"""Agents that learn from stored transitions alone, and how their networks are pruned at birth.

1. Observations are standardised; what acts reads them as they come (`raw`).
2. Each network is pruned once before it trains, by its own loss on one batch; the twin critics are
   one network. All kernels are pruned, the last ones too, and no bias.
3. Cloning regresses the actor on the data's actions (BC). TD3+BC is `td3` with another objective.

Reference: Arnob et al., Single-shot pruning for offline reinforcement learning, 2021.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.learning import improve
from experiments.rl.networks import Actor, Critic, Kind, Layers
from experiments.rl.replay import Batch
from experiments.rl.td3 import Objective, Td3, critic_loss, trained
from jsparse import prune, schedule

Loss = Callable[[Any, Batch], Array]


class Scale(NamedTuple):
    """Mean and deviation of observations, [observed]."""

    mean: np.ndarray
    deviation: np.ndarray

    def standard(self, batch: Batch) -> Batch:
        """The batch with standardised observations."""
        change = lambda x: (x - self.mean) / self.deviation
        return batch._replace(
            observation=change(batch.observation), following=change(batch.following)
        )

    def raw(self, layers: Layers) -> Layers:
        """The actor's layers, for observations as they come: the scale is in the first one."""
        (kernel, bias), *rest = layers
        kernel = kernel / self.deviation[:, None]
        return [(kernel, bias - self.mean @ kernel), *rest]


def scale_of(observations: np.ndarray) -> Scale:
    """That of a data set; numbers that hardly vary are only shifted."""
    deviation = observations.std(axis=0)
    return Scale(observations.mean(axis=0), np.where(deviation > 1e-3, deviation, 1).astype("f"))


class Clone(nnx.Module):
    """An actor and its optimizer."""

    def __init__(self, settings: Td3, kind: Kind, actor: Actor, last: int, seed: int):
        self.actor = actor
        self.actor_optimizer = trained(settings, kind, seed, last, actor)


class Cloner:
    """Compiled updates of BC; used like `td3.Trainer`, with one network.

    Args:
      settings: width, batch, learning rate and decay.
      kind: how the network is sparse.
      observed: numbers in an observation.
      actions: numbers in an action.
      last: the update after which masks stay.
    """

    def __init__(self, settings: Td3, kind: Kind, observed: int, actions: int, last: int):
        self.settings, self.kind, self.last = settings, kind, last
        self.observed, self.actions = observed, actions
        self.train = jax.jit(self._train, donate_argnums=0)

    def networks(self, seed: int) -> tuple[Actor]:
        """A new one."""
        actor = Actor(self.observed, self.actions, self.settings.width, nnx.Rngs(seed))
        return (self.kind.start(actor, jax.random.key(seed)),)

    def start(self, seed: int, actor: Actor) -> Any:
        """The state of an agent with this actor."""
        made = Clone(self.settings, self.kind, actor, self.last, seed)
        self._graph, state = nnx.split(made)
        return jax.tree.map(jnp.copy, state)

    def agent(self, state: Any) -> Clone:
        """The agent of a state."""
        return nnx.merge(self._graph, state)

    def _train(self, state: Any, batches: Batch, key: Array) -> tuple[Any, Array, Layers]:
        """As `Trainer.train`; batches [updates / 2, 2, batch, ...] to losses [updates]."""

        def one(state: Any, batch: Batch) -> tuple[Any, Array]:
            made = self.agent(state)
            loss = improve(made.actor, made.actor_optimizer, lambda actor: distance(actor, batch))
            return nnx.state(made), loss

        flat = Batch(*(column.reshape(-1, *column.shape[2:]) for column in batches))
        state, losses = jax.lax.scan(one, state, flat)
        return state, losses, self.agent(state).actor.net.layers()


def distance(actor: Actor, batch: Batch) -> Array:
    """The loss of BC, []."""
    return ((actor(batch.observation) - batch.action) ** 2).mean()


def birth_losses(networks: tuple, settings: Td3, objective: Objective) -> tuple[Loss, ...]:
    """The loss by which each of the networks is pruned: that of its algorithm, at the start."""
    if len(networks) == 1:
        return (distance,)
    actor, critic = networks
    noise = jax.random.key(0)
    return (
        lambda actor, batch: objective(critic, batch, actor(batch.observation)),
        lambda new, batch: critic_loss(new, actor, critic, settings, batch, noise),
    )


class Births:
    """Prunes one network at birth, by any method and to any density; scores are found once.

    Args:
      network: dense, as it starts.
      loss: its own.
      batch: one batch of data.
      seed: of random masks.
    """

    def __init__(self, network: Actor | Critic, loss: Loss, batch: Batch, seed: int):
        self.dense = jsparse.sparsify(network, (".*/kernel", jsparse.Held()))
        self.loss, self.batches, self.key = loss, [batch], jax.random.key(seed)
        self._scores: dict[str, dict[str, Array]] = {}

    def random(self, density: float) -> Any:
        """The same density in each layer."""
        choose = prune.by_layer(schedule.uniform)
        return prune.random(self.dense, density=density, key=self.key, choose=choose)

    def erdos_renyi(self, density: float) -> Any:
        """Random masks, denser where a layer is small."""
        choose = prune.by_layer(schedule.erdos_renyi)
        return prune.random(self.dense, density=density, key=self.key, choose=choose)

    def magnitude(self, density: float) -> Any:
        """The largest weights of the start."""
        return prune.magnitude(self.dense, density=density)

    def snip(self, density: float) -> Any:
        """The weights to which the loss is most sensitive."""
        return self._highest("snip", prune.snip_scores, density)

    def grasp(self, density: float) -> Any:
        """The weights that keep the gradient large."""
        return self._highest("grasp", prune.grasp_scores, density)

    def synflow(self, density: float) -> Any:
        """The weights on paths of large product; of twin critics, each by itself."""
        pruned = nnx.clone(self.dense)
        for name in ("net", "q1", "q2"):
            if hasattr(pruned, name):
                part = getattr(pruned, name)
                shape = (1, part.fc1.in_features)
                setattr(pruned, name, prune.synflow(part, shape, density=density))
        return pruned

    def _highest(self, name: str, scores: Callable, density: float) -> Any:
        if name not in self._scores:
            self._scores[name] = scores(self.dense, self.loss, self.batches)
        return prune.keep_highest(self.dense, self._scores[name], density)
