"""Two-player Pong on a court of one by one; an episode is one point.

Both paddles move, then the ball. Walls reflect it; a paddle sends it back 5 % faster, and at a
steeper angle the farther from its middle it is hit. Everything is described as the left player sees
it; `mirrored` is the court as the right player does. The rules are ours, after the arcade game.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PADDLE, REACH = 0.03, 0.1
"""What a paddle moves in a step, and half of its height."""
SLOW, FAST, FASTER, STEEP, SERVE = 0.03, 0.06, 1.05, 0.04, 0.02
"""Speed of the ball across at first and at most, its gain with each hit; up and down, at most."""
LIMIT = 300
"""Steps after which nobody gets the point."""
ACTIONS = 3
"""Stay, up, down."""
SCRIPT = 0.55
"""Of a paddle's speed: that of the opponent who follows the ball."""
GAP, SIDE = 4, 24
"""Steps between two frames, and their pixels on a side."""


class Court(NamedTuple):
    """What happens on a court, with places from 0 to 1.

    Attributes:
      ball: [2], across and up.
      velocity: [2], of the ball in a step.
      paddles: [2], heights of their middles, left and right.
      age: [], steps so far.
      past: [GAP, 4], ball and paddles before each of the last steps, the oldest first.
    """

    ball: Array
    velocity: Array
    paddles: Array
    age: Array
    past: Array


def reset(key: Array) -> Court:
    """A serve from the middle, at a random height, to a random side."""
    height, slope, side = jax.random.uniform(key, (3,))
    ball = jnp.stack([jnp.full((), 0.5), 0.1 + 0.8 * height])
    velocity = jnp.stack([jnp.where(side < 0.5, -SLOW, SLOW), SERVE * (2 * slope - 1)])
    paddles = jnp.full(2, 0.5, jnp.float32)
    past = jnp.tile(jnp.concatenate([ball, paddles]), (GAP, 1))
    return Court(ball, velocity, paddles, jnp.zeros((), jnp.int32), past)


def step(court: Court, moves: Array, key: Array) -> tuple[Court, Array, Array]:
    """One step by moves [2] of both paddles, from -1 to 1; nothing in it is random.

    Returns:
      The court, the left player's reward [] (1, 0 or -1), and whether the point is over [].
    """
    paddles = jnp.clip(court.paddles + PADDLE * moves, REACH, 1 - REACH)
    x, y = court.ball + court.velocity
    across, up = court.velocity
    up = jnp.where((y < 0) | (y > 1), -up, up)
    y = jnp.where(y > 1, 2 - y, jnp.abs(y))
    left, right = x <= 0, x >= 1
    offset = (y - jnp.where(left, paddles[0], paddles[1])) / REACH
    out = left | right
    hit = out & (jnp.abs(offset) <= 1)
    speed = jnp.minimum(FASTER * jnp.abs(across), FAST)
    velocity = jnp.stack([
        jnp.where(hit, jnp.where(left, speed, -speed), across), jnp.where(hit, STEEP * offset, up)
    ])  # fmt: skip
    x = jnp.where(hit, jnp.where(left, -x, 2 - x), x)
    age, missed = court.age + 1, out & ~hit
    past = jnp.concatenate([court.past[1:], jnp.concatenate([court.ball, court.paddles])[None]])
    new = Court(jnp.stack([x, y]), velocity, paddles, age, past)
    return new, jnp.where(missed, jnp.where(left, -1.0, 1.0), 0.0), missed | (age >= LIMIT)


def move(action: Array) -> Array:
    """What an action does to a paddle: 0, 1 or -1; of the same shape."""
    return jnp.where(action == 0, 0.0, jnp.where(action == 1, 1.0, -1.0))


def mirrored(court: Court) -> Court:
    """The court as the right player sees it."""
    turned = jnp.array([-1.0, 1.0])
    past = court.past[:, jnp.array([0, 1, 3, 2])]
    return court._replace(
        ball=turned * court.ball + jnp.array([1.0, 0.0]),
        velocity=turned * court.velocity,
        paddles=court.paddles[::-1],
        past=jnp.concatenate([1 - past[:, :1], past[:, 1:]], axis=1),
    )


def observe(court: Court) -> Array:
    """[6]: ball, its velocity and both paddles, the own one first, all within -1 to 1."""
    velocity = court.velocity / jnp.array([FAST, STEEP])
    return jnp.concatenate([2 * court.ball - 1, velocity, 2 * court.paddles - 1])


def watch(court: Court) -> Array:
    """[8]: what two frames show, `GAP` steps apart: ball and paddles then, and now."""
    return jnp.concatenate([court.past[0], court.ball, court.paddles])


def frames(watched: Array) -> Array:
    """What `watch` gives, [8], as pixels that are 0 or 1: [2, SIDE, SIDE], the top row first."""
    place, height = np.arange(SIDE), 1 - (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    lit = lambda at: jnp.floor(jnp.clip(at, 0, 1 - 1e-6) * SIDE) == place

    def frame(shown: Array) -> Array:
        x, y, *paddles = shown
        pixels = lit(1 - y)[:, None] & lit(x)[None, :]
        for paddle, column in zip(paddles, (0, SIDE - 1), strict=True):
            rows = jnp.abs(height - paddle) <= REACH
            pixels |= rows[:, None] & (place == column)[None, :]
        return pixels.astype(watched.dtype)

    return jax.vmap(frame)(watched.reshape(2, 4))


def follow(court: Court) -> Array:
    """[], the left player's move that follows the ball, with 55 % of a paddle's speed."""
    return jnp.clip((court.ball[1] - court.paddles[0]) / PADDLE, -SCRIPT, SCRIPT)


def landing(court: Court) -> Array:
    """[], the height at which the ball meets the line that it flies to; walls reflect it."""
    x, y = court.ball
    across, up = court.velocity
    high = jnp.mod(y + up * jnp.where(across < 0, x, 1 - x) / jnp.abs(across), 2.0)
    return jnp.where(high > 1, 2 - high, high)
