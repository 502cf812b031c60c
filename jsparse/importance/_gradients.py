"""How the loss changes with units, from its gradients on batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._pure import calling, evaluated, taken_apart
from jsparse._values import check_batches, check_function, check_is, each_batch
from jsparse.export._shrinking.groups import UnitAxis, UnitGroup
from jsparse.importance._members import Joined, weighs

Loss = Callable[[Any, Any], Array]
"""loss(model, batch) -> [], the mean over the batch."""
Slope = Callable[[Any], dict[str, Array]]
"""From a batch to the gradient of its loss by path."""


def check_loss(loss: Any, batches: Any, joined: Any) -> None:
    """Refuse arguments that are not a loss, batches or a Joined."""
    check_function(loss=loss)
    check_batches(batches)
    check_is(Joined, "a Joined", joined=joined)


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
      score: function of the gradient as a function, the weights by path and the batch.

    Yields:
      What `score` returns, as NumPy arrays.
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
    """How the loss changes with a factor on a unit, for each weight of each group: [units].

    It is the sum over s of w_s dL/dw_s, s being the entries of the unit in that weight, real and
    imaginary parts apart.

    Args:
      slopes: dL/dw by path, [...] like the weight.
      weights: by path.
      groups: of units.
    """
    return [
        [
            _by_unit(jnp.real(weights[m.path] * slopes[m.path]), m, group.width)
            for m in group.members
            if m.path in weights and weighs(m, weights[m.path])
        ]
        for group in groups
    ]


def _by_unit(product: Array, member: UnitAxis, width: int) -> Array:
    """The sum over the entries of each unit: [...] like the weight -> [units]."""
    along = product.sum(tuple(k for k in range(product.ndim) if k != member.axis))
    there = np.flatnonzero(member.units >= 0)
    return jnp.zeros(width, along.dtype).at[member.units[there]].add(along[there])


def over_batches(
    found: Iterable[list[list[np.ndarray]]], groups: Sequence[UnitGroup], joined: Joined
) -> list[np.ndarray]:
    """The mean over batches of scores, joined over the weights of each group: [units] each.

    Args:
      found: for each batch, group and weight, scores [units].
      groups: of units.
      joined: how.
    """
    each = list(found)
    means = [
        [np.mean([np.asarray(b[g][m], np.float64) for b in each], axis=0) for m in range(len(own))]
        for g, own in enumerate(each[0])
    ]
    return [joined(own, group.width) for own, group in zip(means, groups, strict=True)]
