"""Frames of self-play Pong per second, learning included, against the same agent in PyTorch.

Agents play a frozen copy on 64 courts, one update of 256 transitions for each step of them. Arms
take turns; wall time and processor time. Used by `agents`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jsparse
from experiments import common
from experiments.bench.rounds import answer, clocked, ratio, turns
from experiments.rl import schooling
from experiments.rl.dqn import Dqn
from experiments.rl.networks import Kind, drawn

THEIRS = Path(__file__).with_name("torch_pong.py")
KINDS = {
    "dense": Kind(),
    "static 80 %": Kind(drawn(0.2)),
    "SET 80 %": Kind(drawn(0.2), jsparse.SET),
}
ITERATIONS = 1000
"""Of a sample."""
Sample = Callable[[], tuple[float, float]]
"""Wall and processor seconds per frame."""


def ours(kind: Kind, seeds: int) -> Sample:
    """Some seeds side by side, each against itself as it was at the start."""
    dqn = Dqn()
    school = schooling.trainer("numbers", dqn, kind, 1, 10**6)
    learner = school.start(range(1, seeds + 1))
    foes = jax.tree.map(lambda leaf: leaf[:, None], school.layers(learner))
    state = schooling.against(learner, foes, 1, 2)

    def sample() -> tuple[float, float]:
        nonlocal state
        (state, _), clock, processor = clocked(lambda: school.learn(state, jnp.int32(ITERATIONS)))
        frames = ITERATIONS * dqn.copies * seeds
        return clock / frames, processor / frames

    return sample


def theirs(python: Path) -> Sample:
    """PyTorch, one seed."""

    def sample() -> tuple[float, float]:
        taken = json.loads(answer([python, "-P", THEIRS, ITERATIONS]))
        frames = ITERATIONS * Dqn().copies
        return taken["clock"] / frames, taken["processor"] / frames

    return sample


def compared(python: Path, rounds: int) -> dict[str, list]:
    """Print the table; seconds of clock and processor for a frame, [rounds, 2] by arm."""
    arms = {f"{name}, 3 seeds": ours(kind, 3) for name, kind in KINDS.items()}
    arms["dense, one seed"] = ours(KINDS["dense"], 1)
    arms["PyTorch, one seed"] = theirs(python)
    found = turns(arms, rounds)
    rows = []
    for name, times in found.items():
        speed = [f"{1 / np.median(times[:, n]):,.0f}" for n in (0, 1)]
        to_dense = ratio(times[:, 1], found["dense, 3 seeds"][:, 1])
        alone = ratio(times[:, 0], found["dense, one seed"][:, 0])
        rows.append([name, *speed, *to_dense, *alone])
    head = ["frames of self-play", "a second", "a processor second", "processor / dense",
            "quartiles", "clock / dense, one seed", "quartiles"]  # fmt: skip
    print(common.table(head, rows), flush=True)
    return {name: times.tolist() for name, times in found.items()}
