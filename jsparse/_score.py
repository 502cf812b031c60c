"""Scores of units of weights; units with high scores are kept."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jsparse._counting import any_under_vmap
from jsparse._tiles import pool, spread, unit_sizes


def wide(dtype: DTypeLike) -> DTypeLike:
    """The type, or float32 if it is narrower: bfloat16 cannot resolve scores and thresholds.

    Whole numbers, such as inputs that a layer converts, become float32 too.
    """
    floats = jnp.issubdtype(dtype, jnp.inexact)
    return dtype if floats and jnp.finfo(dtype).bits >= 32 else jnp.float32


def squares(weight: Array) -> Array:
    """The square of each weight: float32 or wider, [...]."""
    return weight.astype(wide(weight.dtype)) ** 2


@partial(jax.jit, inline=True)
def root(mean: Array) -> Array:
    """Square roots, with gradient 0 at 0: [...]."""
    empty = mean == 0
    return jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, mean)))


@jax.custom_jvp
def absolute(x: Array) -> Array:
    """|x|, with gradient 0 at 0, where that of `jnp.abs` is 1: [...]."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return absolute(x), lax.sign(x) * dx


def magnitude(weight: Array, tile: tuple[int, ...]) -> Array:
    """Root mean square of each unit; |w| where a unit is one weight.

        s_u = sqrt(sum_{i in u} w_i^2 / |u|)

    The mean rather than the sum makes a threshold or slope mean the same for units of any size. The
    squares of very large or very small weights would leave the range of the type; such weights are
    first divided by a power of two, which is exact, so they rank correctly. In a unit of more than
    one weight, subnormal numbers (below 1.2e-38) count as 0 where XLA counts them so.

    The scores are float32 or wider, [grid of units]. A unit of zeros has score 0 and gradient 0.

    Example:
      >>> weight = jnp.array([[3.0, 0.0], [4.0, 0.0]])
      >>> [float(magnitude(size * weight, (2, 1))[0, 0] / size) for size in (1.0, 2.0**90)]
      [3.535533905029297, 3.535533905029297]
    """
    weight = weight.astype(wide(weight.dtype))
    if all(t == 1 for t in tile):
        return absolute(weight)
    return _root_mean_square(weight, tile)


def unit_scales(weight: Array, tile: tuple[int, ...]) -> Array:
    """A power of two near the largest |w| of each unit, [grid of units]; 1 if that is 0.

    Division by it is exact.
    """
    largest = pool(jnp.abs(weight), tile, jnp.max)
    scale = lax.reduce_precision(largest / 2, jnp.finfo(weight.dtype).nexp, 0)
    return jnp.where((scale > 0) & jnp.isfinite(scale), scale, jnp.ones_like(scale))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)  # else `cond` is compiled at each call outside jit
def _root_mean_square(weight: Array, tile: tuple[int, ...]) -> Array:
    size = unit_sizes(weight.shape, tile).astype(weight.dtype)
    mean = pool(weight**2, tile) / size

    def scaled() -> Array:
        scale = unit_scales(weight, tile)
        part = weight / spread(scale, tile, weight.shape)
        return scale * jnp.sqrt(pool(part**2, tile) / size)

    # what underflows is at most 2^-24 of a mean of this size
    least = float(jnp.finfo(weight.dtype).tiny) * 2.0**26
    risky = jnp.any((mean < least) | ~jnp.isfinite(mean))
    return lax.cond(any_under_vmap(risky), scaled, lambda: jnp.sqrt(mean))


@_root_mean_square.defjvp
def _root_mean_square_jvp(tile: tuple[int, ...], primals: tuple, tangents: tuple) -> tuple:
    (weight,), (d_weight,) = primals, tangents
    score = _root_mean_square(weight, tile)
    empty = score == 0
    inverse = jnp.where(empty, 0.0, 1 / jnp.where(empty, 1.0, score))
    size = unit_sizes(weight.shape, tile).astype(weight.dtype)
    return score, pool(weight * d_weight, tile) * (inverse / size)
