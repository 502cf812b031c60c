"""How candidates are proposed: at random, or by the cross-entropy method.

A proposal is a logit for each layer, whose sigmoid is the density before projection. `Lagrangian`
is in its own file.
"""

import dataclasses
from collections.abc import Generator
from typing import NamedTuple, Protocol

import numpy as np
from jax import Array

from jsparse._random import numpy_generator
from jsparse._values import check_in, check_whole
from jsparse.prune._search.layers import Layers


class Outcome(NamedTuple):
    """The results of a population.

    Attributes:
      densities: after projection onto the limit, [n, L].
      score: [n].
      excess: log(cost / limit) of the proposals, before projection, [n].
    """

    densities: np.ndarray
    score: np.ndarray
    excess: np.ndarray


class Method(Protocol):
    """Proposes candidates.

    Attributes:
      population: candidates that are scored together.
    """

    @property
    def population(self) -> int: ...

    def limits(self, dense: float, budget: float) -> tuple[float, ...]:
        """The limits on the cost, from that of the first stage to the budget."""
        ...

    def propose(self, layers: Layers, key: Array) -> Generator[np.ndarray, Outcome, None]:
        """Yields densities in (0, 1), [population, L], and is sent their results."""
        ...


def tightening(factor: float, dense: float, budget: float) -> tuple[float, ...]:
    """Half the dense cost, then each time a factor of the last, down to the budget."""
    limits = []
    limit = 0.5 * dense
    while limit > budget:
        limits.append(limit)
        limit *= factor
    return (*limits, budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Densities drawn log-uniformly from [least, 1], layer by layer.

    With few layers it is as good as the methods that learn.

    Args:
      population: candidates that are scored together.
      least: lowest density drawn, in (0, 1).

    Raises:
      ValueError: a setting is out of range.
    """

    population: int = 32
    least: float = 0.01

    def __post_init__(self) -> None:
        check_whole(population=self.population)
        check_in("(0, 1)", least=self.least)

    def limits(self, dense: float, budget: float) -> tuple[float, ...]:
        return (budget,)

    def propose(self, layers: Layers, key: Array) -> Generator[np.ndarray, Outcome, None]:
        rng = numpy_generator(key)
        while True:
            shape = (self.population, len(layers.names))
            yield np.exp(rng.uniform(np.log(self.least), 0.0, shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """A normal distribution of the logits of densities, moved toward the best of a population.

    1. Draw logits, project and score the densities.
    2. Move mean and deviation toward those of the elite, as it is after projection.

    Args:
      population: candidates that are scored together, 2 or more.
      elite: fraction of them that counts as the best, in (0, 1).
      rate: how far mean and deviation move, in (0, 1].
      spread: deviation at the start.
      floor: lowest deviation.
      tighten: factor between the limits of two stages, in (0, 1).

    Raises:
      ValueError: a setting is out of range.

    Reference: Rubinstein and Kroese, The cross-entropy method, 2004.
    """

    population: int = 32
    elite: float = 0.25
    rate: float = 0.5
    spread: float = 1.5
    floor: float = 0.2
    tighten: float = 0.7

    def __post_init__(self) -> None:
        check_whole(2, population=self.population)
        check_in("(0, 1)", elite=self.elite, tighten=self.tighten)
        check_in("(0, 1]", rate=self.rate)
        check_in("(0, inf)", spread=self.spread, floor=self.floor)

    def limits(self, dense: float, budget: float) -> tuple[float, ...]:
        return tightening(self.tighten, dense, budget)

    def propose(self, layers: Layers, key: Array) -> Generator[np.ndarray, Outcome, None]:
        rng = numpy_generator(key)
        mean = np.zeros(len(layers.names))
        spread = np.full(len(mean), self.spread)
        while True:
            drawn = mean + spread * rng.standard_normal((self.population, len(mean)))
            outcome = yield sigmoid(drawn)
            best = np.argsort(-outcome.score, kind="stable")[
                : max(2, round(self.elite * len(drawn)))
            ]
            logits = logit(outcome.densities[best])
            mean = mean + self.rate * (logits.mean(axis=0) - mean)
            spread = spread + self.rate * (logits.std(axis=0) - spread)
            spread = np.maximum(spread, self.floor)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), cut to (1e-6, 1 - 1e-6)."""
    return np.clip(1 / (1 + np.exp(-np.clip(x, -40, 40))), 1e-6, 1 - 1e-6)


def logit(density: np.ndarray) -> np.ndarray:
    """The inverse of `sigmoid`; a dense layer has 4."""
    return np.clip(np.log(density) - np.log1p(-np.minimum(density, 1 - 1e-6)), -14.0, 4.0)
