"""Scheduled auxiliary control: several policies, of which a scheduler picks one that acts.

1. In an episode, every `hold` steps a scheduler picks the intention whose policy acts. Its table,
   Q(history of picks, intention), has estimates of the discounted reward of the main task from
   there on; it picks by exp(Q / mu), and uniformly where the table does not learn.
2. All is remembered, with the reward of each task and the probability of each action.
3. Each intention has a value for each action, which regresses on the target of Retrace,
   Q(s_t, a_t) = r_t + gamma (V'(s_{t+1}) + c_{t+1} (Q(s_{t+1}, a_{t+1}) - Q'(s_{t+1}, a_{t+1}))),
   c = lambda min(1, pi'(a | s) / b(a | s)), with networks ' that are copies of some steps ago.
4. Each policy ascends the mean of its values, and some entropy; so all learn from what any did.

Intentions share the trunk of a policy and that of a critic, and have outputs of their own. They
read it through the same mask, or each through a mask of its own.

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
from experiments import common
from experiments.rl.environments.mountain_car import ACTIONS, OBSERVED, TASKS, MountainCar
from experiments.rl.networks import Apart, drawn, weights
from experiments.rl.retrace import retrace

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
        that is judged.
      rate: of the scheduler's table; 0 where it picks uniformly.
      density: of the hidden weights that an intention reads.
      own: whether each intention has masks of its own.
    """

    rewards: np.ndarray
    rate: float = 0.0
    density: float = 1.0
    own: bool = False


class Episodes(NamedTuple):
    """What is remembered, [episodes, ...]; steps after the end of an episode mean nothing.

    Attributes:
      observation: [episodes, steps + 1, observed].
      action: [episodes, steps].
      chance: [episodes, steps], probability of the action.
      reward: [episodes, steps, tasks].
      end: [episodes, steps], bool.
      length: [episodes].
    """

    observation: Array
    action: Array
    chance: Array
    reward: Array
    end: Array
    length: Array


class Learner(NamedTuple):
    """A seed while it learns; masks have an axis in front, over intentions or of one."""

    params: Any
    target: Any
    masks: Any
    state: Any
    table: Array
    memory: Episodes
    key: Array


class Trainer:
    """Compiled learning of all seeds of an arm.

    Args:
      settings: of the algorithm.
      arm: what is learned.
      rounds: of 16 episodes, between two times that the main intention is judged.
      marks: how often that is.
      judged: episodes each time.
    """

    def __init__(self, settings: SacX, arm: Arm, rounds: int, marks: int, judged: int):
        self.settings, self.arm, self.judged = settings, arm, judged
        self.rounds, self.marks = rounds, marks
        self.intentions, self.limit = len(arm.rewards), settings.hold * settings.choices
        self.place, self.tx = MountainCar(), optax.adam(settings.learning_rate)
        self.graph = nnx.graphdef(self._network(0, 0))

    def _network(self, seed: int, mask: int) -> nnx.Module:
        outputs = self.intentions * ACTIONS
        made = Apart(OBSERVED, outputs, outputs, self.settings.width, nnx.Rngs(seed))
        key = jax.random.fold_in(jax.random.key(seed), mask)
        return made if self.arm.density == 1 else drawn(self.arm.density)(made, key)

    def kept(self, seed: int) -> float:
        """The fraction of all weights that an intention reads."""
        one, every = np.sum(list(weights(self._network(seed, 0)).values()), axis=0)
        return float(one / every)

    def run(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """How often the main intention reaches the goal, and what was picked in the last round.

        Returns:
          [seeds, 1 + marks], the first before anything is learned, and [seeds, marks, intentions].
        """
        count = self.intentions if self.arm.own else 1
        made = [[self._network(seed, n) for n in range(count)] for seed in seeds]
        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        params = stack([nnx.state(networks[0], nnx.Param) for networks in made])
        rest = [stack([nnx.split(one, nnx.Param, ...)[2] for one in own]) for own in made]
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        over = jax.jit(common.turns_on_cpu()(lambda own, *_: self._one(own)))
        found = over((params, stack(rest), keys), None, None)
        return np.asarray(found[0]), np.asarray(found[1])

    def outputs(self, params: Any, masks: Any, seen: Array) -> tuple[Array, Array]:
        """Log-probabilities and values of actions, each [..., intentions, actions]."""

        def one(masks: Any) -> tuple[Array, Array]:
            network = jsparse.resolve(nnx.merge(self.graph, params, masks))
            return network(seen)

        shape = *seen.shape[:-1], self.intentions, ACTIONS
        if not self.arm.own:
            found = one(jax.tree.map(lambda leaf: leaf[0], masks))
            policy, value = (part.reshape(shape) for part in found)
        else:
            parts = [part.reshape(-1, *shape) for part in jax.vmap(one)(masks)]
            own = lambda part: jnp.stack([part[n, ..., n, :] for n in range(len(part))], axis=-2)
            policy, value = map(own, parts)
        return jax.nn.log_softmax(policy), value

    def _one(self, given: tuple[Any, Any, Array]) -> tuple[Array, Array]:
        params, masks, key = given
        count, limit = self.marks * self.rounds * COPIES, self.limit
        zeros = lambda *shape: jnp.zeros((count, *shape))
        memory = Episodes(
            zeros(limit + 1, OBSERVED), zeros(limit).astype(jnp.int32), zeros(limit),
            zeros(limit, len(TASKS)), zeros(limit).astype(bool), zeros().astype(jnp.int32),
        )  # fmt: skip
        nodes = sum(self.intentions**n for n in range(self.settings.choices))
        table, start = jnp.zeros((nodes, self.intentions)), jnp.copy
        learner = Learner(
            params, jax.tree.map(start, params), masks, self.tx.init(params), table, memory, key
        )

        def mark(learner: Learner, number: Array) -> tuple[Learner, tuple[Array, Array]]:
            rounds = number * self.rounds + jnp.arange(self.rounds)
            learner, picked = jax.lax.scan(self._round, learner, rounds)
            return learner, (self._judge(learner), picked[-1])

        first = self._judge(learner)
        _, (found, picked) = jax.lax.scan(mark, learner, jnp.arange(self.marks))
        return jnp.append(first[None], found), picked

    def _round(self, learner: Learner, number: Array) -> tuple[Learner, Array]:
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
        return learner._replace(params=params, target=target, state=state), picked

    def _walk(self, learner: Learner, key: Array) -> tuple[Episodes, Array, Array]:
        """1.: episodes, the table after them, and how often each intention was picked."""

        def choose(at: tuple, key: Array) -> tuple[tuple, tuple]:
            places, going, node = at
            pick, walk = jax.random.split(key)
            own = jax.random.categorical(pick, learner.table[node] / self.settings.mu)
            act = partial(self._step, learner, own)
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
        table = self._scheduled(learner.table, picks, going * reward[..., 0])
        picked = jax.nn.one_hot(picks[1], self.intentions).mean(axis=(0, 1))
        return Episodes(seen, action, chance, reward, end, length), table, picked

    def _step(self, learner: Learner, own: Array, at: tuple, key: Array) -> tuple[tuple, tuple]:
        places, going = at
        act, move = jax.random.split(key)
        seen = jax.vmap(self.place.observe)(places)
        log = self.outputs(learner.params, learner.masks, seen)[0][jnp.arange(COPIES), own]
        action = jax.random.categorical(act, log)
        keys = jax.random.split(move, COPIES)
        places, _, end = jax.vmap(self.place.step)(places, action, keys)
        chance = jnp.exp(log)[jnp.arange(COPIES), action]
        reward = jax.vmap(self.place.tasks)(places)
        return (places, going * (1.0 - end)), (seen, action, chance, reward, going, end)

    def _scheduled(self, table: Array, picks: tuple[Array, ...], main: Array) -> Array:
        """The scheduler's table after rewards [copies, steps] of the main task."""
        starts = self.settings.hold * np.arange(self.settings.choices)[:, None]
        later = np.arange(self.limit) - starts
        fall = np.where(later >= 0, self.settings.gamma ** np.maximum(later, 0), 0.0)
        flat = jax.tree.map(jnp.ravel, (*picks, jnp.asarray(fall, main.dtype) @ main.T))

        def one(table: Array, at: tuple[Array, ...]) -> tuple[Array, None]:
            node, own, going, gain = at
            change = self.arm.rate * going * (gain - table[node, own])
            return table.at[node, own].add(change), None

        return jax.lax.scan(one, table, flat)[0]

    def _update(
        self, at: tuple, given: tuple[Array, Array], memory: Episodes, masks: Any, filled: Array
    ) -> tuple[tuple, None]:
        """3. and 4. once."""
        params, target, state = at
        step, (which, where) = given[0], jax.random.split(given[1])
        due = step % self.settings.copy == 0
        target = jax.tree.map(lambda old, new: jnp.where(due, new, old), target, params)
        episode = jax.random.randint(which, (PIECES, 1), 0, filled)
        room = jnp.maximum(memory.length[episode] - LENGTH + 1, 1)
        first = (jax.random.uniform(where, (PIECES, 1)) * room).astype(jnp.int32)
        steps = first + jnp.arange(LENGTH)[None]
        seen = memory.observation[episode, first + jnp.arange(LENGTH + 1)[None]]
        action, end = memory.action[episode, steps], memory.end[episode, steps]
        paid = memory.reward[episode, steps] @ jnp.asarray(self.arm.rewards, jnp.float32).T
        taken = lambda part: jnp.take_along_axis(part, action[..., None, None], axis=-1)[..., 0]
        log, value = self.outputs(target, masks, seen)
        ratio = jnp.exp(taken(log[:, :-1])) / memory.chance[episode, steps][..., None]
        keep = self.settings.gamma * (1.0 - end[..., None]) * jnp.ones_like(paid)
        parts = paid, keep, (jnp.exp(log) * value).sum(-1), taken(value[:, :-1])
        parts = *parts, self.settings.lam * jnp.minimum(1.0, ratio)
        wanted = retrace(*(jnp.moveaxis(part, 1, -1) for part in parts))

        def loss(params: Any) -> Array:
            log, value = self.outputs(params, masks, seen[:, :-1])
            error = jnp.moveaxis(taken(value), 1, -1) - wanted
            gain = jax.lax.stop_gradient(value) - self.settings.entropy * log
            gain = (jnp.exp(log) * gain).sum(axis=-1)
            return self.intentions * ((error**2).mean() - gain.mean())

        updates, state = self.tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), target, state), None

    def _judge(self, learner: Learner) -> Array:
        """How often the main intention, sampled, reaches the goal."""

        def step(at: tuple, key: Array) -> tuple[tuple, None]:
            places, going = at
            seen = jax.vmap(self.place.observe)(places)
            log = self.outputs(learner.params, learner.masks, seen)[0][:, 0]
            act, move = jax.random.split(key)
            keys = jax.random.split(move, self.judged)
            action = jax.random.categorical(act, log)
            places, _, end = jax.vmap(self.place.step)(places, action, keys)
            return (places, going * (1.0 - end)), None

        start, others = jax.random.split(jax.random.fold_in(learner.key, 1))
        places = jax.vmap(self.place.reset)(jax.random.split(start, self.judged))
        at = places, jnp.ones(self.judged)
        (_, going), _ = jax.lax.scan(step, at, jax.random.split(others, self.limit))
        return 1 - going.mean()
