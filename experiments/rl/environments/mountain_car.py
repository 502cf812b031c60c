"""A car too weak for its hill, and four things that can be asked of it.

Reference: Moore, Efficient memory-based learning for robot control, 1990, with the constants of
Sutton and Barto and of gymnasium's MountainCar-v0; the tasks are those of `TASKS`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ACTIONS, OBSERVED = 3, 2
TASKS = ("goal", "left", "right", "fast")
"""On the right hill; far up the left one; some way up the right one; at some speed. Paid 1 or 0."""


class Car(NamedTuple):
    """Position, in [-1.2, 0.6], and velocity, in [-0.07, 0.07], each []."""

    position: Array
    velocity: Array


class MountainCar:
    """Push left, not at all, or right (0, 1, 2); an episode ends on the right hill, paid 1."""

    def reset(self, key: Array) -> Car:
        """At rest in the valley."""
        return Car(jax.random.uniform(key, minval=-0.6, maxval=-0.4), jnp.zeros(()))

    def step(self, state: Car, action: Array, key: Array) -> tuple[Car, Array, Array]:
        """The next state, the reward and whether the goal is reached; nothing is random."""
        push = 0.001 * (action - 1) - 0.0025 * jnp.cos(3 * state.position)
        velocity = (state.velocity + push).clip(-0.07, 0.07)
        position = (state.position + velocity).clip(-1.2, 0.6)
        velocity = jnp.where((position <= -1.2) & (velocity < 0), 0.0, velocity)
        end = position >= 0.5
        return Car(position, velocity), end.astype(position.dtype), end

    def observe(self, state: Car) -> Array:
        """[2], both about in [-1, 1]."""
        return jnp.stack([(state.position + 0.3) / 0.9, state.velocity / 0.07])

    def tasks(self, state: Car) -> Array:
        """[tasks], what each pays in a state."""
        where, fast = state.position, jnp.abs(state.velocity) > 0.03
        return jnp.stack([where >= 0.5, where < -0.9, where > 0.1, fast]).astype(where.dtype)
