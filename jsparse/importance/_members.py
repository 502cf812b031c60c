"""From the weights of a group to one score for each of its units, and from scores to an order."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._pattern import Scope, WholeModel
from jsparse._pure import calling, evaluated, taken_apart
from jsparse._values import check_batches, check_function, check_is, each_batch, shown
from jsparse.export._shrinking.groups import UnitAxis, UnitGroup
from jsparse.export._shrinking.uses import Use

Statistic = Callable[..., Any]
"""numpy.sum, numpy.mean or numpy.max."""
Scores = dict[int, np.ndarray]
"""Of the units of each group, by its number."""
Loss = Callable[[Any, Any], Array]
"""loss(model, batch) -> [], the mean over the batch."""


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
    """How scores of coupled weights become one.

    Args:
      reduce: of the scores of a unit in each weight: numpy.sum, numpy.mean or numpy.max.
      scale: the scores of a group are divided by it, so that groups compare: numpy.mean, numpy.max
        or None, which leaves them.
    """

    reduce: Statistic = dataclasses.field(default_factory=lambda: np.sum)
    scale: Statistic | None = dataclasses.field(default_factory=lambda: np.mean)

    def __post_init__(self) -> None:
        check_function(
            reduce=self.reduce, **({"scale": self.scale} if self.scale is not None else {})
        )

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


Slope = Callable[[Any], dict[str, Array]]
"""From a batch to the gradient of its loss by path."""


def gradients(
    model: nnx.Module,
    loss: Loss,
    batches: Iterable[Any],
    score: Callable[[Slope, dict[str, Array], Any], Any],
) -> Iterator[Any]:
    """A score of each batch, from the gradients of its loss, compiled once.

    Args:
      model: without rules; in eval mode, so that units behave as they will in use.
      loss: loss(model, batch) -> [].
      batches: one or more, of the same shape.
      score: of the gradient as a function, the weights by path and the batch.
    """
    build, variables, _ = taken_apart(evaluated(model))
    numbers = {p: v for p, v in variables.items() if jnp.issubdtype(v.dtype, jnp.inexact)}
    rest = {path: leaf for path, leaf in variables.items() if path not in numbers}

    def of(numbers: dict[str, Array], rest: dict[str, Any], batch: Any) -> Any:
        slope = jax.grad(lambda values, batch: loss(build(rest | values), batch))
        return score(lambda batch: slope(numbers, batch), numbers, batch)

    compiled = jax.jit(of)
    for batch in each_batch(batches):
        with calling("batches", batch):
            found = compiled(numbers, rest, batch)
        yield jax.tree.map(np.asarray, found)


def gate_slopes(
    slopes: Mapping[str, Array], weights: Mapping[str, Array], groups: Sequence[UnitGroup]
) -> list[list[Array]]:
    """How the loss changes with a factor on all that belongs to a unit: [units] each.

    sum over s of w_s dL/dw_s, over the entries s of the unit, and over real and imaginary parts; of
    each weight of each group.
    """
    return [
        [
            _gate(jnp.real(weights[m.path] * slopes[m.path]), m, group.width)
            for m in group.members
            if m.path in weights and weighs(m, weights[m.path])
        ]
        for group in groups
    ]


def _gate(product: Array, member: UnitAxis, width: int) -> Array:
    along = product.sum(tuple(k for k in range(product.ndim) if k != member.axis))
    there = np.flatnonzero(member.units >= 0)
    return jnp.zeros(width, along.dtype).at[member.units[there]].add(along[there])


def from_weights(
    model: nnx.Module,
    groups: Sequence[UnitGroup],
    score: Callable[[np.ndarray, UnitAxis, int], np.ndarray],
    joined: Joined,
    counts: Callable[[UnitAxis, np.ndarray], bool] = weighs,
) -> list[np.ndarray]:
    """The scores of groups from the weights alone.

    Args:
      model: without rules.
      groups: whose units are scored.
      score: of a weight [...], an axis of it and the number of units: [units].
      joined: how those of coupled weights are taken together.
      counts: which weights have a score.
    """
    weights = arrays(model)
    return [
        joined(
            [
                score(weights[m.path], m, group.width)
                for m in group.members
                if m.path in weights and counts(m, weights[m.path])
            ],
            group.width,
        )
        for group in groups
    ]


def over_batches(
    found: Iterable[list[list[np.ndarray]]], groups: Sequence[UnitGroup], joined: Joined
) -> list[np.ndarray]:
    """The mean over batches of scores of each weight of each group, then joined."""
    each = list(found)
    means = [
        [np.mean([np.asarray(b[g][m], np.float64) for b in each], axis=0) for m in range(len(own))]
        for g, own in enumerate(each[0])
    ]
    return [joined(own, group.width) for own, group in zip(means, groups, strict=True)]


def checked(loss: Any, batches: Any, joined: Any) -> None:
    """Refuse arguments that are not a loss, batches or a Joined."""
    check_function(loss=loss)
    check_batches(batches)
    check_is(Joined, "a Joined", joined=joined)


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
      >>> from jsparse import Whole
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
