"""Who survives: the highest scores of each group, found by counting.

Never by sorting: the k-th largest score is found bit by bit from the top, 32 counts in all, each a
sum that a sharded array does with one all-reduce, so that 1 and 8 devices give the same mask.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse.pattern import Groups, Role, Scope

Reduce = Callable[[Callable, Array], Array]


def rivals(
    grid: tuple[int, ...], scope: Scope, role: Role
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How units are compared within a scope.

    Args:
      grid: number of units along each axis.
      scope: who competes.
      role: the meaning of the axes.

    Returns:
      The shape to give the scores, and the axes along which they then compete.

    Raises:
      ValueError: the groups of the scope do not divide the axis that they lie on.

    Example:
      >>> rivals((8, 3), Groups(4), Role())
      ((2, 4, 3), (1,))
    """
    axes = scope.axes(len(grid), role)
    if not isinstance(scope, Groups):
        return grid, axes
    (axis,) = axes
    if grid[axis] % scope.size:
        raise ValueError(
            f"axis {axis} has length {grid[axis]}, not a multiple of {scope.size}; "
            "pad it or choose another group size, or a unit that does not span it"
        )
    shape = (*grid[:axis], grid[axis] // scope.size, scope.size, *grid[axis + 1 :])
    return shape, (axis + 1,)


def winners(score: Array, density: float | Array, scope: Scope, role: Role) -> Array:
    """`top` within each group of a scope: bool, [grid] as the score."""
    shape, axes = rivals(score.shape, scope, role)
    return top(score.reshape(shape), density, axes).reshape(score.shape)


def cuts(score: Array, density: float | Array, scope: Scope, role: Role) -> Array:
    """`cut` of each unit's group: float32, [grid] as the score."""
    shape, axes = rivals(score.shape, scope, role)
    found = cut(score.reshape(shape), density, axes)
    return jnp.broadcast_to(found, shape).reshape(score.shape)


@partial(jax.jit, static_argnames="axes")  # or each call outside of jit would compile its loop anew
def top(score: Array, density: float | Array, axes: tuple[int, ...]) -> Array:
    """Mask of the highest scores along `axes`: exactly max(1, round(density * n)) of each n.

    Of equal scores the one with the lower index is kept. NaN counts as lowest.

    Args:
      score: [...], any real type; compared as float32.
      density: fraction to keep, [] and in (0, 1]; may be traced.
      axes: the axes along which scores compete; () keeps all.

    Returns:
      bool [...], True = kept.

    Example:
      >>> import jax.numpy as jnp
      >>> top(jnp.array([3.0, 1.0, 3.0, 3.0]), 0.5, (0,)).tolist()
      [True, False, True, False]
    """
    size = math.prod(score.shape[a] for a in axes)
    if not axes or score.size == 0:
        return jnp.ones(score.shape, bool)
    count = lambda marked: marked.sum(axis=axes, keepdims=True, dtype=jnp.int32)
    keep, order = _keep(density, size), _ordered(score)
    none = _zeros(order, axes)
    last = _largest(lambda trial: count(order >= trial) >= keep, none, 32)
    above, level = order > last, order == last
    left = keep - count(above)
    early = _reversed_index(score.shape, axes, size)
    first = _largest(
        lambda trial: count((early >= trial) & level) >= left, none, max(1, size.bit_length())
    )
    return above | (level & (early >= first))


@partial(jax.jit, static_argnames="axes")
def cut(score: Array, density: float | Array, axes: tuple[int, ...]) -> Array:
    """Half-way between the last score that `top` keeps and the first that it does not.

    Always below the last kept, so that `score > cut` keeps what `top` does, and of equal scores at
    the cut all.

    Args:
      score: [...], finite; compared as float32.
      density: fraction to keep, [] and in (0, 1]; may be traced.
      axes: the axes along which scores compete.

    Returns:
      float32 [...], of length 1 along axes.

    Example:
      >>> import jax.numpy as jnp
      >>> cut(jnp.array([3.0, 1.0, 2.0, 4.0]), 0.5, (0,)).tolist()
      [2.5]
    """
    size = math.prod(score.shape[a] for a in axes)
    if score.size == 0:
        return jnp.zeros([1 if a in axes else n for a, n in enumerate(score.shape)])
    along = lambda reduce, x: reduce(x, axis=axes, keepdims=True)
    return _cut([score], size, density, along, _zeros(_ordered(score), axes))


@jax.jit
def common_cut(scores: Sequence[Array], density: float | Array) -> Array:
    """`cut` over all scores of several arrays together, float32 []."""
    size = sum(score.size for score in scores)
    if size == 0:
        return jnp.zeros(())
    return _cut(scores, size, density, lambda reduce, x: reduce(x), jnp.uint32(0))


def _cut(
    scores: Sequence[Array], size: int, density: float | Array, along: Reduce, none: Array
) -> Array:
    keep = _keep(density, size)
    orders = [_ordered(score) for score in scores if score.size]

    def at_least(trial: Array) -> Array:
        counts = [along(jnp.sum, (order >= trial).astype(jnp.int32)) for order in orders]
        return sum(counts[1:], counts[0])

    last = _largest(lambda trial: at_least(trial) >= keep, none, 32)
    below = [along(jnp.max, jnp.where(o < last, o, jnp.zeros_like(o))) for o in orders]
    lower = below[0]
    for other in below[1:]:
        lower = jnp.maximum(lower, other)
    high = _score(last)
    # all are kept: as far below the last as that is from 0
    low = jnp.where(lower == 0, high - jnp.abs(high), _score(lower))
    low = jnp.where(at_least(last) > keep, high, low)
    room = jnp.maximum(jnp.abs(high) * 2.0**-22, 1e-30)
    return jnp.minimum((high + low) / 2, high - room)


def _keep(density: float | Array, size: int) -> Array:
    """How many of `size` a density keeps: at least one."""
    return jnp.clip(jnp.round(density * size), 1, max(1, size)).astype(jnp.int32)


def _zeros(order: Array, axes: tuple[int, ...]) -> Array:
    """Zeros of length 1 along axes, sharded as counts along them will be."""
    return (order & jnp.uint32(0)).max(axis=axes, keepdims=True)


def _ordered(score: Array) -> Array:
    """uint32 that sort as the scores do; 0 for NaN."""
    bits = lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)
    bits = jnp.where(score == 0, jnp.zeros_like(bits), bits)  # -0 ties with +0
    sign = jnp.uint32(1 << 31)
    return jnp.where(jnp.isnan(score), jnp.uint32(0), jnp.where(bits >= sign, ~bits, bits | sign))


def _score(order: Array) -> Array:
    """The inverse of `_ordered`, float32."""
    sign = jnp.uint32(1 << 31)
    return lax.bitcast_convert_type(jnp.where(order >= sign, order ^ sign, ~order), jnp.float32)


def _largest(holds: Callable[[Array], Array], none: Array, bits: int) -> Array:
    """The largest uint32 of so many bits for which a condition holds, elementwise; 0 if none."""

    def set_bit(i: Array, found: Array) -> Array:
        trial = found | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(trial), trial, found)

    return lax.fori_loop(jnp.int32(0), jnp.int32(bits), set_bit, none)


def _reversed_index(shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> Array:
    """uint32 index within the competing axes, counted down from `size` for the first."""
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    stride = size
    for axis in axes:
        stride //= shape[axis]
        along = jax.lax.broadcasted_iota(
            jnp.uint32, [n if a == axis else 1 for a, n in enumerate(shape)], axis
        )
        index = index + along * jnp.uint32(stride)
    return jnp.broadcast_to(jnp.uint32(size) - index, shape)
