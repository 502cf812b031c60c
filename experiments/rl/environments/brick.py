"""Brick tic-tac-toe: a brick lies on one cell of a square board, and four stones in a row win.

Two players put a stone on any empty cell in turn; a full board is a draw. A state is seen by the
player who moves next. All functions take any leading axes [...].

Reference: Tan Chong Min and Motani, Brick tic-tac-toe, arXiv 2207.05991 (2022), and its code; the
board there has 7 x 7 cells.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROW = 4
"""Stones in a row that win."""
UNIT = 5e-7
"""What a unit of the heuristic value is worth; a won game is worth 1."""
WON = round(1 / UNIT)
POWER = (0, 1, 100, 100**2, 100**3)
"""Worth of a number of stones in a line, in millionths."""


class State(NamedTuple):
    """A position, seen by who moves next.

    Attributes:
      own: [..., cells], 1 at the stones of who moves next.
      other: [..., cells], of the other player.
      brick: [..., cells].
      ended: [...], whether the game is over.
    """

    own: Array
    other: Array
    brick: Array
    ended: Array


@functools.cache
def lines(size: int) -> np.ndarray:
    """[lines, ROW], the cells of all lines, from end to end."""
    cell = np.arange(size * size).reshape(size, size)
    turned = [cell, cell.T]
    straight = [board[:, n : n + ROW] for board in turned for n in range(size - ROW + 1)]
    starts = range(size - ROW + 1)
    slanted = [
        [board[top + n, left + n] for n in range(ROW)]
        for board in (cell, cell[:, ::-1])
        for top in starts
        for left in starts
    ]
    return np.concatenate([*straight, np.array(slanted)])


@functools.cache
def inside(size: int) -> tuple[np.ndarray, np.ndarray]:
    """[cells, lines] twice: whether a cell is in a line, and whether it is an end of it."""
    found = np.zeros((2, size * size, len(lines(size))), np.float32)
    for number, line in enumerate(lines(size)):
        found[0, line, number] = found[1, line[[0, -1]], number] = 1
    return found[0], found[1]


@functools.cache
def symmetries(size: int) -> np.ndarray:
    """[8, cells], the cell that each cell comes from when the board is rotated or flipped."""
    cell = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(board, n) for board in (cell, cell.T) for n in range(4)]
    return np.stack(turned).reshape(8, -1)


def side(state: State) -> int:
    """Rows of the board."""
    return round(state.own.shape[-1] ** 0.5)


def legal(state: State) -> Array:
    """[..., cells], where a stone may be put; nowhere after the end."""
    taken = state.own + state.other + state.brick
    return (taken == 0) & ~state.ended[..., None]


def moved(state: State, action: Array) -> tuple[State, Array]:
    """After a stone on a cell [...]: the position, and whether it won the game.

    After the end nothing changes.
    """
    size, going = side(state), ~state.ended
    stone = jax.nn.one_hot(action, size * size, dtype=state.own.dtype)
    own = state.own + stone * going[..., None]
    won = going & (own @ inside(size)[0] == ROW).any(axis=-1)
    full = (own + state.other + state.brick).sum(axis=-1) == size * size
    return State(state.other, own, state.brick, state.ended | won | full), won


@dataclasses.dataclass(frozen=True)
class Brick:
    """The game as an environment: the reward is 1 for a move that wins, else 0.

    Args:
      size: rows of the board.
      bricks: cells of which one gets the brick, at random.
    """

    size: int
    bricks: tuple[int, ...]

    def reset(self, key: Array) -> State:
        """An empty board with its brick."""
        return begin(self.size, jax.random.choice(key, jnp.array(self.bricks)))

    def step(self, state: State, action: Array, key: Array) -> tuple[State, Array, Array]:
        """The position that the other player finds, the reward and whether the game is over."""
        state, won = moved(state, action)
        return state, won.astype(jnp.float32), state.ended

    def observe(self, state: State) -> Array:
        """[..., 3 * cells]: own stones, those of the other player, the brick."""
        return observed(state)


def begin(size: int, brick: Array) -> State:
    """Empty boards with bricks on cells [...]."""
    brick = jax.nn.one_hot(brick, size * size, dtype=jnp.float32)
    return State(
        jnp.zeros_like(brick), jnp.zeros_like(brick), brick, jnp.zeros(brick.shape[:-1], bool)
    )


def observed(state: State) -> Array:
    """[..., 3 * cells]: own stones, those of the other player, the brick."""
    return jnp.concatenate([state.own, state.other, state.brick], axis=-1)


class Counts(NamedTuple):
    """Stones in each line, [..., lines] each, and which player moves next.

    Attributes:
      own: of who moves next.
      other: of the other player.
      ends: on the two end cells of a line.
      free: whether no brick is in it.
      first: [...], whether who moves next began the game.
    """

    own: Array
    other: Array
    ends: Array
    free: Array
    first: Array


def counts(state: State) -> Counts:
    """Stones in each line."""
    cells, ends = inside(side(state))
    taken = state.own + state.other
    first = state.own.sum(axis=-1) == state.other.sum(axis=-1)
    return Counts(
        state.own @ cells, state.other @ cells, taken @ ends, state.brick @ cells == 0, first
    )


def heuristic(count: Counts) -> Array:
    """[...], int32: the value of a position for who moves next, in units, exact.

    Each line that holds stones of one player and no brick is worth 1 / 100^(its empty cells), for
    the player who began 1.5 times as much, and twice as much where both of its ends are empty.
    """
    power = jnp.array(POWER, jnp.int32)
    factor = jnp.where(count.first, 3, 2)[..., None]
    index = lambda stones: power[stones.astype(jnp.int32)]
    own = jnp.where(count.other == 0, factor * index(count.own), 0)
    other = jnp.where(count.own == 0, (5 - factor) * index(count.other), 0)
    bonus = jnp.where(count.ends == 0, 2, 1) * count.free
    return (bonus * (own - other)).sum(axis=-1)
