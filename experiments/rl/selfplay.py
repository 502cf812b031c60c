"""Pong as an agent plays it: as the left player, against the script or frozen networks.

An opponent is drawn for each point: number 0 follows the ball, the others are networks.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.rl.dqn import Task, copies
from experiments.rl.environments import pong
from experiments.rl.networks import Layers, forward

SLIP = 0.05
"""Probability with which an opponent in training makes a random move."""
INPUTS = {"numbers": 6, "frames": 2 * pong.SIDE**2}
"""What an agent sees, and how many numbers that is."""


class Point(NamedTuple):
    """A point that is played, and the number of the opponent, []."""

    court: pong.Court
    foe: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Match:
    """An environment: points against opponents.

    Attributes:
      foes: layers of the networks, [size, ...].
      low: [], of the numbers that are drawn the lowest.
      high: [], the one after the highest.
      view: what networks see, "numbers" or "frames".
    """

    foes: Layers
    low: Array
    high: Array
    view: str = dataclasses.field(metadata={"static": True})

    def reset(self, key: Array) -> Point:
        serve, draw = jax.random.split(key)
        return Point(pong.reset(serve), jax.random.randint(draw, (), self.low, self.high))

    def step(self, state: Point, action: Array, key: Array) -> tuple[Point, Array, Array]:
        luck, other, serve = jax.random.split(key, 3)
        random = pong.move(jax.random.randint(other, (), 0, pong.ACTIONS))
        answer = greedy(self.view, self.foes, state)
        answer = jnp.where(jax.random.uniform(luck) < SLIP, random, answer)
        moves = jnp.stack([pong.move(action), answer])
        court, reward, end = pong.step(state.court, moves, serve)
        return Point(court, state.foe), reward, end

    def observe(self, state: Point) -> Array:
        return observe(self.view, state.court)


def observe(view: str, court: pong.Court) -> Array:
    """What is remembered of a court, [6] or [8]."""
    return pong.observe(court) if view == "numbers" else pong.watch(court)


def see(view: str, row: Array) -> Array:
    """What a network gets of it, [inputs]."""
    return row if view == "numbers" else pong.frames(row).reshape(-1)


def best(view: str, layers: Layers, court: pong.Court) -> Array:
    """[], the action that a network thinks best."""
    return forward(layers, see(view, observe(view, court))).argmax()


def greedy(view: str, foes: Layers, point: Point) -> Array:
    """[], the move of the opponent, who is the right player."""
    mirrored = pong.mirrored(point.court)
    all_ = jax.vmap(lambda layers: best(view, layers, mirrored))(foes)
    chosen = pong.move(all_[jnp.maximum(point.foe - 1, 0)])
    return jnp.where(point.foe == 0, pong.follow(mirrored), chosen)


def task(view: str, foes: Layers) -> Task:
    """Many points at once, against the script until there are other numbers in the match."""
    zero = jnp.zeros((), jnp.int32)
    match = Match(foes, zero, zero + 1, view)
    return copies(match, partial(see, view), INPUTS[view], pong.ACTIONS)


@partial(jax.jit, static_argnames=("view", "points"))
def scores(view: str, mine: Layers, foes: Layers, keys: Array, points: int) -> Array:
    """Mean score of greedy agents against the script and then each network, without slips.

    Args:
      view: what all networks see.
      mine: [seeds, ...], the left players.
      foes: [seeds, size, ...], the right ones.
      keys: [seeds], of the serves.
      points: how many against each.

    Returns:
      [seeds, 1 + size].
    """

    def one(mine: Layers, foes: Layers, key: Array) -> Array:
        size = len(foes[0][0]) + 1
        padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf[:1], leaf]), foes)
        numbers = jnp.minimum(jnp.arange(size), 1)  # 0 is the script, 1 the only network
        meet = lambda number, foe, key: _points(view, mine, foe, number, key, points).mean()
        return jax.vmap(meet)(numbers, padded, jax.random.split(key, size))

    return jax.vmap(one)(mine, foes, keys)


def _points(view: str, mine: Layers, foe: Layers, number: Array, key: Array, points: int) -> Array:
    """[points], what they come to for the left player."""
    alone = jax.tree.map(lambda leaf: leaf[None], foe)

    def play(point: Point) -> tuple[Point, Array, Array]:
        moves = pong.move(best(view, mine, point.court)), greedy(view, alone, point)
        court, reward, end = pong.step(point.court, jnp.stack(moves), key)
        return Point(court, point.foe), reward, end

    def step(at: tuple) -> tuple:
        point, total, going = at
        point, reward, end = jax.vmap(play)(point)
        return point, total + going * reward, going & ~end

    courts = jax.vmap(pong.reset)(jax.random.split(key, points))
    begin = Point(courts, jnp.broadcast_to(number, points))
    at = begin, jnp.zeros(points), jnp.ones(points, bool)
    return jax.lax.while_loop(lambda at: at[2].any(), step, at)[1]
