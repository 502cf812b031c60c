"""The outcome of games: counts of wins, draws and losses, by test and seat, and claims about
them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OPPONENT, SEATS = "minimax", ("first", "second")
"""The opponent by which networks are measured, and the brick's place."""
USUAL = 16
"""Simulations per move of a network by default; otherwise its name says how many."""
Rows = Sequence[Mapping[str, Any]]
"""Games of pairs: `first`, `second`, and `found`, the counts of the first one in each test."""


def not_lost(found: dict[str, dict], test: str, seats: tuple[str, ...] = SEATS) -> float:
    """Fraction of the games against minimax that are not lost."""
    both = np.sum([found[seat][test] for seat in seats], axis=0)
    return float(1 - both[2] / both.sum())


def score(count: list[int]) -> float:
    """Mean outcome, in [-1, 1]."""
    return (count[0] - count[2]) / sum(count)


def counts(rows: Rows, player: tuple[str, int], test: str) -> list[list[int]]:
    """Wins, draws and losses of a network with some simulations against minimax, by seat."""
    name = player[0] if player[1] == USUAL else f"{player[0]}, {player[1]} simulations"
    seats = {(row["first"], row["second"]): row["found"][test] for row in rows}
    return [seats[name, OPPONENT], seats[OPPONENT, name][::-1]]


def scores(rows: Rows, name: str, test: str) -> float:
    """Mean outcome of a player against all others, in both seats."""
    own = [row for row in rows if "simulations" not in row["first"] + row["second"]]
    won = [score(row["found"][test]) for row in own if row["first"] == name]
    lost = [score(row["found"][test]) for row in own if row["second"] == name]
    return float(np.mean([*won, *(-one for one in lost)]))


def equal(dense: dict, sparse: dict) -> tuple[float, float, float]:
    """Strength at home that both networks reach, and what dense and sparse do not lose elsewhere.

    Each at the first mark at which it is that strong.
    """
    home, shifted = (
        [[not_lost(row, test) for row in found["rows"]] for found in (dense, sparse)]
        for test in ("home", "shifted")
    )
    level = min(max(one) for one in home)
    when = [int(np.argmax(np.array(one) >= level)) for one in home]
    return level, shifted[0][when[0]], shifted[1][when[1]]
