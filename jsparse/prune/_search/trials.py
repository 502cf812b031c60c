"""What was evaluated so far: nothing is evaluated twice, not even after a kill."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from jsparse.prune._folder import RoundStore
from jsparse.prune._search.found import Tried
from jsparse.prune._search.judge import Called, Compiled
from jsparse.prune._search.layers import Layers


class Trials:
    """Scores and costs by candidate, and the table of all that was tried.

    After a kill the method draws the same candidates again, and finds their results here.
    """

    def __init__(self, layers: Layers, judge: Compiled | Called, keep: RoundStore, budget: float):
        self.layers, self.judge, self.keep, self.budget = layers, judge, keep, budget
        self.cost: dict[tuple[int, ...], float] = {}
        self.score: dict[tuple[tuple[int, ...], int], float] = {}
        self.table: list[tuple[tuple[int, ...], float, str]] = []
        for row in keep.rows():
            kept = tuple(row["kept"])
            if "cost" in row:
                self.cost[kept] = row["cost"]
            else:
                self.score[kept, row["times"]] = row["score"]

    def costs(self, counts: np.ndarray) -> np.ndarray:
        """The costs of candidates [n, L]: [n]."""
        names = [tuple(one) for one in counts.tolist()]
        found = self.judge.costs(counts[_first(names, self.cost)])
        for name in names:
            if name not in self.cost:
                self.cost[name] = next(found)
                self.keep.add({"kept": name, "cost": self.cost[name]})
        return np.array([self.cost[name] for name in names], np.float64)

    def scores(self, counts: np.ndarray, by: Sequence[str], times: int) -> np.ndarray:
        """The scores of candidates [n, L] after so many recoveries: [n]; each is a table row."""
        names = [(tuple(one), times) for one in counts.tolist()]
        found = self.judge.scores(counts[_first(names, self.score)], times)
        for name, who in zip(names, by, strict=True):
            if name not in self.score:
                self.score[name] = next(found)
                self.keep.add({"kept": name[0], "times": times, "score": self.score[name]})
            self.table.append((name[0], self.score[name], who))
        return np.array([self.score[name] for name in names], np.float64)

    def tried(self) -> Tried:
        """The table so far."""
        kept = np.array([row[0] for row in self.table], np.int64)
        kept = kept.reshape(len(self.table), len(self.layers.names))
        return Tried(
            self.layers.names,
            self.layers.densities(kept),
            np.array([row[1] for row in self.table]),
            np.array([self.cost[row[0]] for row in self.table]),
            tuple(row[2] for row in self.table),
            self.budget,
        )


def _first(names: Sequence[Hashable], known: Mapping[Any, float]) -> list[int]:
    """The first place of each unknown name."""
    first: dict[Hashable, int] = {}
    for n, name in enumerate(names):
        if name not in known:
            first.setdefault(name, n)
    return list(first.values())
