"""Scheduled auxiliary control: several policies, from which a scheduler picks the one that acts.

1. In an episode, every `hold` steps a scheduler picks the intention whose policy acts. Its table,
   Q(history of picks, intention), has estimates of the discounted reward of the main task from
   there on; it picks by exp(Q / mu), and uniformly where the table does not learn.
2. All is remembered, with the reward of each task and the probability of each action.
3. Each intention has a value for each action, which regresses on the target of Retrace,
   Q(s_t, a_t) = r_t + gamma (V'(s_{t+1}) + c_{t+1} (Q(s_{t+1}, a_{t+1}) - Q'(s_{t+1}, a_{t+1}))),
   c = lambda min(1, pi'(a | s) / b(a | s)), with networks ' that are copies of some steps ago.
4. Each policy ascends the mean of its values, and some entropy; so all learn from the steps of any.

Intentions share the trunk of a policy and that of a critic, and have their own outputs. They read
it through the same mask, or each through its own.

Reference: Riedmiller et al., Learning by playing, ICML 2018, arXiv 1802.10567; Munos et al., Safe
and efficient off-policy reinforcement learning, 2016, for 3, whose standard form this is.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.environments.mountain_car import ACTIONS, OBSERVED, TASKS, MountainCar
from experiments.rl.episodes import Episodes, empty, pieces
from experiments.rl.learning import per_seed, stacked
from experiments.rl.networks import Apart, Layers, drawn, forward, weights
from experiments.rl.retrace import retrace
from experiments.rl.scheduler import followed, shares

COPIES, PIECES, LENGTH = 16, 16, 16
"""Episodes of a round; pieces of episodes in a batch, and their steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SacX:
    """Settings."""

    width: int = 128
    """Units of both hidden layers of both networks."""
    hold: int = 50
    """Steps between choices of an intention."""
    choices: int = 8
    """Of an episode."""
    updates: int = 200
    """After each round of 16 episodes, each on 256 steps."""
    learning_rate: float = 3e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Of Retrace."""
    entropy: float = 0.005
    """Its weight."""
    copy: int = 100
    """Updates between copies of the networks."""
    mu: float = 0.01
    """Temperature of the scheduler."""


class Arm(NamedTuple):
    """What is learned.

    Attributes:
      rewards: [intentions, tasks], what each intention is paid for each task; the first is the one
        evaluated.
      rate: of the scheduler's table; 0 where it picks uniformly.
      density: of the hidden weights that an intention reads.
      own: whether each intention has its own masks.
    """

    rewards: np.ndarray
    rate: float = 0.0
    density: float = 1.0
    own: bool = False


class Learner(NamedTuple):
    """All that changes while an agent learns; with seeds, each leaf has them as its first axis.

    Attributes:
      params: of the network.
      target: its copy of 3.
      masks: what else the network holds, with an axis over intentions in front, or one of 1.
      state: of Adam.
      table: of the scheduler, [nodes, intentions].
      memory: of all episodes, of which those so far are filled.
      done: [], rounds so far.
      key: [].
    """

    params: Any
    target: Any
    masks: Any
    state: Any
    table: Array
    memory: Episodes
    done: Array
    key: Array


class Trainer:
    """Compiled learning of all seeds of an arm, in all some rounds of 16 episodes."""

    def __init__(self, settings: SacX, arm: Arm, rounds: int):
        self.settings, self.arm, self.rounds = settings, arm, rounds
        self.intentions, self.limit = len(arm.rewards), settings.hold * settings.choices
        self.readers = self.intentions if arm.own else 1
        self.place, self.tx = MountainCar(), optax.adam(settings.learning_rate)
        self.graph = nnx.graphdef(self._network(0, 0))
        self.learn = jax.jit(self._learn, static_argnames="rounds", donate_argnums=0)
        self.judge = jax.jit(self._judge, static_argnames="episodes")

    def _network(self, seed: int, mask: int) -> nnx.Module:
        outputs = self.intentions * ACTIONS
        made = Apart(OBSERVED, outputs, outputs, self.settings.width, nnx.Rngs(seed))
        key = jax.random.fold_in(jax.random.key(seed), mask)
        return made if self.arm.density == 1 else drawn(self.arm.density)(made, key)

    def kept(self, seed: int) -> tuple[float, float]:
        """The fractions of all weights that an intention reads, and that any of them reads."""
        networks = [self._network(seed, n) for n in range(self.readers)]
        one, every = np.sum(list(weights(networks[0]).values()), axis=0)
        masks = [jsparse.masks(network) for network in networks]
        more = sum(
            int(np.any([other[path] for other in masks], axis=0).sum() - mask.sum())
            for path, mask in masks[0].items()
        )
        return float(one / every), float((one + more) / every)

    def begin(self, seeds: Sequence[int]) -> Learner:
        """Nothing learned yet: leaves [seeds, ...]."""
        made = [[self._network(seed, n) for n in range(self.readers)] for seed in seeds]
        params = stacked([nnx.state(networks[0], nnx.Param) for networks in made])
        masks = [stacked([nnx.split(one, nnx.Param, ...)[2] for one in own]) for own in made]
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        return jax.vmap(self._begin)(params, stacked(masks), keys)

    def _begin(self, params: Any, masks: Any, key: Array) -> Learner:
        memory = empty(self.rounds * COPIES, self.limit, OBSERVED, len(TASKS))
        nodes = sum(self.intentions**n for n in range(self.settings.choices))
        table, target = jnp.zeros((nodes, self.intentions)), jax.tree.map(jnp.copy, params)
        state = self.tx.init(params)
        return Learner(params, target, masks, state, table, memory, jnp.int32(0), key)

    def _learn(self, learner: Learner, rounds: int) -> tuple[Learner, Array]:
        """A number of rounds; shares of the choices in the last of them, [seeds, intentions]."""

        def one(learner: Learner) -> tuple[Learner, Array]:
            learner, picked = jax.lax.scan(self._round, learner, length=rounds)
            return learner, picked[-1]

        return per_seed(one)(learner)

    def _judge(self, learner: Learner, episodes: int) -> Array:
        """[seeds], how often the main intention, sampled, reaches the goal."""
        return per_seed(partial(self._judged, episodes=episodes))(learner)

    def read(self, params: Any, masks: Any) -> list[Layers]:
        """Layers of the policy and of the critic, through each mask: [masks, ...].

        With its own mask, the last layer of an intention is that of its actions alone.
        """
        size = self.intentions * ACTIONS // self.readers

        def one(masks: Any, first: Array) -> list[Layers]:
            network = jsparse.resolve(nnx.merge(self.graph, params, masks))
            cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size, -1)
            both = network.policy.layers(), network.critic.layers()
            return [[*hidden, (cut(last[0]), cut(last[1]))] for *hidden, last in both]

        return jax.vmap(one)(masks, size * jnp.arange(self.readers))

    def outputs(self, layers: list[Layers], seen: Array) -> tuple[Array, Array]:
        """Log-probabilities and values of actions, each [..., intentions, actions]."""
        shape = *seen.shape[:-1], self.intentions, ACTIONS
        parts = (jax.vmap(forward, (0, None))(one, seen) for one in layers)
        policy, value = (jnp.moveaxis(part, 0, -2).reshape(shape) for part in parts)
        return jax.nn.log_softmax(policy), value

    def _round(self, learner: Learner, _: None) -> tuple[Learner, Array]:
        number = learner.done
        key, walk, learn = jax.random.split(learner.key, 3)
        seen, table, picked = self._walk(learner, walk)
        put = lambda every, own: jax.lax.dynamic_update_slice_in_dim(every, own, COPIES * number, 0)
        memory = jax.tree.map(put, learner.memory, seen)
        learner = learner._replace(table=table, memory=memory, key=key)
        filled, n = COPIES * (number + 1), number * self.settings.updates
        step = partial(self._update, memory=memory, masks=learner.masks, filled=filled)
        count = self.settings.updates
        steps = n + jnp.arange(count), jax.random.split(learn, count)
        start = learner.params, learner.target, learner.state
        (params, target, state), _ = jax.lax.scan(step, start, steps)
        new = {"params": params, "target": target, "state": state, "done": number + 1}
        return learner._replace(**new), picked

    def _walk(self, learner: Learner, key: Array) -> tuple[Episodes, Array, Array]:
        """1.: episodes, the table after them, and each intention's share of the choices."""

        layers = self.read(learner.params, learner.masks)

        def choose(at: tuple, key: Array) -> tuple[tuple, tuple]:
            places, going, node = at
            pick, walk = jax.random.split(key)
            own = jax.random.categorical(pick, learner.table[node] / self.settings.mu)
            act = partial(self._step, layers, own)
            (places, after), rows = jax.lax.scan(
                act, (places, going), jax.random.split(walk, self.settings.hold)
            )
            follow = self.intentions * node + 1 + own
            return (places, after, follow), (rows, (node, own, going))

        start, others = jax.random.split(key)
        places = jax.vmap(self.place.reset)(jax.random.split(start, COPIES))
        at = places, jnp.ones(COPIES), jnp.zeros(COPIES, jnp.int32)
        keys = jax.random.split(others, self.settings.choices)
        (places, *_), (rows, picks) = jax.lax.scan(choose, at, keys)
        joined = lambda leaf: jnp.moveaxis(leaf.reshape(-1, *leaf.shape[2:]), 1, 0)
        seen, action, chance, reward, going, end = jax.tree.map(joined, rows)
        last = jax.vmap(self.place.observe)(places)
        seen = jnp.concatenate([seen, last[:, None]], axis=1)
        length = going.sum(axis=1).astype(jnp.int32)
        main, rates = going * reward[..., 0], (self.settings.gamma, self.arm.rate)
        table = followed(learner.table, picks, main, *rates)
        picked = shares(picks, self.intentions)
        return Episodes(seen, action, chance, reward, end, length), table, picked

    def _step(self, layers: list[Layers], own: Array, at: tuple, key: Array) -> tuple[tuple, tuple]:
        """A step of copies by intentions [copies], and what is remembered of it."""
        places, going = at
        act, move = jax.random.split(key)
        seen = jax.vmap(self.place.observe)(places)
        every = jnp.arange(len(own))
        log = self.outputs(layers, seen)[0][every, own]
        action = jax.random.categorical(act, log)
        keys = jax.random.split(move, len(own))
        places, _, end = jax.vmap(self.place.step)(places, action, keys)
        chance = jnp.exp(log)[every, action]
        reward = jax.vmap(self.place.tasks)(places)
        return (places, going * (1.0 - end)), (seen, action, chance, reward, going, end)

    def _update(
        self, at: tuple, now: tuple[Array, Array], memory: Episodes, masks: Any, filled: Array
    ) -> tuple[tuple, None]:
        """3. and 4. once."""
        params, target, state = at
        step, key = now
        due = step % self.settings.copy == 0
        target = jax.tree.map(lambda old, new: jnp.where(due, new, old), target, params)
        given = pieces(memory, filled, key, PIECES, LENGTH)
        seen, action, end = given.observation, given.action, given.end
        paid = given.reward @ jnp.asarray(self.arm.rewards, jnp.float32).T
        taken = lambda part: jnp.take_along_axis(part, action[..., None, None], axis=-1)[..., 0]
        log, value = self.outputs(self.read(target, masks), seen)
        ratio = jnp.exp(taken(log[:, :-1])) / given.chance[..., None]
        keep = self.settings.gamma * (1.0 - end[..., None]) * jnp.ones_like(paid)
        parts = paid, keep, (jnp.exp(log) * value).sum(-1), taken(value[:, :-1])
        parts = *parts, self.settings.lam * jnp.minimum(1.0, ratio)
        wanted = retrace(*(jnp.moveaxis(part, 1, -1) for part in parts))

        def loss(params: Any) -> Array:
            log, value = self.outputs(self.read(params, masks), seen[:, :-1])
            error = jnp.moveaxis(taken(value), 1, -1) - wanted
            gain = jax.lax.stop_gradient(value) - self.settings.entropy * log
            gain = (jnp.exp(log) * gain).sum(axis=-1)
            return self.intentions * ((error**2).mean() - gain.mean())

        updates, state = self.tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), target, state), None

    def _judged(self, learner: Learner, episodes: int) -> Array:
        layers = self.read(learner.params, learner.masks)

        main = jnp.zeros(episodes, jnp.int32)
        step = lambda at, key: (self._step(layers, main, at, key)[0], None)
        start, others = jax.random.split(jax.random.fold_in(learner.key, 1))
        places = jax.vmap(self.place.reset)(jax.random.split(start, episodes))
        at = places, jnp.ones(episodes)
        (_, going), _ = jax.lax.scan(step, at, jax.random.split(others, self.limit))
        return 1 - going.mean()
