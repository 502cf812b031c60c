"""Projection onto a limit: scale a candidate until its cost meets the limit and uses it up.

1. A family maps a number t to a candidate, which keeps more as t grows: densities r exp(t), cut at
   1, for a proposal r.
2. The cost is evaluated at t = 0, and t moves by the secant through the last two points, in
   logarithms, or by halving the bracket where that leads out of it.
3. It ends where the cost is within a small share below the limit. Of all that was evaluated the
   candidate of the highest cost within the limit is taken: a cost that is not monotone gives a
   candidate that uses up less, never one that costs too much.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jsparse.prune._search.layers import Layers

TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Fit:
    """Scales candidates.

    Args:
      cost_of: from candidates, counts [n, L], to their costs [n].
      least: cost of a single unit in each layer.
      dense: cost of the model as it was given.
      steps: evaluations of the cost for each candidate, at most.
      slack: share of the limit that may be left.
    """

    layers: Layers
    cost_of: Callable[[np.ndarray], np.ndarray]
    least: float
    dense: float
    steps: int
    slack: float

    def scaled(self, densities: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """Candidates in proportion to densities above 0, [n, L]; and their costs as proposed."""
        logs = np.log(np.maximum(densities, TINY))
        family = lambda t, which: self.layers.counts(
            np.exp(np.minimum(logs[which] + t[:, None], 0.0))
        )
        low = -(logs + np.log(self.layers.units)).max(axis=1) - 1.0  # where each layer has one unit
        return self._along(family, low, -logs.min(axis=1), np.zeros(len(logs)), limit)

    def single(self, family: Callable[[float], np.ndarray], limit: float) -> np.ndarray:
        """The candidate of a family of the total density, in (0, 1]: [L]."""
        lowest = np.log(1.0 / self.layers.units.sum())
        start = np.clip(np.log(limit / self.dense), lowest, 0.0)
        one = lambda t, _: np.stack([family(float(np.exp(min(each, 0.0)))) for each in t])
        return self._along(one, np.array([lowest]), np.zeros(1), np.array([start]), limit)[0][0]

    def _along(
        self, family: Callable, low: np.ndarray, high: np.ndarray, t: np.ndarray, limit: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search each t in [low, high], from a start on: counts [n, L], costs at the start [n]."""
        n, aim = len(t), -0.5 * self.slack
        counts = np.ones((n, len(self.layers.names)), np.int32)
        costs, proposed = np.full(n, self.least), np.full(n, self.least)
        t, low, high = np.clip(t, low, high), low.copy(), high.copy()
        before_t, before = np.full(n, np.nan), np.full(n, np.nan)
        going = np.arange(n)
        for step in range(self.steps):
            tried = family(t[going], going)
            cost = self.cost_of(tried)
            excess = np.log(np.maximum(cost, TINY) / limit)
            if step == 0:
                proposed = cost.copy()
            fits = cost <= limit
            better = fits & (cost > costs[going]) | fits & (step == 0)
            counts[going[better]], costs[going[better]] = tried[better], cost[better]
            low[going[fits]] = t[going[fits]]
            high[going[~fits]] = t[going[~fits]]
            slope = (excess - before[going]) / (t[going] - before_t[going])
            slope = np.where(np.isfinite(slope) & (slope > 0.05), slope, 1.0)
            before_t[going], before[going] = t[going], excess
            left = ~(fits & (excess >= -self.slack)) & (high - low > 1e-7)[going]
            new = t[going] - (excess - aim) / slope
            inside = (new > low[going]) & (new < high[going]) & (step % 3 < 2)
            t[going] = np.where(inside, new, 0.5 * (low[going] + high[going]))
            going = going[left]
            if not going.size:
                break
        return counts, proposed
