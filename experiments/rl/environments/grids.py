"""Slippery grids with labels, and their product with an automaton, as tables.

A move that would leave the grid stays; an obstacle sends back. A chosen move slips with some
probability and is then drawn among all, itself included. Sizes, starts, slips and labels are the
published ones (LCRL, Hasanbeig, Kroening and Abate, QEST 2022, and its code).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from experiments.rl.environments import automata
from experiments.rl.environments.automata import TRAP, Automaton

Boxes = tuple[tuple[int, ...], ...]
"""Cells (row, column), and boxes (first row, row after the last, first column, column after it)."""
STEPS = ((0, 1), (-1, 0), (0, -1), (1, 0), (0, 0))
"""Right, up, left, down, stay: rows and columns."""


def box(given: tuple[int, ...]) -> tuple[int, ...]:
    """A cell or a box as a box."""
    return given if len(given) == 4 else (given[0], given[0] + 1, given[1], given[1] + 1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """A grid of cells, each with one label.

    Attributes:
      shape: rows and columns.
      start: row and column.
      slip: the probability that a move is redrawn.
      labels: where what is; everything else is "safe". Later ones overwrite earlier ones.
      sinks: cells that are never left.
      stay: whether staying is a move.
    """

    shape: tuple[int, int]
    start: tuple[int, int]
    slip: float
    labels: Mapping[str, Boxes]
    sinks: Boxes = ()
    stay: bool = True

    @property
    def letters(self) -> tuple[str, ...]:
        """Labels that can be read."""
        return ("safe", *(name for name in self.labels if name != "obstacle"))

    def cells(self, boxes: Boxes) -> np.ndarray:
        """[rows, columns], true inside of the boxes."""
        inside = np.zeros(self.shape, bool)
        for top, bottom, left, right in map(box, boxes):
            inside[top:bottom, left:right] = True
        return inside

    def read(self) -> np.ndarray:
        """[cells], the number of each cell's letter."""
        letter = np.zeros(self.shape, int)
        for name in self.letters[1:]:
            letter[self.cells(self.labels[name])] = self.letters.index(name)
        return letter.reshape(-1)

    def moved(self) -> np.ndarray:
        """[cells, moves], the cell that a move leads to."""
        row, column = np.indices(self.shape)
        blocked, sinks = self.cells(self.labels.get("obstacle", ())), self.cells(self.sinks)
        found = []
        for down, right in STEPS if self.stay else STEPS[:-1]:
            to = (np.clip(row + down, 0, self.shape[0] - 1),
                  np.clip(column + right, 0, self.shape[1] - 1))  # fmt: skip
            halt = blocked[to] | sinks
            found.append(np.where(halt, row, to[0]) * self.shape[1] + np.where(halt, column, to[1]))
        return np.stack(found, axis=-1).reshape(-1, len(found))


class Product(NamedTuple):
    """A grid with an automaton: a state is a cell and a state of the automaton.

    An action is a move or, after the moves, a jump of the automaton, which neither slips nor
    accepts. An episode ends, where an accepting state is entered by a move, with reward 1; and in
    the trap with 0.

    Attributes:
      nexts: [states, actions], the state that an action leads to when it does not slip.
      accepted: [states, actions], whether an accepting state is entered so.
      ended: [states, actions], whether the episode ends so.
      allowed: [states, actions], false for jumps that a state does not have.
      seen: [states], the number of what the agent sees: state and cell, unless it sees less.
      start: the first state.
      moves: how many actions are moves.
      slip: the probability that a move is redrawn.
    """

    nexts: np.ndarray
    accepted: np.ndarray
    ended: np.ndarray
    allowed: np.ndarray
    seen: np.ndarray
    start: int
    moves: int
    slip: float


def product(grid: Grid, automaton: Automaton, memory: np.ndarray | None = None) -> Product:
    """The product, state q * cells + cell.

    Args:
      grid: the grid.
      automaton: the property, over the letters of the grid.
      memory: [memories, letters], moves of what the agent remembers. It sees the cell and this in
        place of the automaton's state; one memory sees the cell alone.
    """
    cell_to, letter = grid.moved(), grid.read()
    cells, moves = cell_to.shape
    table = automaton.moves
    if memory is not None:  # both run side by side: state q * memories + m
        table = np.where(table[:, None] == TRAP, TRAP, table[:, None] * len(memory) + memory[None])
        table = table.reshape(-1, table.shape[-1])
    held = len(table) // len(automaton.moves)
    jumps = 0 if memory is not None else max(map(len, automaton.jumps.values()), default=0)
    final = np.repeat(np.isin(np.arange(len(automaton.moves)), [*automaton.accepting]), held)
    after = table[:, letter[cell_to]]  # [q, cells, moves]
    nexts = after * cells + cell_to
    accepted = (after != TRAP) & final[after]
    ended = (after == TRAP) | accepted
    wide = lambda array: np.pad(array, ((0, 0), (0, 0), (0, jumps)))
    nexts, accepted, ended = wide(nexts), wide(accepted), wide(ended)
    allowed = wide(np.ones(after.shape, bool))
    for q, targets in automaton.jumps.items() if jumps else ():
        for number, target in enumerate(targets, moves):
            nexts[q, :, number], allowed[q, :, number] = target * cells + np.arange(cells), True
    flat = lambda array: array.reshape(-1, moves + jumps)
    q, cell = np.divmod(np.arange(len(table) * cells), cells)
    return Product(
        nexts=flat(np.where(nexts < 0, 0, nexts)), accepted=flat(accepted), ended=flat(ended),
        allowed=flat(allowed), seen=cell + cells * (q if memory is None else q % held),
        start=grid.start[0] * grid.shape[1] + grid.start[1], moves=moves, slip=grid.slip,
    )  # fmt: skip


LAKE = {"slip": 0.1, "stay": False}
SMALL_LAKE = {"unsafe": ((3, 5, 3, 5),), "goal1": ((4, 6, 7, 9),), "goal2": ((7, 9, 7, 9),),
              "goal3": ((6, 8, 3, 5),), "goal4": ((7, 9, 0, 2),)}  # fmt: skip
MIDDLE_LAKE = {"unsafe": ((4, 8, 9, 13),), "goal1": ((12, 16, 15, 19),),
               "goal2": ((15, 19, 15, 19),), "goal3": ((9, 13, 9, 13),),
               "goal4": ((0, 4, 15, 19),)}  # fmt: skip
LARGE_LAKE = MIDDLE_LAKE | {"goal1": ((20, 28, 31, 39),), "goal2": ((31, 39, 31, 39),),
                            "goal3": ((20, 28, 20, 28),)}  # fmt: skip
GRIDS = {
    "minecraft": Grid(
        shape=(10, 10), start=(9, 2), slip=0,
        labels={
            "obstacle": ((0, 3, 5, 6), (2, 3, 7, 10)),
            "grass": ((0, 0), (4, 5), (8, 1), (8, 7)), "wood": ((2, 2), (7, 3), (5, 7), (9, 9)),
            "iron": ((0, 3), (4, 0), (6, 8), (9, 4)), "work_bench": ((6, 1), (6, 5), (4, 9)),
            "tool_shed": ((2, 4), (9, 0), (7, 7)), "gold": ((0, 7),),
        },
    ),
    "lake 1": Grid(shape=(12, 10), start=(0, 5), labels=SMALL_LAKE, sinks=((4, 7), (5, 8)), **LAKE),
    "lake 2": Grid(
        shape=(20, 20), start=(0, 10), labels=MIDDLE_LAKE, sinks=MIDDLE_LAKE["goal1"], **LAKE
    ),
    "lake 3": Grid(shape=(40, 40), start=(0, 20), labels=LARGE_LAKE, **LAKE),
    "lake 4": Grid(shape=(12, 10), start=(0, 5), labels=SMALL_LAKE, **LAKE),
    "lake 5": Grid(shape=(20, 20), start=(0, 10), labels=MIDDLE_LAKE, **LAKE),
    "lake 6": Grid(shape=(40, 40), start=(0, 20), labels=LARGE_LAKE, **LAKE),
    "lake 4x4": Grid(
        shape=(4, 4), start=(0, 0), slip=0.05, stay=False, sinks=((3, 3),),
        labels={"unsafe": ((1, 1), (1, 3), (2, 3), (3, 0)), "goal1": ((0, 3),), "goal2": ((3, 3),)},
    ),
    "lake 8x8": Grid(
        shape=(8, 8), start=(0, 0), slip=0.05, stay=False, sinks=((7, 7),),
        labels={
            "unsafe": ((2, 3), (3, 5), (4, 3), (5, 1), (5, 2), (5, 6), (6, 1), (6, 4), (6, 6),
                       (7, 3)),
            "goal1": ((0, 7),), "goal2": ((7, 7),),
        },
    ),
    "slippery small": Grid(
        shape=(12, 10), start=(2, 0), slip=0.05,
        labels={"goal1": ((5, 7, 8, 10),), "goal2": ((8, 10, 8, 10),), "goal3": ((7, 9, 4, 6),),
                "goal4": ((8, 10, 0, 2),)},
    ),
    "slippery medium": Grid(
        shape=(20, 20), start=(2, 0), slip=0.05,
        labels={name: boxes for name, boxes in MIDDLE_LAKE.items() if name != "unsafe"},
    ),
    "slippery large": Grid(
        shape=(40, 40), start=(2, 0), slip=0.05,
        labels={"goal1": ((20, 28, 31, 39),), "goal2": ((31, 39, 31, 39),),
                "goal3": ((20, 28, 20, 28),), "goal4": ((0, 8, 31, 39),)},
    ),
    "surveillance": Grid(
        shape=(5, 5), start=(1, 0), slip=0.05,
        labels={"obstacle": ((0, 0), (1, 2), (1, 3), (4, 2)), "goal1": ((4, 0),),
                "goal2": ((0, 4),)},
    ),
    "world 1": Grid(
        shape=(40, 40), start=(0, 0), slip=0.15,
        labels={"unsafe": ((25, 33, 7, 15), (7, 15, 25, 33)), "goal1": ((15, 25, 15, 25),),
                "goal2": ((33, 40, 0, 7),)},
    ),
    "world 2": Grid(
        shape=(40, 40), start=(0, 39), slip=0.15,
        labels={"unsafe": ((25, 33, 0, 12), (25, 33, 28, 40)), "goal1": ((0, 8, 0, 8),),
                "goal2": ((33, 40, 0, 40),)},
    ),
    "world 3": Grid(
        shape=(5, 5), start=(2, 0), slip=0.05,
        labels={"obstacle": ((1, 4, 2, 3),), "goal1": ((0, 2, 3, 5),), "goal2": ((3, 5, 3, 5),)},
    ),
}  # fmt: skip
GOALS = ("goal1", "goal2", "goal3", "goal4")
Build = Callable[[tuple[str, ...]], Automaton]


def _in_turn(*goals: str, avoid: tuple[str, ...] = ()) -> Build:
    return lambda letters: automata.sequence(letters, goals, avoid)


UNSAFE = ("unsafe",)
TASKS: dict[str, tuple[str, Build]] = {
    "minecraft 1": ("minecraft", _in_turn("wood", "tool_shed")),
    "minecraft 2": ("minecraft", _in_turn("grass", "tool_shed")),
    "minecraft 3": ("minecraft", _in_turn("wood", "grass", "iron", "tool_shed")),
    "minecraft 4": ("minecraft", _in_turn("wood", "work_bench")),
    "minecraft 5": ("minecraft", _in_turn("grass", "work_bench")),
    "minecraft 6": ("minecraft", _in_turn("iron", "wood", "work_bench")),
    "minecraft 7": ("minecraft", _in_turn("wood", "iron", "work_bench", "gold")),
    **{f"lake {n}": (f"lake {n}", _in_turn("goal1", avoid=UNSAFE)) for n in (1, 2, 3)},
    **{f"lake {n}": (f"lake {n}", _in_turn(*GOALS, avoid=UNSAFE)) for n in (4, 5, 6)},
    **{f"lake {n}": (f"lake {n}", _in_turn(*GOALS[:2], avoid=UNSAFE)) for n in ("4x4", "8x8")},
    **{
        f"slippery {size}, {what}": (f"slippery {size}", _in_turn(*GOALS[:count]))
        for size in ("small", "medium", "large")
        for what, count in (("easy", 1), ("hard", 4))
    },
    "surveillance": ("surveillance", lambda letters: automata.recurrence(letters, GOALS[:2])),
    **{f"world {n}": (f"world {n}", _in_turn(*GOALS[:2], avoid=UNSAFE)) for n in (1, 2)},
    "world 3": ("world 3", lambda letters: automata.persistence(letters, GOALS[:2])),
}
"""The grid and the property of each published task."""


def task(name: str) -> tuple[Grid, Automaton]:
    """The grid and the automaton of a task."""
    grid, build = TASKS[name]
    return GRIDS[grid], build(GRIDS[grid].letters)
