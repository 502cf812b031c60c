"""What an agent remembers."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Transitions, [..., n, size]; reward and going are [..., n]; going is 0 at a task's end."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    following: np.ndarray
    going: np.ndarray


class Replay:
    """The most recent transitions, in float32; `observed` and `actions` count their numbers."""

    def __init__(self, capacity: int, observed: int, actions: int):
        sizes = ((observed,), (actions,), (), (observed,), ())
        self.rows = Batch(*(np.zeros((capacity, *size), np.float32) for size in sizes))
        self.added = 0

    @property
    def filled(self) -> int:
        """Transitions held."""
        return min(self.added, len(self.rows.reward))

    def add(self, *transition: np.ndarray | float) -> None:
        """Remember a transition, in the order of `Batch`; the oldest is dropped when full."""
        place = self.added % len(self.rows.reward)
        for column, value in zip(self.rows, transition, strict=True):
            column[place] = value
        self.added += 1

    def sample(self, random: np.random.Generator, *shape: int) -> Batch:
        """Transitions drawn with replacement, [*shape, size]."""
        rows = random.integers(self.filled, size=shape)
        return Batch(*(column[rows] for column in self.rows))

    def restore(self, rows: Batch, added: int) -> None:
        """Take what another replay of the same size held."""
        self.rows, self.added = Batch(*(np.array(column) for column in rows)), added
