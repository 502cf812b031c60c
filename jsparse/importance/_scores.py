"""What the units of a model are worth, and their order."""

import itertools
from collections.abc import Mapping

import numpy as np
from flax import nnx

from jsparse._pattern import Scope, WholeModel
from jsparse._values import shown
from jsparse.export._shrinking.groups import UnitGroup
from jsparse.importance._members import Importance

Scores = dict[int, np.ndarray]


def scored(importance: Importance, model: nnx.Module, groups: Mapping[int, UnitGroup]) -> Scores:
    """What each unit of each group is worth, as numbers that can be compared.

    Raises:
      ValueError: the function gives scores of another shape, or NaN.
    """
    found = importance(model, list(groups.values()))
    scores = {}
    if not isinstance(found, list | tuple) or len(found) != len(groups):
        raise ValueError(
            f"importance must give a list of scores, one array for each of {len(groups)} groups; "
            f"got {shown(found)}"
        )
    for (n, group), one in zip(groups.items(), found, strict=True):
        score = np.asarray(one, np.float64)
        if score.shape != (group.width,):
            raise ValueError(
                f"importance must give {group.width} scores for {group.name}; got {shown(score)}"
            )
        if np.isnan(score).any():
            raise ValueError(
                f"the scores of {group.name} are NaN; look for NaN in the weights, or in the loss"
            )
        scores[n] = score
    return scores


def ranked(scores: Scores, scope: Scope) -> Scores:
    """The rank of each unit among all of its scope, in (0, 1): of n, the k-th is at (k + 1/2) / n.

    Example:
      >>> ranked({0: np.array([3.0, 1.0]), 1: np.array([np.inf, 2.0])}, Whole())
      {0: array([0.75, 0.25]), 1: array([ inf, 0.25])}
    """
    sizes = np.cumsum([0, *map(len, scores.values())])
    flat = np.concatenate([*scores.values(), np.zeros(0)])
    parts = list(itertools.pairwise(sizes))
    places = np.zeros(len(flat))
    everyone = [(0, len(flat))] if isinstance(scope, WholeModel) else []
    for start, end in [*parts, *everyone]:  # of equals, those lowest in their own group
        rank = np.argsort(np.lexsort((places[start:end], flat[start:end])), kind="stable")
        places[start:end] = (rank + 0.5) / max(end - start, 1)
    places = np.where(np.isposinf(flat), np.inf, places)
    return {n: places[start:end] for n, (start, end) in zip(scores, parts, strict=True)}
