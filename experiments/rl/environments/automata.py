"""Properties of infinite words as limit-deterministic Büchi automata, built from their shape.

A letter is the name of what a cell holds; the automaton reads that of each cell entered, not that
of the start. A word is accepted where some run meets an accepting state again and again; only a
jump, which reads nothing, leaves a choice. The trap has no number: a move there is `TRAP`.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

TRAP = -1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Automaton:
    """A property of words; it starts in state 0.

    Attributes:
      property: in linear temporal logic.
      letters: what may be read.
      moves: [states, letters], the state after a letter, or `TRAP`.
      accepting: states.
      jumps: states that may be entered without reading, by the state that is left.
    """

    property: str
    letters: tuple[str, ...]
    moves: np.ndarray
    accepting: frozenset[int]
    jumps: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def _never(avoid: Sequence[str]) -> str:
    return "".join(f" & G !{name}" for name in avoid)


def sequence(
    letters: tuple[str, ...], goals: Sequence[str], avoid: Sequence[str] = ()
) -> Automaton:
    """One goal after another, and never what is to be avoided, also not later.

    State k has seen k goals.
    """
    moves = np.tile(np.arange(len(goals) + 1)[:, None], len(letters))
    for state, goal in enumerate(goals):
        moves[state, letters.index(goal)] = state + 1
    moves[:, [letters.index(name) for name in avoid]] = TRAP
    text = f"F {goals[-1]}"
    for goal in reversed(goals[:-1]):
        text = f"F ({goal} & X {text})"
    final = frozenset({len(goals)})
    return Automaton(property=text + _never(avoid), letters=letters, moves=moves, accepting=final)


def collection(
    letters: tuple[str, ...], goals: Sequence[str], avoid: Sequence[str] = ()
) -> Automaton:
    """All goals in any order, and never what is to be avoided. A state has a bit for each goal."""
    every = 2 ** len(goals)
    moves = np.tile(np.arange(every)[:, None], len(letters))
    for bit, goal in enumerate(goals):
        moves[:, letters.index(goal)] |= 2**bit
    moves[:, [letters.index(name) for name in avoid]] = TRAP
    text = " & ".join(f"F {goal}" for goal in goals) + _never(avoid)
    final = frozenset({every - 1})
    return Automaton(property=text, letters=letters, moves=moves, accepting=final)


def recurrence(letters: tuple[str, ...], goals: Sequence[str]) -> Automaton:
    """All goals again and again.

    State k waits for goal k; the last one, a round done, behaves like state 0.
    """
    rounds = len(goals)
    moves = np.tile(np.arange(rounds + 1)[:, None], len(letters))
    moves[rounds] = 0
    for state, goal in enumerate(goals):
        moves[state, letters.index(goal)] = state + 1
    moves[rounds, letters.index(goals[0])] = 1
    text = " & ".join(f"G F {goal}" for goal in goals)
    final = frozenset({rounds})
    return Automaton(property=text, letters=letters, moves=moves, accepting=final)


def persistence(
    letters: tuple[str, ...], goals: Sequence[str], avoid: Sequence[str] = ()
) -> Automaton:
    """In the end one of the goals for ever, and never what is to be avoided.

    From state 0 a jump to state k claims that from now on only goal k is read.
    """
    moves = np.full((len(goals) + 1, len(letters)), TRAP)
    moves[0] = 0
    moves[0, [letters.index(name) for name in avoid]] = TRAP
    for state, goal in enumerate(goals, 1):
        moves[state, letters.index(goal)] = state
    text = f"({' | '.join(f'F G {goal}' for goal in goals)})" + _never(avoid)
    claims = tuple(range(1, len(goals) + 1))
    return Automaton(
        property=text, letters=letters, moves=moves, accepting=frozenset(claims),
        jumps={0: claims},
    )  # fmt: skip


def remembered(
    letters: tuple[str, ...], length: int, plain: Sequence[str] = ("safe",)
) -> np.ndarray:
    """Moves [states, letters] of a memory of letters, without plain ones and repetitions."""
    marks = [None, *(name for name in letters if name not in plain)]
    states = list(itertools.product(marks, repeat=length))
    place = {state: number for number, state in enumerate(states)}
    same = lambda state, name: name in plain or name == state[-1]
    after = lambda state, name: state if same(state, name) else (*state[1:], name)
    return np.array([[place[after(state, name)] for name in letters] for state in states])
