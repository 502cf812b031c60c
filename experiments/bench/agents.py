"""What updates of sparse agents cost, and dynamic sparse TD3 against its authors' code.

Claim: an update of an agent with dynamic masks takes at most 1.3 times a dense one, and a whole
    training run a third of the time of the authors' PyTorch code, with the same settings on the
    same machine.
Paper: Sokar et al., Dynamic sparse training for deep reinforcement learning, IJCAI 2022.
Command: python -m experiments.bench.agents --authors FOLDER --python PATH
    FOLDER is a checkout of GhadaSokar/Dynamic-Sparse-Training-for-Deep-Reinforcement-Learning on
    GitHub, PATH a Python with torch and gymnasium[mujoco], which need not be ours. Without them:
    the updates alone. With --baselines, --games, --torch or --auxiliary: other agents in place of
    these, see `maze`, `games` and `selfplay`. Self-play Pong (--torch) needs an environment with
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
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common, dynamic_td3, scheduled_auxiliary
from experiments.bench import games, maze, selfplay
from experiments.bench.rounds import ROOT, Load, processor_ms, processor_table, sides_table
from experiments.common.settings import environment
from experiments.rl import sac_x
from experiments.rl.replay import Replay
from experiments.rl.td3 import DELAY, Td3, Trainer

THEIRS = Path(__file__).with_name("torch_agents.py")
OBSERVED, ACTIONS = 17, 6
BATCHES = 5
"""Of moves, in self-play of brick tic-tac-toe."""
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
    """A Python with stable-baselines3, for PPO on mazes."""
    iterations: int = 100
    """Of PPO on mazes, on both sides."""
    games: Path | None = None
    """A Python with torch, for self-play of brick tic-tac-toe."""
    torch: Path | None = None
    """A Python with torch, for self-play Pong."""
    auxiliary: bool = False
    """Rounds of agents with auxiliary tasks."""
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
    kinds = dynamic_td3.kinds("HalfCheetah", alpha=1e-5)

    shape = STRETCH // DELAY, DELAY, td3.batch
    given = [replay.sample(random, *shape) for _ in range(td3.every // STRETCH)]

    def learning(arm: str) -> tuple[Callable[[Any], Any], Any]:
        own = Trainer(td3, kinds[arm], OBSERVED, ACTIONS, last=10**9)

        def learned(state: Any) -> Any:
            for n, batches in enumerate(given):
                state, _, _ = own.train(state, batches, jax.random.key(n))
            return state

        return learned, own.start(1, *own.networks(1))

    taken = processor_ms({arm: learning(arm) for arm in settings.arms}, settings.rounds)
    return {arm: ms / td3.every for arm, ms in taken.items()}


def auxiliary(rounds: int) -> dict[str, np.ndarray]:
    """Processor milliseconds of 16 episodes of SAC-X and the updates after them, [rounds]."""

    def learning(arm: str) -> tuple[Callable[[sac_x.Learner], sac_x.Learner], sac_x.Learner]:
        own = sac_x.Trainer(sac_x.SacX(), scheduled_auxiliary.ARMS[arm], rounds + 1)
        return lambda learner: own.learn(learner, rounds=1)[0], own.begin((1,))

    return processor_ms({arm: learning(arm) for arm in scheduled_auxiliary.SPARSE}, rounds)


def training(command: list[str], options: dict[str, Any], folder: str) -> dict[str, float]:
    """Seconds and MiB that a process takes; its output goes to FOLDER/log.

    Raises:
      ChildProcessError: it failed.
    """
    command = command + [str(word) for n, value in options.items() for word in (f"--{n}", value)]
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
    taken = training(command, options, folder)
    final = json.loads((Path(folder) / "ours" / "DS" / "seed 1" / "final.json").read_text())
    return taken | {"return": final["scores"][-1]}


def theirs(settings: Settings, folder: str) -> dict[str, Any]:
    """The authors' training, and its return at the end."""
    options = {"max_timesteps": settings.steps, "start_timesteps": settings.random, "seed": 1}
    options |= {"env": "HalfCheetah-v5", "ann_earlyStopTopologyChange": settings.steps // 20}
    command = [str(settings.python), "-P", str(THEIRS), str(settings.authors.resolve())]
    taken = training(command, options, folder)
    (curve,) = (Path(folder) / "results").glob("*.npy")
    return taken | {"return": float(np.load(curve)[-1])}


def trainings(settings: Settings) -> dict[str, dict[str, Any]]:
    """What both trainings take; prints a table."""
    load, sides = Load(), {}
    for name, side in {"ours": ours, "theirs": theirs}.items():
        with tempfile.TemporaryDirectory() as folder:
            sides[name] = side(settings, folder)
    head = list(sides["ours"])
    rows = [[name, *(f"{one[key]:,.0f}" for key in head)] for name, one in sides.items()]
    ratios = [f"{sides['theirs'][key] / sides['ours'][key]:.2f}" for key in head[:3]]
    print(f"{settings.steps:,} steps of HalfCheetah-v5, {settings.random:,} random; {load}:\n")
    print(common.table(["training", *head], [*rows, ["ratio", *ratios, ""]]), "\n", flush=True)
    return sides


def beside(
    what: str, key: str, unit: str, measure: Callable[[], dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    """The numbers of ours and of another side, by a key; prints a table."""
    load = Load()
    sides = measure()
    print(f"{jax.default_backend()}, {os.cpu_count()} cores; {load}\n")
    print(sides_table(what, sides, unit))
    return {key: sides}


def in_turns(what: str, key: str, taken: dict[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds of each arm, by a key; prints a table."""
    print(processor_table(what, taken))
    return {key: {arm: ms.tolist() for arm, ms in taken.items()}}


def main(settings: Settings) -> None:
    """Print the tables."""
    if (settings.authors is None) != (settings.python is None):
        raise ValueError("--authors and --python go together; give both or none")
    made_with, numbers, rounds, load = environment(), {}, settings.rounds, Load()
    if settings.baselines:
        side = partial(maze.beside, settings.baselines, settings.iterations)
        numbers |= beside("PPO on mazes", "mazes", "steps / s", side)
        numbers |= in_turns("an iteration", "iterations [ms]", maze.iterations(rounds))
    if settings.games:
        side = partial(games.beside, settings.games, BATCHES)
        numbers |= beside("self-play", "games", "games / s", side)
        taken = games.iterations(rounds)
        numbers |= in_turns("an iteration", "iterations with search [ms]", taken)
    if settings.torch:
        numbers |= {"self-play [s / frame]": selfplay.compared(settings.torch, rounds)}
    if settings.auxiliary:
        numbers |= in_turns("a round of SAC-X", "auxiliary [ms]", auxiliary(rounds))
        print(load)
    if not numbers:
        print(f"{jax.default_backend()}, {os.cpu_count()} cores, {made_with['commit']}\n")
        # trainings first, while this process is small: its memory counts in theirs, too
        sides = trainings(settings) if settings.authors else {}
        load = Load()
        numbers = in_turns("update", "updates [ms]", updates(settings)) | {"trainings": sides}
        print(load)
    if settings.out:
        settings.out.write_text(json.dumps(numbers | made_with, indent=1))


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
