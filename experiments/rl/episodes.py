"""What is remembered of whole episodes, and pieces drawn from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Episodes(NamedTuple):
    """Episodes or pieces of them, [episodes, ...]; steps after the end mean nothing.

    Attributes:
      observation: [episodes, steps + 1, observed].
      action: [episodes, steps].
      chance: [episodes, steps], probability of the action.
      reward: [episodes, steps, tasks].
      end: [episodes, steps], bool.
      length: [episodes].
    """

    observation: Array
    action: Array
    chance: Array
    reward: Array
    end: Array
    length: Array


def empty(count: int, steps: int, observed: int, tasks: int) -> Episodes:
    """Room for a number of episodes."""
    zeros = lambda *shape: jnp.zeros((count, *shape))
    return Episodes(
        zeros(steps + 1, observed), zeros(steps).astype(jnp.int32), zeros(steps),
        zeros(steps, tasks), zeros(steps).astype(bool), zeros().astype(jnp.int32),
    )  # fmt: skip


def pieces(memory: Episodes, filled: Array, key: Array, count: int, steps: int) -> Episodes:
    """Pieces of a given number of steps, from any of the first `filled` episodes."""
    which, where = jax.random.split(key)
    episode = jax.random.randint(which, (count, 1), 0, filled)
    room = jnp.maximum(memory.length[episode] - steps + 1, 1)
    first = (jax.random.uniform(where, (count, 1)) * room).astype(jnp.int32)
    at = first + jnp.arange(steps + 1)[None]
    own = lambda column: column[episode, at[:, :-1]]
    return Episodes(
        memory.observation[episode, at], own(memory.action), own(memory.chance),
        own(memory.reward), own(memory.end), jnp.minimum(memory.length[episode[:, 0]], steps),
    )  # fmt: skip
