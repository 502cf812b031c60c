"""Who survives: the highest scores of each group, found by counting and never by sorting."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsparse._counting import (
    HIGHEST,
    MOST,
    count,
    first_kept,
    ordered,
    portion,
    reaching,
    reversed_index,
    score_of,
    zeros,
)
from jsparse._pattern import Groups, Role, Scope

BASE = np.uint32(1 << 16)


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
    return highest(score, _keep(density, math.prod(score.shape[a] for a in axes)), axes)


@partial(jax.jit, static_argnames="axes")  # or each call outside of jit would compile its loop anew
def highest(score: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    """`top` by number: exactly `keep` of the scores along `axes`.

    Args:
      score: [...], any real type; compared as float32.
      keep: integer, [] or of length 1 along axes and of the score's elsewhere; from 0 to the number
        of scores that compete; may be traced.
      axes: the axes along which scores compete; () keeps all.

    Returns:
      bool [...], True = kept.

    Example:
      >>> import jax.numpy as jnp
      >>> highest(jnp.array([3.0, 1.0, 2.0]), jnp.array(2), (0,)).tolist()
      [True, False, True]
    """
    if not axes or score.size == 0:
        return jnp.ones(score.shape, bool)
    size = math.prod(score.shape[a] for a in axes)
    order, keep = ordered(score), jnp.asarray(keep).astype(jnp.uint32)
    last, kept = reaching(lambda trial: count(order >= trial, axes), keep, zeros(order, axes), size)

    def early() -> Array:
        above, level = order > last, order == last
        first = first_kept(level, keep - count(above, axes), axes)
        return above | (level & (reversed_index(score.shape, axes) >= first))

    # equal scores at the cut are rare: their places are looked at only then
    return lax.cond(jnp.all(kept == keep), lambda: order >= last, early)


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
    return _cut(score, _keep(density, math.prod(score.shape[a] for a in axes)), axes)


@partial(jax.jit, static_argnames="axes")
def _cut(score: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    if score.size == 0:
        return jnp.zeros([1 if a in axes else n for a, n in enumerate(score.shape)])
    size, order = math.prod(score.shape[a] for a in axes), ordered(score)
    counted = lambda trial: count(order >= trial, axes)
    reached, _ = reaching(counted, keep, zeros(order, axes), size)
    last = jnp.where(order >= reached, order, HIGHEST).min(axis=axes, keepdims=True)
    lower = jnp.where(order < last, order, jnp.zeros_like(order)).max(axis=axes, keepdims=True)
    high = score_of(last)
    # all are kept: as far below the last as that is from 0
    low = jnp.where(lower == 0, high - jnp.abs(high), score_of(lower))
    low = jnp.where(count(order >= last, axes) > keep, high, low)
    room = jnp.maximum(jnp.abs(high) * 2.0**-22, 1e-30)
    return jnp.minimum((high + low) / 2, high - room)


def common_cut(
    scores: Sequence[Array], density: float | Array, stacks: tuple[int, ...]
) -> list[Array]:
    """Where several arrays are cut together: exactly max(1, round(density * n)) of all n survive.

    Of equal scores those of the first arrays, and in them of lower index, are kept.

    Args:
      scores: [stack..., grid] each, finite; compared as float32.
      density: fraction to keep, [] and in (0, 1]; may be traced.
      stacks: number of leading axes of each array that number whole layers.

    Returns:
      For each array float32 [stack..., 4]: half-way to the first score that is dropped, half-way to
      the next score above the last that is kept, and where to stop among those in between, a place
      in two digits to the base 2^16; for `above_cut`.

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0, 0.0])
      >>> [above_cut(s, c).tolist() for s, c in zip((a, b), common_cut([a, b], 0.6, (0, 0)))]
      [[True, True], [True, False, False]]
    """
    return common_cut_at(scores, _keep(density, sum(score.size for score in scores)), stacks)


@partial(jax.jit, static_argnames="stacks")
def common_cut_at(scores: Sequence[Array], keep: Array, stacks: tuple[int, ...]) -> list[Array]:
    """`common_cut` by number: exactly `keep` of all scores survive; integer [], 1 or more."""
    orders = [ordered(score) for score in scores]
    total = lambda marks: sum((mark.sum(dtype=jnp.uint32) for mark in marks), jnp.uint32(0))
    counted = lambda trial: total(order >= trial for order in orders)
    size = sum(order.size for order in orders)
    reached, _ = reaching(counted, keep, jnp.uint32(0), size)
    last = jnp.asarray(HIGHEST)
    for order in orders:
        if order.size:
            last = jnp.minimum(last, jnp.where(order >= reached, order, HIGHEST).min())
    left = keep - total(o > last for o in orders)  # of those at the cut
    cut, level = _beside(orders, last)
    found = []
    for order, stack in zip(orders, stacks, strict=True):
        if not order.size:
            found.append(jnp.zeros((*order.shape[:stack], 4)))
            continue
        axes, level_here = tuple(range(stack, order.ndim)), order == last
        ties = level_here.sum(axis=axes, dtype=jnp.uint32)
        before = jnp.cumsum(ties.ravel()).reshape(ties.shape) - ties
        kept = jnp.minimum(left - jnp.minimum(left, before), ties)
        left -= jnp.minimum(left, ties.sum(dtype=jnp.uint32))
        first = first_kept(level_here, jnp.expand_dims(kept, axes), axes).reshape(ties.shape)
        both = [jnp.full(ties.shape, edge) for edge in (cut, level)]
        place = [digit.astype(jnp.float32) for digit in (first // BASE, first % BASE)]
        found.append(jnp.stack([*both, *place], axis=-1))
    return found


def above_cut(score: Array, cut: Array) -> Array:
    """Which units are above the cut of a whole model: score [grid], cut [4] -> bool [grid]."""
    early = reversed_index(score.shape, tuple(range(score.ndim)))
    high, low = cut[2:].astype(jnp.uint32)
    return (score > cut[0]) & ((score > cut[1]) | (early >= high * BASE + low))


def _beside(orders: Sequence[Array], last: Array) -> tuple[Array, Array]:
    """Half-way from a score to the next below and above over several arrays, float32 [] each."""
    lower, higher = none, every = jnp.uint32(0), jnp.asarray(HIGHEST)
    for order in orders:
        if order.size:
            lower = jnp.maximum(lower, jnp.where(order < last, order, lower).max())
            higher = jnp.minimum(higher, jnp.where(order > last, order, higher).min())
    here, below, above = score_of(last), score_of(lower), score_of(higher)
    # none below: as far as the score is from 0
    below = jnp.where(lower == none, here - jnp.maximum(jnp.abs(here), 1e-30), below)
    above = jnp.where(higher == every, jnp.inf, above)
    down, up = (here + below) / 2, (here + above) / 2
    return jnp.where(down < here, down, below), jnp.where(up < above, up, here)


def _keep(density: float | Array, size: int) -> Array:
    """How many of `size` a density keeps: at least one.

    Raises:
      ValueError: more compete than can be counted.
    """
    if size > MOST:
        raise ValueError(
            f"{size} units compete, and at most {MOST} can be counted; use the scope PerOutput(), "
            "Whole() or Groups(m), or a larger unit"
        )
    return jnp.clip(portion(density, size), jnp.uint32(1), jnp.uint32(max(1, size)))
