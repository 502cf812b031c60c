"""How the loss changes with units, from its gradients on batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

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
Slopes = list[list[Array]]
"""How the loss changes with a factor on a unit, for each weight of each group: [units].

It is the sum over s of w_s dL/dw_s, s being the entries of the unit in that weight, real and
imaginary parts apart.
"""


@dataclass(frozen=True)
class GradientScore:
    """The mean over batches of a score made of the slopes of the loss of a batch.

    `of_batch` computes it: (function from a batch to its slopes, batch) -> arrays like the slopes.
    """

    loss: Loss
    batches: Iterable[Any] = field(repr=False)
    joined: Joined = field(default_factory=Joined)
    of_batch: ClassVar[Callable[[Callable[[Any], Slopes], Any], Slopes]]

    def __post_init__(self) -> None:
        check_function(loss=self.loss)
        check_batches(self.batches)
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        build, variables, _ = taken_apart(evaluated(model))
        numbers = {p: v for p, v in variables.items() if jnp.issubdtype(v.dtype, jnp.inexact)}
        rest = {path: leaf for path, leaf in variables.items() if path not in numbers}

        def slopes(numbers: dict[str, Array], rest: dict[str, Any], batch: Any) -> Slopes:
            gradients = jax.grad(lambda values: self.loss(build(rest | values), batch))(numbers)
            return [
                [
                    _by_unit(jnp.real(numbers[m.path] * gradients[m.path]), m, group.width)
                    for m in group.members
                    if m.path in numbers and weighs(m, numbers[m.path])
                ]
                for group in groups
            ]

        @jax.jit
        def scored(numbers: dict[str, Array], rest: dict[str, Any], batch: Any) -> Slopes:
            return type(self).of_batch(partial(slopes, numbers, rest), batch)

        each = []
        for batch in each_batch(self.batches):
            with calling("batches", batch):
                each.append(jax.tree.map(np.asarray, scored(numbers, rest, batch)))
        means = jax.tree.map(lambda *own: np.mean(np.asarray(own, np.float64), axis=0), *each)
        return [self.joined(own, group.width) for own, group in zip(means, groups, strict=True)]


def _by_unit(product: Array, member: UnitAxis, width: int) -> Array:
    """The sum over the entries of each unit: [...] like the weight -> [units]."""
    along = product.sum(tuple(k for k in range(product.ndim) if k != member.axis))
    there = np.flatnonzero(member.units >= 0)
    return jnp.zeros(width, along.dtype).at[member.units[there]].add(along[there])
