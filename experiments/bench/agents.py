"""What updates of sparse agents cost, and dynamic sparse TD3 against its authors' code.

Claim: an update of an agent with dynamic masks takes at most 1.3 times a dense one, and a whole
    training run a third of the time of the authors' PyTorch code, with the same settings on the
    same machine.
Paper: Sokar et al., Dynamic sparse training for deep reinforcement learning, IJCAI 2022.
Command: python -m experiments.bench.agents --authors FOLDER --python PATH
    FOLDER is a checkout of GhadaSokar/Dynamic-Sparse-Training-for-Deep-Reinforcement-Learning on
    GitHub, PATH a Python with torch and gymnasium[mujoco], which need not be ours. Without them:
    the updates alone. With --baselines PATH, a Python with stable-baselines3: PPO on mazes, too.
    With --games PATH, a Python with torch: self-play of brick tic-tac-toe.
    With --auxiliary: rounds of agents with auxiliary tasks.
    With --torch PATH, a Python with torch: self-play Pong; in an environment with
    PJRT_NPROC=1, as one thread is the fastest for both sides.
Minutes: 2 for the updates; 5 more for both trainings, on two cores.

An update is the mean of 1,000, in which masks change once, on a replay of random transitions of
HalfCheetah's sizes; arms take turns, in processor seconds. Trainings are 20,000 steps of
HalfCheetah-v5, of which 5,000 are random, with 4 evaluations of 10 episodes (the authors' have one
more, before the first step), each in its own process: wall time, processor time and peak memory.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common, dynamic_td3, scheduled_auxiliary
from experiments.bench import games, maze, selfplay
from experiments.bench.rounds import Load, processor_ms, processor_table, sides_table
from experiments.common.settings import environment
from experiments.rl import sac_x
from experiments.rl.replay import Replay
from experiments.rl.td3 import DELAY, Td3, Trainer

ROOT = Path(__file__).parents[2]
THEIRS = Path(__file__).with_name("torch_agents.py")
OBSERVED, ACTIONS = 17, 6
STRETCH = 50
"""Updates of one call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    arms: tuple[dynamic_td3.Arm, ...] = ("dense", "static", "DS", "RigL")
    """Of the updates; the first is what others are compared with."""
    rounds: int = 5
    """Samples of each arm."""
    authors: Path | None = None
    """Checkout of the authors' code."""
    python: Path | None = None
    """A Python that runs it."""
    baselines: Path | None = None
    """A Python with stable-baselines3, for PPO on mazes; all else is left out then."""
    iterations: int = 100
    """Of PPO on mazes, on both sides."""
    games: Path | None = None
    """A Python with torch, for self-play of brick tic-tac-toe; all else is left out then."""
    torch: Path | None = None
    """A Python with torch, for self-play Pong; all else is left out then."""
    auxiliary: bool = False
    """Only rounds of agents with auxiliary tasks."""
    steps: int = 20_000
    """Of the environment, in both trainings."""
    random: int = 5000
    """Of these, the first are random and without updates."""
    out: Path | None = None
    """Where to write all numbers as JSON."""


def updates(settings: Settings) -> dict[str, np.ndarray]:
    """Processor milliseconds of an update of each arm, [rounds]."""
    random, replay, td3 = np.random.default_rng(0), Replay(2000, OBSERVED, ACTIONS), Td3()
    for _ in range(2000):
        before, after = random.normal(size=(2, OBSERVED))
        replay.add(before, random.uniform(-1, 1, ACTIONS), random.normal(), after, 1.0)
    kinds, running = dynamic_td3.kinds("HalfCheetah", alpha=1e-5), {}
    for arm in settings.arms:
        trainer = Trainer(td3, kinds[arm], OBSERVED, ACTIONS, last=10**9)
        running[arm] = trainer, trainer.start(1, *trainer.networks(1))
    found: dict[str, list[float]] = {arm: [] for arm in settings.arms}
    for _ in range(settings.rounds + 1):
        given = [
            replay.sample(random, STRETCH // DELAY, DELAY, td3.batch)
            for _ in range(td3.every // STRETCH)
        ]
        for arm, (trainer, state) in running.items():
            start = time.process_time()
            for n, batches in enumerate(given):
                state, _, layers = trainer.train(state, batches, jax.random.key(n))
            jax.block_until_ready((state, layers))
            found[arm].append(1000 * (time.process_time() - start) / td3.every)
            running[arm] = trainer, state
    return {arm: np.array(taken[1:]) for arm, taken in found.items()}  # the first also compiles


def auxiliary(rounds: int) -> dict[str, np.ndarray]:
    """Processor milliseconds of 16 episodes of SAC-X and the updates after them, [rounds]."""

    def learning(arm: str) -> tuple[Callable[[sac_x.Learner], sac_x.Learner], sac_x.Learner]:
        own = sac_x.Trainer(sac_x.SacX(), scheduled_auxiliary.ARMS[arm], rounds + 1)
        return lambda learner: own.learn(learner, rounds=1)[0], own.begin((1,))

    return processor_ms({arm: learning(arm) for arm in scheduled_auxiliary.SPARSE}, rounds)


def training(command: list[str], folder: str) -> dict[str, float]:
    """Seconds and MiB that a process takes; its output goes to FOLDER/log.

    Raises:
      ChildProcessError: it failed.
    """
    start = time.perf_counter()
    with (Path(folder) / "log").open("wb") as log:
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | path
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        text = (Path(folder) / "log").read_text()[-2000:]
        raise ChildProcessError(f"{' '.join(command)} failed:\n{text}")
    return {
        "clock [s]": time.perf_counter() - start,
        "processor [s]": used.ru_utime + used.ru_stime,
        "most memory [MiB]": used.ru_maxrss / 1024,
    }


def ours(settings: Settings, folder: str) -> dict[str, Any]:
    """Our training, and its return at the end."""
    options = {"steps": settings.steps, "random": settings.random, "seeds": 1, "episodes": 10}
    command = [sys.executable, "-m", "experiments.dynamic_td3", "--arms", "DS", "--out", "ours"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    taken = training(command, folder)
    final = json.loads((Path(folder) / "ours" / "DS" / "seed 1" / "final.json").read_text())
    return taken | {"return": final["scores"][-1]}


def theirs(settings: Settings, folder: str) -> dict[str, Any]:
    """The authors' training, and its return at the end."""
    options = {"max_timesteps": settings.steps, "start_timesteps": settings.random, "seed": 1}
    options |= {"env": "HalfCheetah-v5", "ann_earlyStopTopologyChange": settings.steps // 20}
    command = [str(settings.python), "-P", str(THEIRS), str(settings.authors.resolve())]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    taken = training(command, folder)
    (curve,) = (Path(folder) / "results").glob("*.npy")
    return taken | {"return": float(np.load(curve)[-1])}


def mazes(settings: Settings, python: Path) -> dict[str, Any]:
    """PPO on mazes against stable-baselines3, and the iterations of sparse agents."""
    load = Load()
    sides = maze.beside(python, settings.iterations)
    print(f"{jax.default_backend()}, {os.cpu_count()} cores; {load}\n")
    print(sides_table("PPO on mazes", sides, "steps / s"))
    arms = ("dense", "95 %", "SET 90 %", "thresholds")
    taken = maze.iterations(arms, settings.rounds)
    print(processor_table("an iteration", taken))
    return {"mazes": sides, "iterations [ms]": {arm: ms.tolist() for arm, ms in taken.items()}}


def main(settings: Settings) -> None:
    """Print the tables."""
    if (settings.authors is None) != (settings.python is None):
        raise ValueError("--authors and --python go together; give both or none")
    load, made_with = Load(), environment()
    if settings.baselines or settings.games or settings.torch or settings.auxiliary:
        numbers = mazes(settings, settings.baselines) if settings.baselines else {}
        if settings.games:
            numbers |= games.measured(settings.games, 5, settings.rounds)
        if settings.torch:
            compared = selfplay.compared(settings.torch, settings.rounds)
            numbers |= {"self-play [s / frame]": compared}
        if settings.auxiliary:
            taken = auxiliary(settings.rounds)
            print(processor_table("a round of SAC-X", taken), f"\n{load}")
            numbers |= {"auxiliary [ms]": {arm: ms.tolist() for arm, ms in taken.items()}}
        if settings.out:
            settings.out.write_text(json.dumps(numbers | made_with, indent=1))
        return
    print(f"{jax.default_backend()}, {os.cpu_count()} cores, {made_with['commit']}\n")
    sides: dict[str, dict] = {}
    if settings.authors:  # first, while this process is small: its memory counts in theirs, too
        for name, side in {"ours": ours, "theirs": theirs}.items():
            with tempfile.TemporaryDirectory() as folder:
                sides[name] = side(settings, folder)
        head = list(sides["ours"])
        rows = [[name, *(f"{one[key]:,.0f}" for key in head)] for name, one in sides.items()]
        rows.append(
            ["ratio", *(f"{sides['theirs'][k] / sides['ours'][k]:.2f}" for k in head[:3]), ""]
        )
        print(f"{settings.steps:,} steps of HalfCheetah-v5, {settings.random:,} random; {load}:\n")
        print(common.table(["training", *head], rows), "\n", flush=True)
    load = Load()
    taken = updates(settings)
    print(processor_table("update", taken), f"\n{load}")
    if settings.out:
        numbers = {"updates [ms]": {arm: ms.tolist() for arm, ms in taken.items()}}
        settings.out.write_text(json.dumps(numbers | {"trainings": sides} | made_with, indent=1))


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
