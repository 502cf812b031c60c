"""From the weights of a group to one score for each of its units, and from scores to an order."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._pattern import Scope, WholeModel
from jsparse._pure import taken_apart
from jsparse._values import check_function, shown
from jsparse.export._shrinking.groups import UnitAxis, UnitGroup
from jsparse.export._shrinking.uses import Use

Statistic = Callable[..., Any]
"""numpy.sum, numpy.mean or numpy.max."""
Scores = dict[int, np.ndarray]
"""Of the units of each group, by its number."""


class Importance(Protocol):
    """What each unit of a group is worth: an entry of `jsparse.importance`, or a function."""

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """The scores of the units of each group, [units]; high = kept, inf = never removed.

        Args:
          model: without rules.
          groups: whose units compete.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """How the scores of coupled weights are combined.

    Args:
      reduce: of the scores of a unit in each weight: numpy.sum, numpy.mean or numpy.max.
      scale: the scores of a group are divided by it, so that groups compare: numpy.mean, numpy.max
        or None to leave them as they are.
    """

    reduce: Statistic = dataclasses.field(default_factory=lambda: np.sum)
    scale: Statistic | None = dataclasses.field(default_factory=lambda: np.mean)

    def __post_init__(self) -> None:
        check_function(reduce=self.reduce)
        if self.scale is not None:
            check_function(scale=self.scale)

    def __call__(self, scores: Sequence[np.ndarray], width: int) -> np.ndarray:
        """One score for each unit, [units]: inf where no weight has any."""
        if not scores:
            return np.full(width, np.inf)
        total = np.asarray(self.reduce(np.stack(scores), axis=0), np.float64)
        size = float(self.scale(total)) if self.scale is not None else 1.0
        return total / size if size > 0 else total


def arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """The variables of a model by path, in double precision where they are numbers."""
    _, variables, _ = taken_apart(model)
    numbers = {p: a for p, a in variables.items() if jnp.issubdtype(a.dtype, jnp.inexact)}
    kind = lambda leaf: np.complex128 if jnp.iscomplexobj(leaf) else np.float64
    return {path: np.asarray(leaf, kind(leaf)) for path, leaf in numbers.items()}


def weighs(member: UnitAxis, weight: Any) -> bool:
    """Whether it is a weight of units, not a bias or a statistic."""
    return len(weight.shape) > 1 or Use.SCALES in member.use


def summed(array: np.ndarray, member: UnitAxis, width: int) -> np.ndarray:
    """The sum over what belongs to each unit: [units], of an array like the weight."""
    rest = tuple(k for k in range(array.ndim) if k != member.axis)
    there = member.units >= 0
    along = array.sum(axis=rest)
    return np.bincount(member.units[there], weights=along[there], minlength=width)


def rows(array: np.ndarray, member: UnitAxis, width: int) -> np.ndarray:
    """What belongs to each unit, one after another: [units, entries], ragged ends with zeros."""
    flat = np.moveaxis(array, member.axis, 0).reshape(array.shape[member.axis], -1)
    own = [flat[member.units == n].ravel() for n in range(width)]
    made = np.zeros((width, max(map(len, own))), array.dtype)
    for n, row in enumerate(own):
        made[n, : len(row)] = row
    return made


def from_weights(
    model: nnx.Module,
    groups: Sequence[UnitGroup],
    score: Callable[[np.ndarray, UnitAxis, int], np.ndarray],
    joined: Joined,
    counts: Callable[[UnitAxis, np.ndarray], bool] = weighs,
) -> list[np.ndarray]:
    """The scores of groups from the weights alone.

    `score` is of a weight [...], an axis of it and the number of units: [units]. `counts` says
    which weights have one.
    """
    weights, scores = arrays(model), []
    for group in groups:
        own = [(m, weights[m.path]) for m in group.members if m.path in weights]
        each = [score(weight, m, group.width) for m, weight in own if counts(m, weight)]
        scores.append(joined(each, group.width))
    return scores


def scored(importance: Importance, model: nnx.Module, groups: Mapping[int, UnitGroup]) -> Scores:
    """What each unit of each group is worth; scores of another shape, or NaN, are refused."""
    with np.errstate(invalid="ignore"):  # NaN is refused below
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
        if bad := int(np.isnan(score).sum()):
            raise ValueError(
                f"{bad} of {len(score)} scores of {group.name} are NaN{_not_finite(model, group)}"
            )
        scores[n] = score
    return scores


def _not_finite(model: nnx.Module, group: UnitGroup) -> str:
    """Which weights of a group explain that its scores are NaN."""
    weights = arrays(model)
    own = {member.path: weights[member.path] for member in group.members if member.path in weights}
    found = [
        f"{int(odd.sum())} of {odd.size} entries of {path} are {kind}"
        for path, weight in own.items()
        for kind, odd in (("NaN", np.isnan(weight)), ("infinite", np.isinf(weight)))
        if odd.any()
    ]
    if found:
        return f": {', '.join(found)}; give finite weights"
    return (
        ", and its weights are finite; look for NaN in the loss or its batches, or give inf for a "
        "unit that must stay"
    )


def ranked(scores: Scores, scope: Scope) -> Scores:
    """The rank of each unit among all of its scope, in (0, 1): (k + 1/2) / n for the k-th of n.

    Example:
      >>> from jsparse import Whole
      >>> ranked({0: np.array([3.0, 1.0]), 1: np.array([np.inf, 2.0])}, Whole())
      {0: array([0.75, 0.25]), 1: array([ inf, 0.25])}
    """
    sizes = np.cumsum([0, *map(len, scores.values())])
    flat = np.concatenate([*scores.values(), np.zeros(0)])
    parts = list(itertools.pairwise(sizes))
    places = np.zeros(len(flat))
    everyone = [(0, len(flat))] if isinstance(scope, WholeModel) else []
    for start, end in [*parts, *everyone]:  # ties go by the rank in their own group
        rank = np.argsort(np.lexsort((places[start:end], flat[start:end])), kind="stable")
        places[start:end] = (rank + 0.5) / max(end - start, 1)
    places = np.where(np.isposinf(flat), np.inf, places)
    return {n: places[start:end] for n, (start, end) in zip(scores, parts, strict=True)}
