"""The agent of `Lagrangian`: a policy over layers and two critics, updated by PPO.

All arrays are [L, n]: layer by layer, an episode for each candidate.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jsparse.prune._search.layers import Layers

WIDTH = 32
"""Of the two hidden layers of each network."""


class Settings(NamedTuple):
    """Numbers of PPO; see `Lagrangian`."""

    rate: float
    epochs: int
    batch: int
    clip: float
    gamma: float
    trace: float
    entropy: float
    divergence: float


class Rollout(NamedTuple):
    """Episodes.

    Attributes:
      seen: observations, [L, n, features].
      taken: actions, [L, n].
      chance: their log-probabilities, [L, n].
    """

    seen: Array
    taken: Array
    chance: Array


class Agent(NamedTuple):
    """What is learned, and the state of its optimizer."""

    params: Any
    optimizer: Any


def features(layers: Layers) -> Array:
    """What the policy sees of each layer: place, inputs, outputs, window and share; [L, 5]."""
    shape = np.array([(np.prod(s[:-2]), *((1, 1, *s)[-2:])) for s in layers.shapes], np.float64)
    place = np.linspace(-1, 1, len(layers.names))
    table = np.column_stack([place, np.log(shape), np.log(layers.units)])
    spread = table.std(axis=0)
    return jnp.asarray((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1), jnp.float32)


def begin(key: Array, seen: int, settings: Settings) -> Agent:
    """An agent that keeps about half of each layer."""
    actor, reward, cost = (_network(k, seen) for k in jax.random.split(key, 3))
    params = {"actor": actor, "reward": reward, "cost": cost, "spread": jnp.zeros(())}
    return Agent(params, _optimizer(settings).init(params))


def _network(key: Array, inputs: int) -> list[tuple[Array, Array]]:
    sizes = (inputs, WIDTH, WIDTH, 1)
    scales = (1.0, 1.0, 0.01)
    return [
        (scale * jax.random.normal(k, (i, o)) / i**0.5, jnp.zeros((1, o)))
        for k, i, o, scale in zip(jax.random.split(key, 3), sizes, sizes[1:], scales, strict=False)
    ]


def _read(network: list[tuple[Array, Array]], x: Array) -> Array:
    """[m, features] -> [m]."""
    for n, (weight, bias) in enumerate(network):
        x = x @ weight + bias
        x = jnp.tanh(x) if n < len(network) - 1 else x
    return x[:, 0]


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(settings.rate))


def _chance(params: Any, seen: Array, taken: Array) -> Array:
    """Log-probability of actions, [m]."""
    spread = jnp.clip(params["spread"], -3.0, 1.0)
    apart = (taken - _read(params["actor"], seen)) / jnp.exp(spread)
    return -0.5 * apart**2 - spread - 0.9189385


@functools.partial(jax.jit, static_argnames="n")
def act(params: Any, known: Array, key: Array, n: int) -> Rollout:
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
    return Rollout(*lax.scan(step, (jnp.zeros(n), jnp.zeros(n)), at)[1])


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
def learn(
    agent: Agent, rollout: Rollout, reward: Array, cost: Array, nu: Array, key: Array,
    settings: Settings,
) -> Agent:  # fmt: skip
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
        new = Agent(optax.apply_updates(agent.params, updates), optimizer)
        return (jax.tree.map(lambda a, b: jnp.where(stopped, a, b), agent, new), stopped), None

    total = flat.taken.size
    batches = max(1, total // settings.batch)
    size = min(settings.batch, total)
    orders = jax.vmap(lambda k: jax.random.permutation(k, total)[: batches * size])(
        jax.random.split(key, settings.epochs)
    )
    steps = orders.reshape(settings.epochs * batches, size)
    return lax.scan(step, (agent, jnp.array(False)), steps)[0][0]
