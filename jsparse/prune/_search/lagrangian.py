"""PPO-Lagrangian over layers, after the official code of the paper.

1. An episode is one pass over the layers: the policy sees the layer and its actions so far, and
   returns a logit of the density. Reward and cost come at the end.
2. Two critics, advantages of both scaled to unit deviation: A = (A_r - nu A_c) / (1 + nu).
3. After each population nu is moved by `jsparse.optim.Multiplier` on log(C / d). In the paper it is
   a softplus moved by Adam on C - d, which in our runs drove the policy to remove everything, where
   no gradient leads back.
4. As for the other methods the score is that of the proposal after projection; its cost is that
   before projection.

Step 1, the sizes of the networks and the settings of PPO are the paper's, except that the rate is
ten times as high: the paper has 40,000 steps, this a thousand episodes. Steps 3 and 4 are ours.

Numbers: experiments/search_budget.py.
"""

import dataclasses
import functools
import itertools
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jsparse._values import check_in, check_whole
from jsparse.optim._multiplier import Multiplier
from jsparse.prune._search.layers import Layers
from jsparse.prune._search.methods import Outcome, sigmoid, tightening

WIDTH = 32
"""Width of the two hidden layers of each network."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lagrangian:
    """Constrained reinforcement learning: PPO with a critic for the cost and a multiplier.

    Args:
      population: candidates that are scored together, 2 or more.
      rate: learning rate of Adam.
      epochs: passes over a population.
      batch: layers of episodes in a train step.
      clip: of the probability ratio, in (0, 1).
      gamma: discount of the reward from layer to layer, in (0, 1].
      trace: lambda of generalized advantages, in (0, 1].
      entropy: weight of the entropy, 0 or more.
      divergence: from the old policy; a population's train steps end at 1.5 times this.
      tighten: factor between the limits of two stages, in (0, 1).

    Raises:
      ValueError: a setting is out of range.

    Reference: Malik, Haider, Iqbal and Taj, Neural network pruning through constrained
      reinforcement learning, ICPR 2022.
    """

    population: int = 32
    rate: float = 3e-3
    epochs: int = 10
    batch: int = 64
    clip: float = 0.2
    gamma: float = 0.99
    trace: float = 0.95
    entropy: float = 1e-3
    divergence: float = 0.1
    tighten: float = 0.7

    def __post_init__(self) -> None:
        check_whole(2, population=self.population)
        check_whole(epochs=self.epochs, batch=self.batch)
        check_in("(0, inf)", rate=self.rate, divergence=self.divergence)
        check_in("(0, 1)", clip=self.clip, tighten=self.tighten)
        check_in("(0, 1]", gamma=self.gamma, trace=self.trace)
        check_in("[0, inf)", entropy=self.entropy)

    def limits(self, dense: float, budget: float) -> tuple[float, ...]:
        return tightening(self.tighten, dense, budget)

    def propose(self, layers: Layers, key: Array) -> Generator[np.ndarray, Outcome, None]:
        known = _features(layers)
        agent = _begin(key, known.shape[1] + 2, self)
        nu = Multiplier(1.0)
        for step in range(1, 1 << 30):
            first, second = jax.random.split(jax.random.fold_in(key, step))
            rollout = _act(agent.params, known, first, self.population)
            outcome = yield sigmoid(np.asarray(rollout.taken, np.float64).T)
            nu = nu.update(float(np.exp(outcome.excess).mean()))
            scores = _in_float32(outcome.score), outcome.excess
            reward, cost = (jnp.asarray(x, jnp.float32) for x in scores)
            agent = _learn(agent, rollout, reward, cost, nu.value, second, self)


def _in_float32(scores: np.ndarray) -> np.ndarray:
    """Scores times a power of two, [n], that brings the largest to about 1: only ratios matter."""
    return np.ldexp(scores, -np.frexp(np.abs(scores).max())[1])


class _Rollout(NamedTuple):
    """Episodes, one for each candidate, layer by layer.

    Attributes:
      seen: observations, [L, n, features].
      taken: actions, [L, n].
      chance: their log-probabilities, [L, n].
    """

    seen: Array
    taken: Array
    chance: Array


class _Agent(NamedTuple):
    """What is learned, and the state of its optimizer."""

    params: Any
    optimizer: Any


def _features(layers: Layers) -> Array:
    """What the policy sees of each layer: place, inputs, outputs, window and share; [L, 5]."""
    shape = np.array([(np.prod(s[:-2]), *((1, 1, *s)[-2:])) for s in layers.shapes], np.float64)
    place = np.linspace(-1, 1, len(layers.names))
    table = np.column_stack([place, np.log(shape), np.log(layers.units)])
    spread = table.std(axis=0)
    return jnp.asarray((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1), jnp.float32)


def _begin(key: Array, seen: int, settings: Lagrangian) -> _Agent:
    """An agent that keeps about half of each layer."""
    actor, reward, cost = (_network(k, seen) for k in jax.random.split(key, 3))
    params = {"actor": actor, "reward": reward, "cost": cost, "spread": jnp.zeros(())}
    return _Agent(params, _optimizer(settings).init(params))


def _network(key: Array, inputs: int) -> list[tuple[Array, Array]]:
    sizes, scales = (inputs, WIDTH, WIDTH, 1), (1.0, 1.0, 0.01)
    return [
        (scale * jax.random.normal(k, (i, o)) / i**0.5, jnp.zeros((1, o)))
        for k, (i, o), scale in zip(
            jax.random.split(key, 3), itertools.pairwise(sizes), scales, strict=True
        )
    ]


def _read(network: list[tuple[Array, Array]], x: Array) -> Array:
    """[m, features] -> [m]."""
    for n, (weight, bias) in enumerate(network):
        x = x @ weight + bias
        x = jnp.tanh(x) if n < len(network) - 1 else x
    return x[:, 0]


def _optimizer(settings: Lagrangian) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(settings.rate))


def _chance(params: Any, seen: Array, taken: Array) -> Array:
    """Log-probability of actions, [m]."""
    spread = jnp.clip(params["spread"], -3.0, 1.0)
    apart = (taken - _read(params["actor"], seen)) / jnp.exp(spread)
    return -0.5 * apart**2 - spread - 0.9189385


@functools.partial(jax.jit, static_argnames="n")
def _act(params: Any, known: Array, key: Array, n: int) -> _Rollout:
    """Step through the layers; the policy sees the mean of its actions so far and the last one."""

    def step(before: tuple[Array, Array], at: tuple[Array, Array, Array]) -> tuple:
        (total, last), (layer, number, key) = before, at
        mine = jnp.broadcast_to(layer[None], (n, layer.size))
        seen = jnp.concatenate([mine, (total / (number + 1))[:, None], last[:, None]], axis=1)
        spread = jnp.exp(jnp.clip(params["spread"], -3.0, 1.0))
        action = _read(params["actor"], seen) + spread * jax.random.normal(key, (n,))
        return (total + action, action), (seen, action, _chance(params, seen, action))

    count = known.shape[0]
    at = known, jnp.arange(count, dtype=jnp.float32), jax.random.split(key, count)
    return _Rollout(*lax.scan(step, (jnp.zeros(n), jnp.zeros(n)), at)[1])


def _advantage(values: Array, end: Array, gamma: float, trace: float) -> tuple[Array, Array]:
    """Generalized advantages and returns, [L, n], of a reward that comes at the end, [n]."""
    after = jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])
    last = jnp.arange(len(values)) == len(values) - 1
    error = jnp.where(last[:, None], end[None], 0.0) + gamma * after - values
    back = lambda sum_, e: (e + gamma * trace * sum_,) * 2
    found = lax.scan(back, jnp.zeros_like(end), error, reverse=True)[1]
    return found, found + values


def _centered(x: Array) -> Array:
    return (x - x.mean()) / jnp.maximum(x.std(), 1e-6)


@functools.partial(jax.jit, static_argnames="settings")
def _learn(
    agent: _Agent, rollout: _Rollout, reward: Array, cost: Array, nu: Array, key: Array,
    settings: Lagrangian,
) -> _Agent:  # fmt: skip
    """Update the agent: reward and cost are paid at the end, [n]."""
    params = agent.params
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
    shape = rollout.taken.shape
    judged = lambda name: _read(params[name], flat.seen).reshape(shape)
    gain, returns = _advantage(judged("reward"), _centered(reward), settings.gamma, settings.trace)
    price, costs = _advantage(judged("cost"), cost, 1.0, settings.trace)
    advantage = (_centered(gain) - nu * _centered(price)) / (1 + nu)
    data = (flat, advantage.ravel(), returns.ravel(), costs.ravel())

    def loss_of(params: Any, batch: tuple) -> tuple[Array, Array]:
        flat, advantage, returns, costs = batch
        change = _chance(params, flat.seen, flat.taken) - flat.chance
        ratio = jnp.exp(change)
        near = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        policy = -jnp.minimum(ratio * advantage, near * advantage).mean()
        fit = ((_read(params["reward"], flat.seen) - returns) ** 2).mean()
        fit += ((_read(params["cost"], flat.seen) - costs) ** 2).mean()
        entropy = jnp.clip(params["spread"], -3.0, 1.0)
        return policy + 0.5 * fit - settings.entropy * entropy, (ratio - 1 - change).mean()

    def step(state: tuple, which: Array) -> tuple[tuple, None]:
        agent, stopped = state
        batch = jax.tree.map(lambda x: x[which], data)
        grads, moved = jax.grad(loss_of, has_aux=True)(agent.params, batch)
        stopped = stopped | (moved > 1.5 * settings.divergence)
        updates, optimizer = _optimizer(settings).update(grads, agent.optimizer, agent.params)
        new = _Agent(optax.apply_updates(agent.params, updates), optimizer)
        return (jax.tree.map(lambda a, b: jnp.where(stopped, a, b), agent, new), stopped), None

    total = flat.taken.size
    batches = max(1, total // settings.batch)
    size = min(settings.batch, total)
    orders = jax.vmap(lambda k: jax.random.permutation(k, total)[: batches * size])(
        jax.random.split(key, settings.epochs)
    )
    steps = orders.reshape(settings.epochs * batches, size)
    return lax.scan(step, (agent, jnp.array(False)), steps)[0][0]
