"""Empty rooms with five objects, the BASIC mazes of the overfitting study.

A level is a place for the agent and for each of five objects, and what they are worth. Object 0,
the key, is worth 0.1 and ends the episode; two are worth 1 and two -1, and are gone when taken.
Walking into the edge costs 0.01, and an episode that takes too long ends with -1. The best return
is 2.1: both good objects, then the key, and neither bad one. In every level that is possible.

Where rewards are flipped, each of the four changes its sign with some probability, and the four are
scaled so that the best return stays 2.1; levels with four bad objects are drawn again. The key is
never flipped; the paper does not mention it.

Reference: Zhang, Vinyals, Munos and Bengio, A study on overfitting in deep reinforcement learning,
2018, arXiv 1804.06893, section 4 and appendix.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

SIZE, OBJECTS, ACTIONS, LIMIT = 9, 5, 5, 200
BEST = 2.1
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])
"""Of the actions: up, down, left, right, stay."""
STICKY = 0.25
"""Probability of the action before, where actions are sticky."""


class Place(NamedTuple):
    """A state.

    Attributes:
      level: which one, [].
      agent: row and column, [2].
      here: which objects are still there, [objects].
      age: steps of the episode, [].
      before: the action that was carried out last, [].
    """

    level: Array
    agent: Array
    here: Array
    age: Array
    before: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Maze:
    """Levels, of which each episode draws one.

    Attributes:
      starts: [levels, 2], rows and columns of the agent.
      objects: [levels, objects, 2].
      worth: [levels, objects].
      sticky: probability that the action before is carried out in place of the one chosen, [].
      anywhere: whether episodes start in any cell without an object, [].
    """

    starts: Array
    objects: Array
    worth: Array
    sticky: Array
    anywhere: Array

    def reset(self, key: Array) -> Place:
        which, where = jax.random.split(key)
        level = jax.random.randint(which, (), 0, len(self.starts))
        number = jax.random.randint(where, (), 0, SIZE * SIZE - OBJECTS)  # among the free cells
        cell = number
        for _ in range(OBJECTS):
            cell = number + (number_of(self.objects[level]) <= cell).sum()
        drawn = jnp.stack([cell // SIZE, cell % SIZE])
        agent = jnp.where(self.anywhere, drawn, self.starts[level])
        zero = jnp.int32(0)
        return Place(level, agent, jnp.ones(OBJECTS), zero, zero + ACTIONS - 1)

    def step(self, state: Place, action: Array, key: Array) -> tuple[Place, Array, Array]:
        stuck = (jax.random.uniform(key) < self.sticky) & (state.age > 0)
        action = jnp.where(stuck, state.before, action)
        wanted = state.agent + jnp.asarray(MOVES)[action]
        agent = wanted.clip(0, SIZE - 1)
        met = state.here * (self.objects[state.level] == agent[None]).all(axis=-1)
        late = state.age + 1 >= LIMIT
        ended = (met[0] > 0) | late
        reward = met @ self.worth[state.level] - 0.01 * (wanted != agent).any()
        reward = reward - 1.0 * (late & (met[0] == 0))
        return Place(state.level, agent, state.here - met, state.age + 1, action), reward, ended

    def observe(self, state: Place) -> Array:
        """[6]: the cells of the objects, 81 where one is not there any more, and of the agent.

        They stand for 6 grids that hold 1 there and else 0, which `networks.Grids` reads.
        """
        cells = number_of(jnp.concatenate([self.objects[state.level], state.agent[None]]))
        return jnp.where(jnp.append(state.here, 1.0) > 0, cells, SIZE * SIZE)


OBSERVED = (OBJECTS + 1) * SIZE * SIZE
"""Numbers in the grids."""


def number_of(places: Array) -> Array:
    """[...], of the cells at rows and columns [..., 2]."""
    return SIZE * places[..., 0] + places[..., 1]


def levels(count: int, flip: float, seed: int, others: Maze | None = None) -> Maze:
    """A number of different levels, none of them in `others`."""
    random = np.random.default_rng(seed)
    seen = set() if others is None else set(names(others))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    while len(found) < count:
        cells = random.choice(SIZE * SIZE, OBJECTS + 1, replace=False)
        places = np.stack([cells // SIZE, cells % SIZE], axis=1)
        worth = np.array([0.1, 1, 1, -1, -1])
        while True:
            signs = np.where(random.random(4) < flip, -1, 1) * worth[1:]
            if (signs > 0).any():
                break
        worth[1:] = signs * 2 / (signs > 0).sum()
        if tuple(cells) not in seen and solvable(places, worth):
            seen.add(tuple(cells))
            found.append((places, worth))
    places, worth = (np.stack(one) for one in zip(*found, strict=True))
    no = jnp.zeros(())
    return Maze(
        jnp.asarray(places[:, 0]), jnp.asarray(places[:, 1:]), jnp.asarray(worth, jnp.float32),
        no, no > 0,
    )  # fmt: skip


def names(maze: Maze) -> list[tuple[int, ...]]:
    """The cells of each level, agent first: what a level is known by."""
    cells = np.concatenate([np.asarray(maze.starts)[:, None], np.asarray(maze.objects)], axis=1)
    return [tuple(map(int, row)) for row in cells[..., 0] * SIZE + cells[..., 1]]


def solvable(places: np.ndarray, worth: np.ndarray) -> bool:
    """Whether all good objects, and then the key, can be reached around the bad ones."""
    open_ = np.ones((SIZE + 2, SIZE + 2), bool)
    open_[[0, -1]] = open_[:, [0, -1]] = False
    for number, (row, column) in enumerate(places[1:]):
        open_[row + 1, column + 1] = number and worth[number] > 0  # not through the key either
    reached = np.zeros_like(open_)
    reached[tuple(places[0] + 1)] = True
    while True:
        near = reached.copy()
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            near |= np.roll(reached, shift, axis)
        if (new := near & open_ | reached).sum() == reached.sum():
            break
        reached = new
    wanted = [near[row + 1, column + 1] for row, column in places[1:][worth > 0]]
    return bool(np.all(wanted))
