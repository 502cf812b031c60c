"""PPO on mazes against stable-baselines3's, and what an iteration with masks costs.

Both sides: 100 levels, 128 copies of 32 steps, two passes in batches of 1,024, a trunk of 512 and
128 units shared by policy and value; theirs steps the same mazes, written for gymnasium, in a
DummyVecEnv. Ours reads the cells of the six grids by adding rows of the first kernel, theirs the
486 numbers that these represent, as its networks need them.

Compiling, and a first iteration of theirs, are not counted. Returns are printed too,
ours of all iterations, theirs of the last 1,000 episodes; in so few steps neither side learns much.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import overfit_maze
from experiments.bench.rounds import answer, clocked, processor_ms
from experiments.rl.environments import maze
from experiments.rl.ppo import Ppo, Trainer
from experiments.rl.rollout import Learner

THEIRS = Path(__file__).with_name("torch_maze.py")
ARMS: tuple[overfit_maze.Arm, ...] = ("dense", "95 %", "SET 90 %", "thresholds")
LEVELS, SAMPLE = 100, 25
"""Of training; iterations of a sample, in which masks change twice."""


def begun(arm: overfit_maze.Arm) -> tuple[Trainer, Learner, maze.Maze]:
    """An agent that has learned for one iteration more than once, and where it acts."""
    own = overfit_maze.trainer(arm, Ppo(), overfit_maze.Settings.alpha, stretches=10**6)
    levels, _ = overfit_maze.mazes(LEVELS, 0.0, (1,))
    learner, _ = own.learn(own.begin((1,), levels), levels, iterations=SAMPLE)
    return own, jax.block_until_ready(learner), levels


def sampled(own: Trainer, levels: maze.Maze, learner: Learner) -> Learner:
    """After a sample of iterations."""
    return own.learn(learner, levels, iterations=SAMPLE)[0]


def iterations(rounds: int) -> dict[str, np.ndarray]:
    """Processor milliseconds of an iteration of each arm, [rounds]; arms take turns."""
    started = {arm: begun(arm) for arm in ARMS}
    running = {
        arm: (partial(sampled, own, levels), learner)
        for arm, (own, learner, levels) in started.items()
    }
    return {arm: ms / SAMPLE for arm, ms in processor_ms(running, rounds).items()}


def beside(python: Path, count: int) -> dict[str, dict[str, Any]]:
    """Seconds and steps of both sides, for a number of iterations rounded up to whole samples.

    Raises:
      ChildProcessError: theirs failed.
    """
    own, learner, levels = begun("dense")
    ppo, samples = own.settings, -(-count // SAMPLE)
    steps = samples * SAMPLE * ppo.copies * ppo.steps

    def learned() -> Array:
        at, score = learner, jnp.zeros(())
        for _ in range(samples):
            at, report = own.learn(at, levels, iterations=SAMPLE)
            score = report.score
        return score

    score, clock, processor = clocked(learned)
    taken = {"clock [s]": clock, "processor [s]": processor, "return": float(jnp.nanmean(score))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "levels.npz"
        one = {
            name: np.asarray(getattr(levels, name)[0]) for name in ("starts", "objects", "worth")
        }
        np.savez(path, **one)
        theirs = json.loads(answer([python, THEIRS, path, samples * SAMPLE]))
    sides = {"ours": taken, "stable-baselines3": theirs}
    return {name: one | {"steps / s": steps / one["clock [s]"]} for name, one in sides.items()}
