"""Scores of units of weights; units with high scores are kept."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jsparse._pattern import pool, unit_sizes


def wide(dtype: DTypeLike) -> DTypeLike:
    """The type, or float32 if it is narrower: bfloat16 cannot resolve scores and thresholds."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def mean_square(weight: Array, tile: tuple[int, ...]) -> Array:
    """Mean of the squares of each unit's weights: float32 or wider, [grid of units]."""
    return pool(squares(weight), tile) / unit_sizes(weight.shape, tile)


def squares(weight: Array) -> Array:
    """The square of each weight: float32 or wider, [...]."""
    return weight.astype(wide(weight.dtype)) ** 2


def root(mean: Array) -> Array:
    """Square roots, with gradient 0 at 0: [...]."""
    empty = mean == 0
    return jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, mean)))


def magnitude(weight: Array, tile: tuple[int, ...]) -> Array:
    """Root mean square of each unit; |w| where a unit is one weight.

        s_u = sqrt(sum_{i in u} w_i^2 / |u|)

    The mean rather than the sum makes a threshold or slope mean the same for units of any size.

    Args:
      weight: [...].
      tile: extent of one unit along each axis.

    Returns:
      float32 or wider, [grid of units]. A unit of zeros has score 0 and gradient 0.
    """
    if all(t == 1 for t in tile):
        return jnp.abs(weight.astype(wide(weight.dtype)))
    return root(mean_square(weight, tile))
