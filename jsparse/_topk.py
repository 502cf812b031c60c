"""Top-k selection: the highest scores of each group, found by counting instead of sorting."""

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
    along,
    by_group,
    count,
    earliest,
    first_kept,
    index_below,
    kth_largest,
    reversed_index,
    rounded_fraction,
    score_of,
    select,
    sort_keys,
    zeros,
)
from jsparse._pattern import Groups, Role, Scope

BASE = np.uint32(1 << 16)


def rivals(
    grid: tuple[int, ...], scope: Scope, role: Role
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape to give to the scores of a grid of units, and the axes along which they compete.

    The size of `Groups` must divide the length of its axis.

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
            f"leave such weights dense with Groups({scope.size}, skip=True), pad them, or choose "
            "another group size or a unit that does not span the axis"
        )
    shape = (*grid[:axis], grid[axis] // scope.size, scope.size, *grid[axis + 1 :])
    return shape, (axis + 1,)


def winners(score: Array, density: float | Array, scope: Scope, role: Role) -> Array:
    """`top` within each group of a scope: bool, [grid] like the score."""
    shape, axes = rivals(score.shape, scope, role)
    return top(score.reshape(shape), density, axes).reshape(score.shape)


def cuts(score: Array, density: float | Array, scope: Scope, role: Role) -> Array:
    """For each unit the cut of its group: float32, [grid] like the score.

    It is half-way between the lowest score that `winners` keeps and the highest that it drops, and
    always below the lowest kept score: `score > cut` keeps everything that `winners` keeps, along
    with any scores tied with the lowest.

    Example:
      >>> from jsparse._pattern import Whole
      >>> cuts(jnp.array([3.0, 1.0, 2.0, 4.0]), 0.5, Whole(), Role()).tolist()
      [2.5, 2.5, 2.5, 2.5]
    """
    shape, axes = rivals(score.shape, scope, role)
    found = _cut(score.reshape(shape), _keep(density, math.prod(shape[a] for a in axes)), axes)
    return jnp.broadcast_to(along(found, axes), shape).reshape(score.shape)


def top(score: Array, density: float | Array, axes: tuple[int, ...]) -> Array:
    """Mask of the highest scores along `axes`: exactly max(1, round(density * n)) of each n.

    Scores of any real type are compared as float32. Ties are resolved in favor of the lower index,
    and NaN counts as the lowest score. Without axes all are kept.

    Example:
      >>> top(jnp.array([3.0, 1.0, 3.0, 3.0]), 0.5, (0,)).tolist()
      [True, False, True, False]
    """
    return highest(score, _keep(density, math.prod(score.shape[a] for a in axes)), axes)


@partial(jax.jit, static_argnames="axes", inline=True)  # outside jit one program for all calls
def highest(score: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    """`top` by number: exactly the `keep` highest scores along `axes`.

    `keep` is [], or shaped like the score with length 1 along axes: from 0 to the number of scores
    that compete.

    Example:
      >>> highest(jnp.array([3.0, 1.0, 2.0]), jnp.array(2), (0,)).tolist()
      [True, False, True]
    """
    if not axes or score.size == 0:
        return jnp.ones(score.shape, bool)
    size = math.prod(score.shape[a] for a in axes)
    order, keep = sort_keys(score), by_group(jnp.asarray(keep).astype(jnp.uint32), axes)
    none = zeros(order, axes)
    last, exact = kth_largest(
        lambda trial: count(order >= along(trial, axes), axes), keep, none, size
    )

    def kept(first: Array) -> Array:
        late = index_below(score.shape, axes, first)
        return order >= along(last, axes) + late.astype(jnp.uint32)

    # ties at the cut are rare: only then are positions compared
    ties = ~jnp.all(exact)
    return kept(earliest(lambda trial: count(kept(trial), axes), keep, none, size, ties))


@partial(jax.jit, static_argnames="axes", inline=True)
def _cut(score: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    """The cut of each group by number: float32 [groups...]."""
    if score.size == 0:
        return jnp.zeros([n for a, n in enumerate(score.shape) if a not in axes], jnp.float32)
    size, order = math.prod(score.shape[a] for a in axes), sort_keys(score)
    counted = lambda trial: count(order >= along(trial, axes), axes)
    reached, exact = kth_largest(counted, keep, zeros(order, axes), size)
    enough = order >= along(reached, axes)
    last = lax.select(enough, order, jnp.full_like(order, HIGHEST)).min(axis=axes)
    lower = lax.select(enough, jnp.zeros_like(order), order).max(axis=axes)
    high = score_of(last)
    # if all are kept: as far below the lowest as that is from 0
    low = select(lower == 0, high - jnp.abs(high), score_of(lower))
    low = select(exact, low, high)
    room = jnp.maximum(jnp.abs(high) * 2.0**-22, 2.0**-126)
    return jnp.minimum((high + low) / 2, high - room)


def common_cut(
    scores: Sequence[Array], density: float | Array, stacks: tuple[int, ...]
) -> list[Array]:
    """Cut several arrays together, keeping exactly max(1, round(density * n)) of all n scores.

    Ties are resolved in favor of the first arrays, and within an array of the lower index. Scores
    are finite, [stack..., grid] each, with so many stacked axes.

    The cut of an array, for `above_cut`, is float32 [stack..., 4]. With `last` the lowest kept
    score: the midpoint of `last` and the next lower score, the midpoint of `last` and the next
    higher score, and the `reversed_index` that scores equal to `last` must reach to be kept, as two
    digits to the base 2^16.

    Example:
      >>> a, b = jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0, 0.0])
      >>> [above_cut(s, c).tolist() for s, c in zip((a, b), common_cut([a, b], 0.6, (0, 0)))]
      [[True, True], [True, False, False]]
    """
    return common_cut_at(scores, _keep(density, sum(score.size for score in scores)), stacks)


@partial(jax.jit, static_argnames="stacks")
def common_cut_at(scores: Sequence[Array], keep: Array, stacks: tuple[int, ...]) -> list[Array]:
    """`common_cut` by number: keep exactly `keep` of all scores; integer [], 1 or more.

    Example: of these 18 scores keep 7. Three are above 2 (3 and 5 in `a`, 4 in `b`), and five are
    tied at 2. Four of these are still to be kept: all three in `a`, then the first in `b`. Scores
    above 2.5 are therefore kept, those below 1.5 are dropped, and those in between are kept if
    their reversed index (9 8 7 / 6 5 4 / 3 2 1) is 3 or more in `a`, or 9 in `b`.
      >>> a = jnp.array([[3.0, 1.0, 2.0], [2.0, 0.0, 1.0], [2.0, 5.0, 0.0]])
      >>> b = jnp.array([[2.0, 4.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
      >>> cut_a, cut_b = common_cut_at([a, b], jnp.uint32(7), (0, 0))
      >>> cut_a.tolist(), cut_b.tolist()
      ([1.5, 2.5, 0.0, 3.0], [1.5, 2.5, 0.0, 9.0])
      >>> above_cut(a, cut_a).astype(int).tolist()
      [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
      >>> above_cut(b, cut_b).astype(int).tolist()
      [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    orders = [sort_keys(score) for score in scores]
    total = lambda marks: sum((mark.sum(dtype=jnp.uint32) for mark in marks), jnp.uint32(0))
    counted = lambda trial: total(order >= trial for order in orders)
    size = sum(order.size for order in orders)
    reached, _ = kth_largest(counted, keep, jnp.uint32(0), size)
    last = jnp.asarray(HIGHEST)
    for order in orders:
        last = jnp.minimum(last, jnp.where(order >= reached, order, HIGHEST).min(initial=HIGHEST))
    left = keep - total(o > last for o in orders)  # of the ties at the cut
    cut, level = _beside(orders, last)
    found = []
    for order, stack in zip(orders, stacks, strict=True):
        if not order.size:
            found.append(jnp.zeros((*order.shape[:stack], 4), jnp.float32))
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


@partial(jax.jit, inline=True)  # outside jit one program instead of one for each operation
def above_cut(score: Array, cut: Array) -> Array:
    """Which units are kept by the cut of a whole model: score [grid], cut [4] -> bool [grid]."""
    early = reversed_index(score.shape, tuple(range(score.ndim)))
    high, low = cut[2:].astype(jnp.uint32)
    score = score.astype(cut.dtype)
    return (score > cut[0]) & ((score > cut[1]) | (early >= high * BASE + low))


def _beside(orders: Sequence[Array], last: Array) -> tuple[Array, Array]:
    """Midpoints of a score and the next lower and higher one in several arrays: float32 [] each."""
    lower, higher = none, every = jnp.uint32(0), jnp.asarray(HIGHEST)
    for order in orders:
        lower = jnp.maximum(lower, jnp.where(order < last, order, lower).max(initial=0))
        higher = jnp.minimum(higher, jnp.where(order > last, order, higher).min(initial=HIGHEST))
    here, below, above = score_of(last), score_of(lower), score_of(higher)
    # if there is no lower score: as far below as the score is from 0
    below = jnp.where(lower == none, here - jnp.maximum(jnp.abs(here), 1e-30), below)
    above = jnp.where(higher == every, jnp.inf, above)
    down, up = (here + below) / 2, (here + above) / 2
    return jnp.where(down < here, down, below), jnp.where(up < above, up, here)


def _keep(density: float | Array, size: int) -> Array:
    """The number of `size` scores that a density keeps: at least one."""
    if size > MOST:
        raise ValueError(
            f"{size} units compete, and at most {MOST} can be counted; use the scope PerOutput(), "
            "Whole() or Groups(m), or a larger unit"
        )
    return lax.clamp(np.uint32(1), rounded_fraction(density, size), np.uint32(max(1, size)))
