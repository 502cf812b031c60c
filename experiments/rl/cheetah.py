"""HalfCheetah before a wall that only the expert knows, on MuJoCo, stepped outside JAX.

It is rewarded for speed in either direction. In the true world a position of -3 or less ends the
episode with no further reward; the nominal one has no wall, and running backward is easier. As in
the authors' code the limit of 1,000 steps is an end, beyond which nothing is expected.

1. An expert learns by PPO in the true world; some of its episodes are kept.
2. A policy learns by PPO in the nominal world with a multiplier of the cost 1 - zeta(s, a), and
   zeta from its episodes and the expert's, in turn: see `inverse`.

Reference: Malik, Anwar, Aghasi and Ahmed, Inverse constrained reinforcement learning, ICML 2021.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsparse
from experiments import common
from experiments.rl import gym, inverse
from experiments.rl.environments import ring
from experiments.rl.networks import Apart, Kind
from experiments.rl.policies import Gaussian
from experiments.rl.ppo import Ppo, Trainer
from experiments.rl.rollout import Learner, Steps

WALL, OBSERVED, ACTIONS, LENGTH, CLIP = -3.0, 18, 6, 1000, 10.0
INPUTS = OBSERVED + ACTIONS
PLACES = np.linspace(-10, 10, 81, dtype=np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wall:
    """How long, and how; the published run is 4 million steps of ICRL."""

    expert: int = 1_000_000
    """Steps of the expert."""
    steps: int = 4_000_000
    """Of ICRL, those for updates of zeta included."""
    often: int = 10
    """Iterations of PPO for an update of zeta."""
    copies: int = 8
    """Of the environment."""
    length: int = 256
    """Steps of each, in an iteration."""

    @property
    def each(self) -> int:
        """Steps for an update of zeta."""
        return self.copies * (self.length * self.often + LENGTH)

    @property
    def rounds(self) -> int:
        """Updates of zeta."""
        return -(-self.steps // self.each)


class Cheetahs:
    """Copies side by side, with their positions seen.

    Attributes:
      ends: whether the wall ends an episode, as in the true world.
      observation: [copies, OBSERVED], within -CLIP and CLIP; position first.
    """

    def __init__(self, copies: int, seed: int, ends: bool):
        option = {"exclude_current_positions_from_observation": False}
        self.ends, self.bodies = ends, [gym.make("HalfCheetah-v5", **option) for _ in range(copies)]
        self.observation = np.zeros((copies, OBSERVED), np.float32)
        self._total = np.zeros(copies, np.float32)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Begins an episode in all copies."""
        for n, body in enumerate(self.bodies):
            self.observation[n] = np.clip(body.reset(seed=1000 * seed + n)[0], -CLIP, CLIP)
        self._total[:] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rewards, whether an episode ended, whether the wall was passed, and the reward of the
        episode so far: [copies] each."""
        found = np.zeros((3, len(self.bodies)), np.float32)
        for n, (body, action) in enumerate(zip(self.bodies, actions.clip(-1, 1), strict=True)):
            seen, _, ended, cut, about = body.step(action)
            beyond = about["x_position"] <= WALL
            over = ended or cut or (beyond and self.ends)
            paid = abs(about["x_velocity"]) - 0.1 * float(np.square(action).sum())
            found[:, n] = 0.0 if beyond and self.ends else paid, over, beyond
            seen = body.reset()[0] if over else seen
            self.observation[n] = np.clip(seen, -CLIP, CLIP)
        total = self._total + found[0]
        self._total = total * (1 - found[1])
        return *found, total


class Walk(NamedTuple):
    """Steps of all copies, [steps, copies, ...]."""

    observation: np.ndarray
    action: np.ndarray
    log_prob: np.ndarray
    value: np.ndarray
    reward: np.ndarray
    over: np.ndarray
    beyond: np.ndarray
    total: np.ndarray

    def judged(self) -> np.ndarray:
        """[copies, steps, INPUTS], what zeta is given; actions within -1 and 1."""
        both = np.concatenate([self.observation, self.action.clip(-1, 1)], axis=-1)
        return both.transpose(1, 0, 2)


def walked(own: Trainer, learner: Learner, bodies: Cheetahs, steps: int, key: Array) -> Walk:
    """The policy for a number of steps."""
    rows = []
    for one in jax.random.split(key, steps):
        seen = bodies.observation.copy()
        action, log, value = (np.asarray(x)[0] for x in own.act(learner, seen[None], one))
        rows.append((seen, action, log, value, *bodies.step(action)))
    return Walk(*map(np.stack, zip(*rows, strict=True)))


def improved(
    own: Trainer, learner: Learner, walk: Walk, bodies: Cheetahs, costs: np.ndarray
) -> tuple[Learner, dict[str, Any]]:
    """The policy after an iteration of PPO on steps with costs [steps, copies, bounds]."""
    last = own.read(learner, bodies.observation[None])[1]
    gain = np.concatenate([walk.reward[..., None], costs], axis=-1)
    seen = Steps(walk.observation, walk.action, walk.log_prob, walk.value, gain, 1 - walk.over)
    given = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[None], (seen, walk.total))
    learner, report = own.learn_from(learner, given[0], last, given[1])
    row = {"score": report.score, "costs": report.costs[0], "prices": report.prices[0]}
    return learner, row


class Elsewhere(NamedTuple):
    """An environment that is stepped outside JAX: it has no state here."""

    def reset(self, key: Array) -> Array:
        """Nothing."""
        return jnp.zeros(())


def trainer(wall: Wall, bounded: bool) -> Trainer:
    """Of policies of HalfCheetah, with a multiplier where they are bounded."""
    settings = Ppo(
        copies=wall.copies, steps=wall.length, passes=10, batches=32, learning_rate=3e-4,
        entropy=0.0, far=0.015,
    )  # fmt: skip
    bounds = (inverse.price(0.1),) if bounded else ()
    network = lambda rngs: Apart(OBSERVED, 2 * ACTIONS, 1 + len(bounds), 64, rngs)
    return Trainer(settings, Gaussian(ACTIONS), network, Kind(), 0, bounds)


def truly(walk: Walk) -> np.ndarray:
    """[copies], returns in the true world of one whole episode each of the nominal one."""
    before = np.cumsum(walk.beyond, axis=0) == 0
    return (walk.reward * before).sum(axis=0)


KEPT = 20
"""Iterations of the expert from one checkpoint to the next."""


def experts(run: common.Run, wall: Wall, seed: int) -> Walk:
    """1.: an episode of the expert in each copy.

    A killed run resumes from one of the last `KEPT` iterations, with new episodes.
    """
    own, kept = trainer(wall, bounded=False), jsparse.Checkpoints(run.folder / "expert", keep=1)
    done, learner, _ = kept.restore(own.begin([seed], Elsewhere()))
    bodies = Cheetahs(wall.copies, seed + done, ends=True)
    none = np.zeros((wall.length, wall.copies, 0), np.float32)
    rounds = -(-wall.expert // (wall.copies * wall.length))
    for n in range(done, rounds):
        walk = walked(own, learner, bodies, wall.length, jax.random.key(n))
        learner, _ = improved(own, learner, walk, bodies, none)
        if (n + 1) % KEPT == 0 or n + 1 == rounds:
            kept.save(n + 1, learner)
    bodies.ends = False
    bodies.reset(seed + 1)
    return walked(own, learner, bodies, LENGTH, jax.random.key(seed))


def constrained(run: common.Run, wall: Wall, seed: int, update: Any) -> dict[str, Any]:
    """2.: what the expert earned, and what zeta says of places before and after.

    For each update of zeta, (allowed, expert=, walks=) -> allowed, the run logs returns in the true
    world and the nominal one, and the share of steps beyond -3. A killed run resumes from its last
    update, with new episodes.
    """
    own = trainer(wall, bounded=True)
    learner, before = own.begin([seed], Elsewhere()), ring.begin(jax.random.key(seed), INPUTS)
    expert, returns = jnp.zeros((wall.copies, LENGTH, INPUTS)), jnp.zeros(wall.copies)
    done, (learner, allowed, expert, returns) = run.load((learner, before, expert, returns))
    if not done:
        walk = experts(run, wall, seed)
        expert, returns = jnp.asarray(walk.judged()), jnp.asarray(truly(walk))
    cost = jax.jit(lambda allowed, x: jax.nn.sigmoid(-allowed.logit(x)))
    bodies, fresh = (Cheetahs(wall.copies, seed + done, ends=False) for _ in range(2))
    progress = common.Epochs(done, wall.rounds, "wall", "update of zeta")
    for number in progress:
        keys = jax.random.split(jax.random.key(1000 + number), wall.often + 1)
        row: dict[str, Any] = {}
        for key in keys[1:]:
            walk = walked(own, learner, bodies, wall.length, key)
            costs = np.asarray(cost(allowed, walk.judged())).T[..., None]
            learner, row = improved(own, learner, walk, bodies, costs)
        fresh.reset(seed + 100 + number)
        whole = walked(own, learner, fresh, LENGTH, keys[0])
        allowed = update(allowed, expert=expert, walks=jnp.asarray(whole.judged()))
        row |= {"reward": truly(whole), "nominal": whole.reward.sum(axis=0)}
        row |= {"violations": float(whole.beyond.mean())}
        run.log(number, **row)
        run.save(number, (learner, allowed, expert, returns))
        progress.show(reward=row["reward"].mean(), violations=row["violations"])
    zeta = [mapped(one, np.asarray(expert)) for one in (before, allowed)]
    return {"expert": returns, "zeta": zeta}


def mapped(allowed: ring.Allowed, expert: np.ndarray) -> np.ndarray:
    """[PLACES], mean zeta of what the expert does, were it at other positions."""
    x = np.repeat(expert.reshape(1, -1, expert.shape[-1])[:, ::50], len(PLACES), axis=0)
    x[..., 0] = PLACES[:, None]
    return np.asarray(jax.nn.sigmoid(allowed.logit(jnp.asarray(x)))).mean(axis=1)


def draw(before: np.ndarray, after: np.ndarray, path: Any) -> None:
    """Zeta by position, before and after, with the wall."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(PLACES, before, color="0.6", label="before")
    axes.plot(PLACES, after, color=common.COLORS[0], label="after")
    axes.axvline(WALL, color=common.COLORS[1], linestyle="--", label="the wall")
    axes.set(xlabel="position", ylabel="zeta", ylim=(0, 1), title="how allowed a place is")
    axes.legend(fontsize=8, frameon=False)
    common.save(figure, path)
