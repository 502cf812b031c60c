"""The base agent on Pong of the Atari 2600, which runs inside of the compiled loop.

ALE's vector environment has a form for XLA. Its state is not a value: the handle that it hands on
names a simulator, so a step cannot be made again from an old handle, and no copies of it are made.
An agent sees two frames, 4 of the console's apart, as pixels that differ from the background; a
point is an episode, as on our court. Needs the extra `atari`; ALE is under the GPL.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.rl.dqn import Task

SIDE, FRAMES = 42, 2
"""Pixels of a side, and frames that an agent sees."""
MOVES = np.array([0, 2, 3], np.int32)
"""Stay, up and down among the console's actions, which move the paddle on the right."""


class Screen(NamedTuple):
    """What the simulators show: the handle, pixels [n, FRAMES, SIDE, SIDE], which games are over."""

    handle: Array
    pixels: Array
    over: Array


def simulators(copies: int, seed: int) -> tuple[Task, int]:
    """So many games of Pong as a task, and how many numbers a network gets.

    Raises:
      ModuleNotFoundError: the extra is not installed.
    """
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--atari needs the module {error.name}: pip install 'jsparse[atari]'"
        ) from None
    made = AtariVectorEnv("pong", num_envs=copies, img_height=SIDE, img_width=SIDE,
                          stack_num=FRAMES)  # fmt: skip
    handle, begin, go = made.xla()

    def reset(key: Array, count: int) -> Screen:
        if count != copies:
            raise ValueError(f"got {count} copies; there are {copies} simulators")
        now, (pixels, _) = begin(handle, seed)
        return Screen(now, pixels, jnp.zeros(count, bool))

    def step(at: Screen, action: Array, key: Array) -> tuple[Screen, Array, Array]:
        now, (pixels, reward, ended, cut, _) = go(at.handle, jnp.asarray(MOVES)[action])
        over = ended | cut
        # after the end of a game a step begins the next one, whatever the action: nothing to learn
        return Screen(now, pixels, over), reward * 1.0, (reward != 0) | over | at.over

    inputs = FRAMES * SIDE * SIDE
    return Task(reset, step, lambda at: differs(at.pixels), see, inputs, len(MOVES)), inputs


def differs(pixels: Array) -> Array:
    """Which pixels differ from the most frequent one of their frame, 0 or 1, [..., uint8]."""
    middle = jnp.median(pixels.reshape(*pixels.shape[:-2], -1), axis=-1)[..., None, None]
    return (jnp.abs(pixels - middle) > 8).astype(jnp.uint8)


def see(seen: Array) -> Array:
    """[FRAMES * SIDE * SIDE], of one copy."""
    return seen.reshape(-1).astype(jnp.float32)
