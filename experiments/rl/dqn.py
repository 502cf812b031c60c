"""Double DQN in one compiled scan: many copies of a task at once, many seeds side by side.

1. Each copy makes a step, greedy or random, which is remembered.
2. For a batch of what is remembered the target is r + gamma Q'(s', argmax Q(s', .)), with Q' a copy
   of the network from up to `copy` iterations ago. Where an episode ended, it is r.
3. The network makes a step of Adam on the Huber loss of its distance to the target.

The environment is a part of the state, so that an opponent in it is exchanged without compiling.

Reference: van Hasselt, Guez and Silver, Deep reinforcement learning with double Q-learning, AAAI
2016. Sizes and rates are ours.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.environments import Environment
from experiments.rl.learning import Agent, chosen
from experiments.rl.networks import MLP, Kind, Layers, forward


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dqn:
    """Settings."""

    width: int = 64
    """Units of both hidden layers."""
    copies: int = 64
    """Of the task, of which each makes a step in an iteration."""
    batch: int = 256
    """Transitions of an update, one in each iteration."""
    learning_rate: float = 5e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    copy: int = 250
    """Iterations between copies of the network that values what follows."""
    capacity: int = 200_000
    """Transitions remembered."""
    explore: float = 0.05
    """Probability of a random move; it falls from 1 to this."""
    warm: int = 2000
    """Iterations in which it falls."""
    every: int = 500
    """Iterations between changes of dynamic masks."""
    fraction: float = 0.1
    """Of the links, exchanged at each change."""

    def __post_init__(self) -> None:
        names = ("width", "copies", "batch", "copy", "warm", "every")
        low = [name for name in names if getattr(self, name) < 1]
        if low:
            raise ValueError(f"{low[0]} got {getattr(self, low[0])}; give 1 or more")
        if self.capacity < self.copies:
            raise ValueError(
                f"capacity got {self.capacity}; give room for a step of all {self.copies} copies"
            )


class Task(NamedTuple):
    """Copies of an environment that restart by themselves, [copies] in all arguments.

    Attributes:
      reset: (key, copies) -> state.
      step: (state, action, key) -> state, reward, end; the state is that after a new beginning.
      observe: state -> what is remembered.
      see: of what is remembered, what the network gets; for one copy.
      inputs: numbers in it.
      actions: how many.
    """

    reset: Callable[[Array, int], Any]
    step: Callable[[Any, Array, Array], tuple[Any, Array, Array]]
    observe: Callable[[Any], Array]
    see: Callable[[Array], Array]
    inputs: int
    actions: int


class Copies(NamedTuple):
    """States [copies] of an environment, and the environment, which may differ between seeds."""

    environment: Environment
    states: Any


def copies(
    environment: Environment, see: Callable[[Array], Array], inputs: int, actions: int
) -> Task:
    """The task of an environment, whose copies restart by themselves."""

    def reset(key: Array, count: int) -> Copies:
        return Copies(environment, jax.vmap(environment.reset)(jax.random.split(key, count)))

    def step(at: Copies, action: Array, key: Array) -> tuple[Copies, Array, Array]:
        one, both = at.environment, jax.random.split(key, (2, len(action)))
        states, reward, end = jax.vmap(one.step)(at.states, action, both[0])
        anew = jax.vmap(one.reset)(both[1])
        return at._replace(states=chosen(end, anew, states)), reward, end

    observe = lambda at: jax.vmap(at.environment.observe)(at.states)
    return Task(reset, step, observe, see, inputs, actions)


class Memory(NamedTuple):
    """Transitions, [capacity, ...]; going is 0 where an episode ended."""

    observation: Array
    action: Array
    reward: Array
    following: Array
    going: Array


class Learner(NamedTuple):
    """All that changes while an agent learns.

    Attributes:
      agent: variables of the network and its optimizer.
      target: the layers of 2.
      memory: what was seen last.
      state: of the task.
      count: [], iterations so far.
      key: for all that is random.
    """

    agent: Any
    target: Layers
    memory: Memory
    state: Any
    count: Array
    key: Array


def goals(reward: Array, going: Array, online: Array, target: Array, gamma: float) -> Array:
    """2., [n]: rewards and going [n], and the values of what follows by both networks."""
    best = jnp.take_along_axis(target, online.argmax(axis=1)[:, None], axis=1)[:, 0]
    return reward + gamma * going * best


class Trainer:
    """Compiled learning of agents that are held as trees of arrays; masks stay after `last`."""

    def __init__(self, settings: Dqn, kind: Kind, task: Task, last: int):
        self.settings, self.kind, self.task, self.last = settings, kind, task, last
        self.learn = jax.jit(self._side_by_side, donate_argnums=0)
        self.layers = jax.jit(lambda learner: jax.vmap(self._read, (axes(learner),))(learner))
        self.learn_alone = jax.jit(self._learn, donate_argnums=0)
        self.layers_alone = jax.jit(self._read)

    def start(self, seeds: Sequence[int]) -> Learner:
        """Nothing learned yet, for `learn` and `layers`: [seeds, ...]."""
        return stack([self.alone(seed) for seed in seeds])

    def alone(self, seed: int) -> Learner:
        """The same of one seed, for `learn_alone` and `layers_alone`."""
        one, task = self.settings, self.task
        masks, first, key = jax.random.split(jax.random.key(seed), 3)
        net = self.kind.start(MLP(task.inputs, task.actions, one.width, nnx.Rngs(seed)), masks)
        when = {"every": one.every, "last": self.last, "fraction": one.fraction}
        made = Agent(net, optax.adam(one.learning_rate), self.kind, seed, **when)
        self._graph, agent = nnx.split(made)
        state = task.reset(first, one.copies)
        seen = task.observe(state)
        many = jnp.zeros((one.capacity, *seen.shape[1:]), seen.dtype)
        none = jnp.zeros(one.capacity)
        memory = Memory(many, none.astype(jnp.int32), none, jnp.copy(many), jnp.copy(none))
        target = jax.tree.map(jnp.zeros_like, net.layers())  # copied at once
        learner = Learner(agent, target, memory, state, jnp.int32(0), key)
        return jax.tree.map(jnp.copy, learner)  # learning uses it up

    def _read(self, learner: Learner) -> Layers:
        """The layers of the network, as it reads them."""
        return jsparse.resolve(nnx.merge(self._graph, learner.agent).network).layers()

    def _side_by_side(self, learner: Learner, iterations: Array) -> tuple[Learner, Array]:
        """`_learn` of many seeds, and scores [seeds]."""
        split = axes(learner)
        return jax.vmap(self._learn, (split, None), (split, 0))(learner, iterations)

    def _learn(self, learner: Learner, iterations: Array) -> tuple[Learner, Array]:
        """A number of iterations, and the mean score of an episode in them."""

        def iteration(_: Array, at: tuple) -> tuple:
            learner, won, ended = at
            learner, reward, end = self._iteration(learner)
            return learner, won + reward.sum(), ended + end.sum()

        begin = learner, jnp.zeros(()), jnp.zeros(())
        learner, won, ended = jax.lax.fori_loop(0, iterations, iteration, begin)
        return learner, won / jnp.maximum(ended, 1)

    def _iteration(self, learner: Learner) -> tuple[Learner, Array, Array]:
        """The learner after 1. to 3., and rewards and ends of all copies."""
        settings, see = self.settings, jax.vmap(self.task.see)
        agent = nnx.merge(self._graph, learner.agent)
        online = jsparse.resolve(agent.network).layers()
        target = jax.tree.map(
            partial(jnp.where, learner.count % settings.copy == 0), online, learner.target
        )
        key, act, go, draw = jax.random.split(learner.key, 4)
        seen = self.task.observe(learner.state)
        action = self._act(online, see(seen), learner.count, act)
        state, reward, end = self.task.step(learner.state, action, go)
        row = Memory(seen, action, reward, self.task.observe(state), 1.0 - end)
        memory, filled = remember(learner.memory, row, learner.count)
        rows = jax.random.randint(draw, (settings.batch,), 0, filled)
        batch = Memory(*(column[rows] for column in memory))
        following = see(batch.following)
        goal = goals(batch.reward, batch.going, forward(online, following),
                     forward(target, following), settings.gamma)  # fmt: skip
        x = see(batch.observation)

        def loss_of(net: MLP) -> Array:
            taken = jnp.take_along_axis(net(x), batch.action[:, None], axis=1)[:, 0]
            return optax.huber_loss(taken, goal).mean()

        agent.improve(loss_of)
        new = Learner(nnx.state(agent), target, memory, state, learner.count + 1, key)
        return new, reward, end

    def _act(self, online: Layers, x: Array, count: Array, key: Array) -> Array:
        """1., [copies]."""
        settings, (luck, other) = self.settings, jax.random.split(key)
        fall = jnp.minimum(1.0, count / settings.warm)
        random = jax.random.uniform(luck, len(x)) < 1 + (settings.explore - 1) * fall
        greedy = forward(online, x).argmax(axis=1).astype(jnp.int32)
        return jnp.where(random, jax.random.randint(other, len(x), 0, self.task.actions), greedy)


def remember(memory: Memory, row: Memory, count: Array) -> tuple[Memory, Array]:
    """The memory with a row of each copy replacing the oldest; and how many are in it."""
    copies, capacity = len(row.reward), len(memory.reward) // len(row.reward)
    at = (count % capacity) * copies
    put = lambda column, new: jax.lax.dynamic_update_slice_in_dim(column, new, at, 0)
    return Memory(*map(put, memory, row)), jnp.minimum(count + 1, capacity) * copies


def stack(trees: Sequence[Any]) -> Any:
    """One tree of arrays [seeds, ...]; a number that is the same for all seeds stays a number."""

    def join(*leaves: Array) -> Array:
        counts = leaves[0].ndim == 0 and jnp.issubdtype(leaves[0].dtype, jnp.integer)
        if counts and all(leaf == leaves[0] for leaf in leaves):
            return jnp.copy(leaves[0])
        return jnp.stack(leaves)

    return jax.tree.map(join, *trees)


def axes(tree: Any) -> Any:
    """For `vmap`, the axes of a tree made by `stack`.

    Counts that seeds share are not split, so that a branch which depends on them, such as a change
    of masks, stays a branch and is not computed at every step.
    """
    return jax.tree.map(lambda leaf: 0 if leaf.ndim else None, tree)
