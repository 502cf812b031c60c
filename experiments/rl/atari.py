"""The base agent on Atari 2600 Pong, which runs inside the compiled loop.

ALE's vector environment has a form for XLA. Its state is not a value: the handle that it returns
names a simulator, so a step cannot be repeated from an old handle, and a killed run starts again.
An agent sees two frames, 4 of the console's apart, as pixels that differ from the background; a
point is an episode, as on our court. Needs the extra `atari`; ALE is under the GPL.
"""

import dataclasses
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import common
from experiments.rl.dqn import Dqn, Task, Trainer
from experiments.rl.networks import Kind, Layers, forward

SIDE, FRAMES, COURT, BACKGROUND = 42, 2, slice(7, 38), 87
"""Pixels of a side, frames that an agent sees, the rows of the court and its gray."""
MOVES = np.array([0, 2, 3], np.int32)
"""Stay, up and down among the console's actions; they move the paddle on the right."""
MARKS = 5
"""Parts of a training, after each of which it is logged."""


class Screens(NamedTuple):
    """What the simulators show.

    Attributes:
      handle: of all simulators.
      pixels: [n, FRAMES, SIDE, SIDE].
      over: [n], whether a game ended with the last step.
    """

    handle: Array
    pixels: Array
    over: Array


def simulators(count: int, seed: int) -> Task:
    """Several games of Pong as a task.

    Raises:
      ModuleNotFoundError: the extra is not installed.
    """
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--atari needs the module {error.name}: pip install 'jsparse[atari]'"
        ) from None
    made = AtariVectorEnv("pong", num_envs=count, img_height=SIDE, img_width=SIDE,
                          stack_num=FRAMES)  # fmt: skip
    handle, begin, go = made.xla()

    def reset(key: Array, copies: int) -> Screens:
        now, (pixels, _) = begin(handle, seed)
        return Screens(now, pixels, jnp.zeros(copies, bool))

    def step(at: Screens, action: Array, key: Array) -> tuple[Screens, Array, Array]:
        now, (pixels, reward, ended, cut, _) = go(at.handle, jnp.asarray(MOVES)[action])
        over = ended | cut
        # the step after the end of a game only begins the next one: nothing follows from it
        return Screens(now, pixels, over), reward * 1.0, (reward != 0) | over | at.over

    inputs = FRAMES * (COURT.stop - COURT.start) * SIDE
    return Task(reset, step, lambda at: lit(at.pixels), see, inputs, len(MOVES))


def lit(pixels: Array) -> Array:
    """The court's pixels that are not background, 0 or 1."""
    return (pixels[..., COURT, :] != BACKGROUND).astype(jnp.uint8)


def see(seen: Array) -> Array:
    """[inputs], of one copy."""
    return seen.reshape(-1).astype(jnp.float32)


@partial(jax.jit, static_argnames=("task", "steps"))
def judged(task: Task, layers: Layers, state: Screens, steps: int) -> tuple[Screens, Array, Array]:
    """Points won and lost by the greedy agent in a number of steps of each game."""

    def step(at: Screens, key: Array) -> tuple[Screens, tuple[Array, Array]]:
        x = jax.vmap(task.see)(task.observe(at))
        at, reward, _ = task.step(at, forward(layers, x).argmax(axis=1), key)
        return at, ((reward > 0).sum(), (reward < 0).sum())

    keys = jax.random.split(jax.random.key(0), steps)  # which the console does not use
    state, (won, lost) = jax.lax.scan(step, state, keys)
    return state, won.sum(), lost.sum()


def main(run: common.Run, dqn: Dqn, count: int, frames: int) -> None:
    """Measure, train and measure the base agent; print the results."""
    if not run.complete:
        run.forget_after(0)
        run.finish(**studied(run, dqn, count, frames))
    found: dict[str, Any] = run.final()
    rows = [
        [name, one["won"], one["lost"], f"{score(one):+.3f}"]
        for name, one in found["judged"].items()
    ]
    print(f"\nPong of the Atari 2600, {found['frames']:,} frames of training, one seed:\n")
    print(common.table(["greedy agent", "points won", "lost", "mean"], rows))
    curve = ", ".join(f"{row['score']:+.3f}" for row in run.rows())
    print(f"\nScore of a point while it learned: {curve}; {found['speed']:,.0f} frames a second")


def score(one: dict[str, int]) -> float:
    """Mean of a point."""
    return (one["won"] - one["lost"]) / max(1, one["won"] + one["lost"])


def studied(run: common.Run, dqn: Dqn, count: int, frames: int) -> dict[str, Any]:
    """The agent before and after training, measured on as many frames as a part of the training."""
    each = frames // count // MARKS
    dqn = dataclasses.replace(dqn, copies=count, batch=64, capacity=20_000, warm=each)
    task = simulators(count, seed=1)
    trainer = Trainer(dqn, Kind(), task, last=MARKS * each)
    learner, found, taken = trainer.alone(seed=1), {}, 0.0

    def judge(name: str, learner: Any) -> Any:
        layers = trainer.layers_alone(learner)
        state, won, lost = judged(task, layers, learner.state, each)
        found[name] = {"won": int(won), "lost": int(lost)}
        return learner._replace(state=state)

    learner = judge("untrained", learner)
    for mark in range(1, MARKS + 1):
        start = time.perf_counter()
        learner, mean = trainer.learn_alone(learner, jnp.int32(each))
        run.log(mark, score=float(mean))
        taken = time.perf_counter() - start  # the last part does not compile
    learner = judge("trained", learner)
    done = MARKS * each * count
    return {"judged": found, "frames": done, "speed": each * count / taken}
