"""What a search gives: the model found, and everything that was tried."""

import dataclasses
from typing import Any, Generic

import numpy as np

from jsparse._surgery import Model


@dataclasses.dataclass(frozen=True)
class Tried:
    """Everything that was tried, one row each, in order.

    Attributes:
      layers: names of the layers.
      densities: [rows, layers], the fraction of units kept.
      score: [rows].
      cost: [rows].
      by: what proposed each: "dense", a control ("uniform", "global", "erk"), the method, or
        "final" for candidates scored again with more recovery.
      budget: of the search; rows of its first stages cost more.
    """

    layers: tuple[str, ...]
    densities: np.ndarray
    score: np.ndarray
    cost: np.ndarray
    by: tuple[str, ...]
    budget: float

    def front(self) -> np.ndarray:
        """Rows that no other beats, being better in cost or score and as good in the other.

        Returns:
          Their indices, in order of cost.

        Example:
          >>> rows = np.array([[0.5], [0.2], [0.3]])
          >>> cost, score = np.array([5.0, 2.0, 3.0]), np.array([0.9, 0.8, 0.7])
          >>> Tried(("fc/kernel",), rows, score, cost, ("random",) * 3, 4.0).front().tolist()
          [1, 0]
        """
        order = np.lexsort((-self.score, self.cost))
        best = np.maximum.accumulate(np.concatenate([[-np.inf], self.score[order][:-1]]))
        return order[self.score[order] > best]


@dataclasses.dataclass(frozen=True)
class Found(Generic[Model]):
    """The best model within the budget.

    Attributes:
      model: with its masks stored under `Held`, after the recovery with which it was scored.
      densities: fraction of units kept in each layer, by name; for single weights
        `by_layer(lambda shapes, density: found.densities)` gives them to any pruning method.
      score: of the model.
      cost: of the model, at most the budget.
      tried: everything that was tried.
    """

    model: Model
    densities: dict[str, float]
    score: float
    cost: float
    tried: Tried


class SearchStopped(ValueError):
    """A search that ended early: one of its functions failed, or nothing meets the budget.

    Attributes:
      tried: everything that was tried until then; with `keep=Folder(...)` it is stored as well, and
        the same call continues from there.
    """

    def __init__(self, message: str, tried: Tried):
        super().__init__(message)
        self.tried = tried

    def __reduce__(self) -> tuple[Any, tuple]:
        return type(self), (str(self), self.tried)
