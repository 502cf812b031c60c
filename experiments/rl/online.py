"""An agent that learns while it acts: random steps, then as many updates as steps.

Between evaluations a run is a function of its seed, the agent and the replay, so a killed run that
continues from its last checkpoint is the one that was not killed. For this, each stretch between
evaluations starts a new episode, where the authors' continue; tasks of 1,000 steps are not cut by
it. Steps and updates alternate in stretches of `CHUNK`, where the authors' alternate one by one.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.rl import gym
from experiments.rl.networks import weights
from experiments.rl.replay import Batch, Replay
from experiments.rl.td3 import DELAY, Trainer

CHUNK = 50
"""Steps, then as many updates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineSettings(common.RunSettings):
    """What an experiment whose agents act can set."""

    steps: int = 100_000
    """Of the environment."""
    random: int = 10_000
    """Of these, the first are random and without updates."""
    evaluate: int = 5000
    """Steps between evaluations."""
    episodes: int = 3
    """Of an evaluation."""
    noise: float = 0.1
    """Standard deviation of the noise on actions."""
    seeds: int = dataclasses.field(default=3, metadata=common.FREE)
    """Runs of each agent."""

    def __post_init__(self) -> None:
        self.check_positive("steps", "random", "evaluate", "episodes", "seeds")
        if self.evaluate % CHUNK or self.random % CHUNK or self.steps % self.evaluate:
            raise ValueError(
                f"--evaluate and --random are multiples of {CHUNK}, and --steps of --evaluate; got "
                f"{self.evaluate}, {self.random} and {self.steps}"
            )
        if self.random >= self.steps:
            raise ValueError(f"--random got {self.random}; give fewer than the {self.steps} steps")

    @property
    def updates(self) -> int:
        """Updates of a whole run."""
        return self.steps - self.random


def learn(
    run: common.Run, trainer: Trainer, name: str, settings: OnlineSettings, seed: int
) -> tuple[Any, Replay]:
    """Train an agent to the end, from its last checkpoint if there is one.

    Each evaluation is a row of the run's log: `score`, the mean return without noise, and `loss`,
    the critics' mean.

    Returns:
      The state of the agent and all that it has seen.

    Raises:
      Diverged: a loss is no longer a number.
    """
    walked, judged = gym.make(name), gym.make(name)
    replay = Replay(settings.steps, trainer.observed, trainer.actions)
    state = trainer.start(seed, *trainer.networks(seed))
    begin = {"agent": state, "replay": replay.rows, "added": np.zeros((), np.int64)}
    done, tree = run.load(begin)
    state = tree["agent"]
    replay.restore(tree["replay"], int(tree["added"]))
    stretches = common.Epochs(
        done // settings.evaluate, settings.steps // settings.evaluate, run.folder.name, "stretch"
    )
    for stretch in stretches:
        start = 1_000_003 * seed + stretch
        walk, key = gym.Walk(walked, start), jax.random.key(start)
        first = (stretch - 1) * settings.evaluate
        layers, losses = jax.device_get(trainer.layers(state)), []
        for step in range(first, stretch * settings.evaluate, CHUNK):
            act = step >= settings.random
            for transition in walk.steps(CHUNK, layers if act else None, settings.noise):
                replay.add(*transition[:-1])
            if act:
                shape = CHUNK // DELAY, DELAY, trainer.settings.batch
                batches: Batch = replay.sample(walk.random, *shape)
                state, found, new = trainer.train(state, batches, jax.random.fold_in(key, step))
                layers = jax.device_get(new)
                losses.append(_finite(np.asarray(found), step, trainer, state, run))
        score = gym.evaluate(judged, layers, settings.episodes, seed + 100)
        loss = float(np.mean(losses)) if losses else 0.0
        done = stretch * settings.evaluate
        run.log(done, score=score, loss=loss, seconds=stretches.show(score=score, loss=loss))
        run.save(done, {"agent": state, "replay": replay.rows, "added": np.int64(replay.added)})
    return state, replay


def _finite(losses: np.ndarray, step: int, trainer: Trainer, state: Any, run: common.Run) -> float:
    """Mean loss of the critics, of [updates / 2, 3]; stops the run where one is not a number."""
    wrong = np.flatnonzero(~np.isfinite(losses).all(axis=1))
    if wrong.size:
        agent = trainer.agent(state)
        counts = weights(agent.actor) | weights(agent.critic)
        densities = {path: kept / size for path, (kept, size) in counts.items()}
        place = step + DELAY * int(wrong[0])
        common.check_finite(float(losses[wrong[0]].sum()), place, densities, run)
    return float(losses[:, :DELAY].mean())
