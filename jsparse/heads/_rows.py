"""The rows of features: read, standardized, and multiplied; in memory or a block at a time."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsparse._values import shown
from jsparse.heads._point import inverse

ROUNDING = 16
"""A deviation of this many rounding errors of the largest value counts as 0."""


def outputs_of(x: Array, weight: Array, bias: Array) -> Array:
    """x W + b, [rows, outputs]."""
    return jnp.matmul(x, weight, precision=lax.Precision.HIGHEST) + bias[None]


def slopes_of(x: Array, residual: Array) -> tuple[Array, Array]:
    """x' r, [features, outputs], and the sum of r, [outputs].

    Computed as (r' x)', which the barrier preserves: on a CPU, XLA takes five times as long for x'
    r.
    """
    product = jnp.matmul(residual.T, x, precision=lax.Precision.HIGHEST)
    return lax.optimization_barrier(product).T, residual.sum(axis=0)


@partial(jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=[])
@dataclass(frozen=True)
class InMemory:
    """Standardized features in memory, [rows, features]."""

    x: Array

    def forward(self, weight: Array, bias: Array) -> Array:
        """Outputs of all rows, [rows, outputs]."""
        return outputs_of(self.x, weight, bias)

    def backward(self, residual: Array) -> tuple[Array, Array]:
        """Gradients by weight and bias."""
        return slopes_of(self.x, residual)


@dataclass(frozen=True)
class Blockwise:
    """Features that are read and standardized a block of rows at a time."""

    features: Any  # with a shape, and rows by slices
    batch: int  # rows of a block
    mean: Array  # [features]
    scale: Array  # 1 / deviation, or 0 for a feature that is constant, [features]

    def __len__(self) -> int:
        return math.ceil(self.features.shape[0] / self.batch)

    def part(self, n: int) -> slice:
        """The rows of a block."""
        return slice(n * self.batch, min((n + 1) * self.batch, self.features.shape[0]))

    def read(self, part: slice) -> Array:
        """Some rows, standardized."""
        return standardized(np.asarray(self.features[part]), self.mean, self.scale)

    def forward(self, weight: Array, bias: Array) -> Array:
        """Outputs of all rows, [rows, outputs]."""
        parts = [_outputs(self.read(self.part(n)), weight, bias) for n in range(len(self))]
        return jnp.concatenate(parts)

    def backward(self, residual: Array) -> tuple[Array, Array]:
        """Gradients by weight and bias."""
        parts = map(self.part, range(len(self)))
        sums = [_slopes(self.read(part), residual[part]) for part in parts]
        return sum(one for one, _ in sums), sum(one for _, one in sums)  # type: ignore[return-value]


Rows = InMemory | Blockwise
"""Standardized features, of which only two products are needed."""
_outputs, _slopes = jax.jit(outputs_of), jax.jit(slopes_of)


@jax.jit
def standardized(x: Array, mean: Array, scale: Array) -> Array:
    """Features of mean 0 and deviation 1, in the type of `mean`; 0 where they are constant."""
    return (x.astype(mean.dtype) - mean[None]) * scale[None]


def read_rows(features: Any, mean: np.ndarray, std: np.ndarray, batch: int, dtype: Any) -> Rows:
    """The features, standardized: at once if they are in memory; constant ones become 0."""
    near, scale = jnp.asarray(mean, dtype), jnp.asarray(inverse(std), dtype)
    if isinstance(features, jax.Array | np.ndarray) and not isinstance(features, np.memmap):
        return InMemory(standardized(jnp.asarray(features), near, scale))
    return Blockwise(features, batch, near, scale)


def moments(features: Any, used: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (divisor n - 1) of each feature over the rows that are used.

    The deviation is 0 for a feature that is constant, up to rounding.
    """
    count, mean, spread, most = 0, np.zeros(()), np.zeros(()), np.zeros(())
    for first in range(0, features.shape[0], batch):
        block = np.asarray(features[first : first + batch]).astype(np.float64)
        if not np.isfinite(block).all():
            row, feature = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"features must be finite numbers; got {block[row, feature]} in row "
                f"{first + row}, feature {feature}; {shown(features)}; leave such rows out"
            )
        most = np.maximum(most, np.abs(block).max(axis=0))
        block = block[used[first : first + batch]]
        if not len(block):
            continue
        new, total = block.mean(axis=0), count + len(block)
        apart = new - mean
        spread = spread + ((block - new) ** 2).sum(axis=0)
        spread = spread + apart**2 * (count * len(block) / total)  # of two sets put together
        mean, count = mean + apart * (len(block) / total), total
    deviation = np.sqrt(spread / max(1, count - 1))
    least = ROUNDING * np.finfo(np.float32).eps * most
    return mean, np.where(deviation > least, deviation, 0.0)
