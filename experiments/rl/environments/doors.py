"""A slippery grid with a wall and two doors, as tables."""

import numpy as np

from experiments.rl.environments.chain import Chain
from experiments.rl.environments.grids import Grid

DISCOUNT = 0.95
NEAR, FAR = (6, 4), (1, 4)
"""The doors, by row and column."""
GRID = Grid(
    shape=(8, 8), start=(7, 0), slip=0.1, stay=False,
    labels={"obstacle": ((0, 1, 4, 5), (2, 6, 4, 5), (7, 8, 4, 5)), "door": (NEAR, FAR),
            "goal": ((7, 7),)},
)  # fmt: skip


def chain() -> Chain:
    """The grid: each step costs 0.05; the goal pays 1 and leads back to the start."""
    to = GRID.moved()
    cells, actions = to.shape
    chance = GRID.slip / actions + (1 - GRID.slip) * np.eye(actions)
    moves = np.zeros((cells, actions, cells))
    for happened in range(actions):
        at = np.arange(cells)[:, None], np.arange(actions)[None], to[:, happened, None]
        np.add.at(moves, at, chance[:, happened])
    start = np.eye(cells)[cell(GRID.start)]
    goal = cell((7, 7))
    moves[goal], reward = start, np.full((cells, actions), -0.05)
    reward[goal] = 1.0
    return Chain(moves, reward, start, DISCOUNT)


def cell(place: tuple[int, int]) -> int:
    """The number of a cell."""
    return place[0] * GRID.shape[1] + place[1]
