"""The contest of candidates: controls, populations in stages, halving among the best."""

import itertools
import math
import warnings
from typing import Any

import numpy as np
from jax import Array

from jsparse.prune._search.fit import TINY, Fit
from jsparse.prune._search.found import Found
from jsparse.prune._search.methods import Method, Outcome
from jsparse.prune._search.trials import Trials

FINALISTS = 8
"""Half of them are left after each round: this takes 14 scores."""
FEW = 0.05
"""The share of candidates with different scores below which there is no signal."""
LINE = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""Densities at which a traced cost must decrease."""


def contest(
    trials: Trials, method: Method, evaluations: int, key: Array, *, recovers: bool, traced: bool
) -> Found[Any]:
    """Run the controls, the populations and the final, with so many evaluations of the score.

    `recovers` says that candidates are recovered before they are scored, `traced` that the cost is
    exact and quick.
    """
    times, dense = int(recovers), trials.layers.alive.astype(np.int32)[None]
    fit = _checked(trials, dense, traced)
    trials.scores(dense, ["dense"], times)
    if fit.dense <= trials.budget:
        return _found(trials, dense[0], times)
    layers = trials.layers
    controls = {
        "uniform": lambda density: layers.counts(np.full(len(layers.names), density)),
        "global": layers.globally,
        "erk": layers.erdos_renyi,
    }
    fitted = [fit.single(family, trials.budget) for family in controls.values()]
    trials.scores(np.stack(fitted), list(controls), times)
    final = 2 * FINALISTS - 2 if recovers and evaluations > 4 * FINALISTS else 0
    _populations(trials, fit, method, evaluations - len(controls) - 1 - final, times, key)
    _warn_of_silence(trials)
    counts = _best(trials, FINALISTS if final else 1, fitted)
    while len(counts) > 1:
        times *= 2
        scores = trials.scores(counts, ["final"] * len(counts), times)
        order = np.argsort(-scores, kind="stable")
        counts = counts[order[: math.ceil(len(counts) / 2)]]
    return _found(trials, counts[0], times)


def _checked(trials: Trials, dense: np.ndarray, traced: bool) -> Fit:
    """The projection, if the budget can be met by a cost that decreases as units are removed."""
    line = [trials.layers.counts(np.full((1, dense.size), one)) for one in LINE] if traced else []
    names = ["the model as given", *(f"density {one:g}" for one in LINE[: len(line)])]
    candidates = np.concatenate([dense, *line, np.ones_like(dense)])
    costs = trials.costs(candidates)
    for at, (before, after) in enumerate(itertools.pairwise(costs)):
        if after > before * (1 + 1e-6):
            advice = "pass what is to be low, such as jsparse.prune.costs.parameters"
            if not traced:
                advice += "; where it is measured, measure the form that gets faster as units are "
                advice += "removed, such as costs.latency(x, form=...)"
            then = [*names, "one unit in each layer"][at : at + 2]
            raise ValueError(
                f"cost must fall as units are removed, but rises from {before:g} ({then[0]}) to "
                f"{after:g} ({then[1]}); {advice}"
            )
    least, whole = float(costs[-1]), float(costs[0])
    if least > trials.budget:
        raise ValueError(
            f"nothing meets the budget {trials.budget:g}: the smallest cost seen, with one unit in "
            f"each layer, is {least:g}, and that of the model as given {whole:g}; pass a budget in "
            "the unit of the cost, or put more weights under Held"
        )
    steps, slack = (16, 0.004) if traced else (6, 0.05)
    return Fit(trials.layers, trials.costs, least, whole, steps, slack)


def _populations(
    trials: Trials, fit: Fit, method: Method, count: int, times: int, key: Array
) -> None:
    """Score what the method proposes: the limit falls in the first half, and then is the budget."""
    limits = method.limits(fit.dense, trials.budget)
    total = math.ceil(count / method.population)
    by, size = type(method).__name__.lower(), len(trials.layers.names)
    proposals = method.propose(trials.layers, key)
    densities = next(proposals)
    for n in range(total):
        last = len(limits) - 1
        stage = n * last // (total // 2) if n < total // 2 else last
        if np.shape(densities) != (method.population, size):
            raise ValueError(
                f"method proposed densities of shape {np.shape(densities)}; it must be "
                f"{(method.population, size)}, one density per layer"
            )
        some = densities[: count - n * method.population]
        counts, proposed = fit.scaled(some, limits[stage])
        scores = trials.scores(counts, [by] * len(some), times)
        excess = np.log(np.maximum(proposed, TINY) / limits[stage])
        if n + 1 < total:
            found = trials.layers.densities(counts)
            densities = proposals.send(Outcome(found, scores, excess))


def _best(trials: Trials, number: int, controls: list[np.ndarray]) -> np.ndarray:
    """The highest scores within the budget, [number, L]; a final includes the controls."""
    tried = trials.tried()
    order = np.argsort(-tried.score, kind="stable")
    names = [trials.table[n][0] for n in order if tried.cost[n] <= trials.budget]
    first = [tuple(one.tolist()) for one in controls] if number > 1 else []
    return np.array(list(dict.fromkeys([*first, *names]))[:number], np.int32)


def _warn_of_silence(trials: Trials) -> None:
    """Warn where nearly all candidates score the same."""
    tried = trials.tried()
    fits = tried.cost <= trials.budget
    different = len({row[0] for row, fit in zip(trials.table, fits, strict=True) if fit})
    values = len(np.unique(tried.score[fits]))
    if different >= 20 and values < max(2, FEW * different):
        warnings.warn(
            f"the {different} candidates within the budget have only {values} different scores, so "
            "the search had no signal; score by a loss instead of an accuracy, raise the budget, "
            "or pass recover=",
            stacklevel=4,
        )


def _found(trials: Trials, counts: np.ndarray, times: int) -> Found[Any]:
    name, layers = tuple(counts.tolist()), trials.layers
    return Found(
        model=trials.judge.model(counts, times),
        densities=dict(zip(layers.names, layers.densities(counts).tolist(), strict=True)),
        score=trials.score[name, times],
        cost=trials.cost[name],
        tried=trials.tried(),
    )
