"""Selection by counting: find a cut that a given number of scores reach, without sorting.

The search counts how many scores reach a trial value, 10 to 20 times, or up to 50 times where most
scores are equal. Each count is a sum, which costs a sharded array one all-reduce, and the result is
the same on 1 and on 8 devices.

Scores are compared by their *order*: a uint32 for each float32, which sorts the same way.
"""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

HIGHEST = np.uint32(0xFFFFFFFF)
MOST = 2**32 - 2
"""The most scores that can compete: counts, and indices one past the last, are uint32."""
OCTAVE = 1 << 23
"""Distance between the orders of a score and of twice that score."""
FIRST = 0xBC000000
"""The order of 2^-7, a typical weight or gradient: the search starts here."""
FAR = 6 * OCTAVE
"""How far the second trial of a search is from the first."""


def count(marked: Array, axes: tuple[int, ...]) -> Array:
    """The number of marked entries: uint32, without the axes along which they are counted."""
    long = max(axes[:-1] or axes, key=lambda a: marked.shape[a], default=0)
    rest = axes
    if axes and marked.shape[long] < 2**16:  # narrow integers add up faster
        marked = marked.astype(jnp.uint8)
        *before, length = marked.shape[: long + 1]
        # XLA:CPU is slow where few are left to add, and no shard may be split
        if length > 256 and length % (8 * jax.device_count()) == 0:
            eighths = marked.reshape(*before, length // 8, 8, *marked.shape[long + 1 :])
            marked = eighths.sum(axis=long + 1, dtype=jnp.uint8)
        marked = marked.sum(axis=long, dtype=jnp.uint16)
        rest = tuple(a - (a > long) for a in axes if a != long)
    return marked.sum(axis=rest, dtype=jnp.uint32)


@custom_vmap
def any_under_vmap(when: Array) -> Array:
    """`when`; under vmap, whether it is true in any element, so that `lax.cond` stays a branch.

    With a batched predicate `lax.cond` runs both branches for every element, at every step. With
    `any_under_vmap(when)` the expensive branch runs only if an element needs it, and then for all:
    it must give the other branch's result where `when` is false.

    Example:
      >>> long = lambda x: lax.fori_loop(0, 100, lambda _, x: jnp.minimum(2 * x, 8.0), x)
      >>> grow = lambda x: lax.cond(any_under_vmap(x < 8), long, lambda x: x, x)
      >>> jax.vmap(grow)(jnp.array([8.0, 3.0])).tolist()
      [8.0, 8.0]
    """
    return when


@any_under_vmap.def_vmap
def _any_over_batch(size: int, batched: list[bool], when: Array) -> tuple[Array, bool]:
    return any_under_vmap(when.any(axis=0)), False


def rounded_fraction(fraction: float | Array, size: int | Array) -> Array:
    """round(fraction * size), exactly; half is rounded to even.

    The fraction is [], in [0, 1], and the size [...], up to `MOST`; the result is uint32 [...].
    For a Python number the product is computed in float64. A float32 has only 24 bits, so for an
    array the product is assembled from products of 12 by 12 bits, each of which is exact.

    Example:
      >>> of = lambda fraction, size: int(rounded_fraction(fraction, size))
      >>> of(0.9, 4096 * 4099), of(jnp.float32(0.75), 2**32 - 2)
      (15110554, 3221225470)
    """
    if isinstance(fraction, Real) and isinstance(size, int):
        return jnp.asarray(np.uint32(round(float(fraction) * size)))
    return _rounded_product(jnp.asarray(fraction, jnp.float32), jnp.asarray(size, jnp.uint32))


@functools.partial(jax.jit, inline=True)
def _rounded_product(fraction: Array, size: Array) -> Array:
    bits = lax.bitcast_convert_type(fraction, jnp.uint32) & jnp.uint32(0xFFFFF000)
    coarse = lax.bitcast_convert_type(bits, jnp.float32)
    whole, rest = jnp.zeros_like(size), jnp.zeros(size.shape, jnp.float32)
    for part in (coarse, fraction - coarse):
        for shift in (24, 12, 0):
            digits = (size >> jnp.uint32(shift)) & jnp.uint32(0xFFF)
            product = part * digits.astype(jnp.float32) * float(1 << shift)
            whole += jnp.floor(product).astype(jnp.uint32)
            rest += product - jnp.floor(product)
    whole, rest = whole + jnp.floor(rest).astype(jnp.uint32), rest - jnp.floor(rest)
    up = (rest > 0.5) | ((rest == 0.5) & (whole % 2 == 1))
    return whole + up.astype(jnp.uint32)


def kth_largest(
    counted: Callable[[Array], Any], keep: Array, zero: Array, size: int
) -> tuple[Array, Array]:
    """Find a value that exactly `keep` orders reach, or otherwise the `keep`-th largest order.

    The search keeps a bracket: `low`, which `keep` or more orders reach, and `high`, which fewer
    reach. Each trial value replaces one of the two. The trial is

    1. 2^-7 at first, then at most twice as far from 2^-7 as the known end of the bracket, and 6
       octaves more, until both ends are known;
    2. the midpoint while the ends are more than 2 octaves apart, and at every fifth trial;
    3. otherwise the point at which the straight line between the two counts equals `keep`. When the
       same end moves twice in a row, the count of the other end is scaled down (Dowell and
       Jarratt), which makes that end move as well.

    The loop is compiled for each layer of a model, so it has few operations and carries few values.

    Args:
      counted: a value -> the number of orders that reach it, uint32 [groups...] both.
      keep: uint32, [groups...]; from 0 to the size.
      zero: uint32 [groups...], zeros that are sharded like the counts.
      size: number of orders in a group.

    It returns the value, uint32 [groups...], and whether exactly `keep` reach it, bool [groups...].

    Example: the 4 largest of 9 scores. Reading the trials as scores, 9 of them reach 2^-7 (too
    many, so low = 2^-7), 9 reach 2^-1 (6 octaves up), 0 reach 2^11 (12 octaves up, so the bracket
    is closed), 0 reach 32 (midpoint) and 4 reach 4 (midpoint): done after five counts.
      >>> order = sort_keys(jnp.array([[3.0, 1.0, 2.0], [8.0, 5.0, 1.0], [0.5, 6.0, 4.0]]))
      >>> counted = lambda trial: count(order >= trial, (0, 1))
      >>> found, exact = kth_largest(counted, jnp.uint32(4), jnp.uint32(0), 9)
      >>> score_of(found).item(), exact.item()
      (4.0, True)

    With ties no value may have exactly `keep`. In the next array 3 scores lie above 2 and 7 reach
    it, so for `keep` = 4 the 4th largest order is found, that of 2.
      >>> order = sort_keys(jnp.array([[3.0, 2.0, 2.0], [8.0, 2.0, 1.0], [0.5, 6.0, 2.0]]))
      >>> found, exact = kth_largest(counted, jnp.uint32(4), jnp.uint32(0), 9)
      >>> score_of(found).item(), exact.item()
      (2.0, False)

    Reference: Dowell and Jarratt, The "Pegasus" method for computing the root of an equation,
    BIT 12, 1972.
    """
    highest = ~zero
    searching = lambda low, high, over, *_: (over != 0) & (high - low > 1)

    def closer(state: tuple) -> tuple:
        low, high, over, under, rose, turn = state
        width = high - low
        line = (over + 0.5) / (over + under + 1.0)
        part = select((width > 2 * OCTAVE) | (lax.rem(turn, np.uint32(5)) == 4), 0.5, line)
        step = jnp.minimum((part * width.astype(jnp.float32)).astype(jnp.uint32), width - 1)
        step = select(high == highest, jnp.minimum(step, low - np.uint32(FIRST - FAR)), step)
        back = jnp.minimum(width - step, np.uint32(FIRST + FAR) - high)
        step = select(low == 0, width - back, step)
        step = select(turn == 0, zero + np.uint32(FIRST), jnp.maximum(step, 1))
        if zero.ndim:  # a finished group stays as it is while others continue
            step = jnp.where(searching(*state), step, zero)
        trial = low + step
        reached = counted(trial)
        rise = reached >= keep
        gap = select(rise, reached - keep, keep - reached).astype(jnp.float32)
        old = select(rise, over, under)
        scale = select(rise == rose, old / jnp.maximum(old + gap, 1.0), 1.0)
        low, high = select(rise, trial, low), select(rise, high, trial)
        over, under = select(rise, gap, over * scale), select(rise, under * scale, gap)
        return low, high, over, under, rise, turn + 1

    over, under = ((n + zero).astype(jnp.float32) for n in (np.uint32(size) - keep, keep))
    begin = (zero, highest, over, under, zero != 0, jnp.uint32(0))
    unfinished = lambda now: jnp.any(searching(*now)) if zero.ndim else searching(*now)
    low, _, over, *_ = lax.while_loop(unfinished, closer, begin)
    return low, over == 0


def earliest(
    counted: Callable[[Array], Any], keep: Array, zero: Array, size: int, ties: Array
) -> Array:
    """The largest `reversed_index` that `keep` or more reach: uint32 [groups...]; 0 without ties.

    Found bit by bit from the highest one. Arguments as in `kth_largest`, of reversed indices; if
    `ties`, bool [], is false, nothing is counted.

    Example: of 4 tied entries, whose reversed indices are 4 3 2 1, keep 3. The bits 4, 2 and 1 are
    tried: 1 entry reaches 4 (too few), 3 reach 2 (set it), and 2 reach 3 (too few).
      >>> indices = jnp.array([4, 3, 2, 1], jnp.uint32)
      >>> counted = lambda trial: count(indices >= trial, (0,))
      >>> earliest(counted, jnp.uint32(3), jnp.uint32(0), 4, jnp.array(True)).item()
      2
    """

    def set_bit(state: tuple) -> tuple:
        bit, found = state
        trial = found | bit
        return bit >> 1, select(counted(trial) >= keep, trial, found)

    highest = jnp.uint32(1 << min(size.bit_length(), 31))  # beyond the index, for keep = 0
    first = select(ties, highest, jnp.uint32(0))
    return lax.while_loop(lambda state: state[0] > 0, set_bit, (first, zero))[1]


def select(when: Array, one: Any, other: Any) -> Array:
    """`jnp.where`, which for scalars is a single operation."""
    if when.ndim:
        return jnp.where(when, one, other)
    dtype = jnp.result_type(one, other)
    return lax.select(when, jnp.asarray(one, dtype), jnp.asarray(other, dtype))


def first_kept(marked: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    """The reversed index that exactly `keep` marked entries reach: uint32, of length 1 along axes.

    `reversed_index` counts down, so the entries that reach it are the first `keep` marked ones.

    Example: the reversed indices of a 3x3 array are 9 8 7 / 6 5 4 / 3 2 1. Of the marked 8, 6, 3
    and 1, exactly two reach 6.
      >>> marked = jnp.array([[0, 1, 0], [1, 0, 0], [1, 0, 1]], bool)
      >>> first_kept(marked, jnp.uint32(2), (0, 1)).item()
      6
    """
    early, none = reversed_index(marked.shape, axes), zeros(marked.astype(jnp.uint32), axes)
    counted = lambda trial: count((early >= along(trial, axes)) & marked, axes)
    size = math.prod(marked.shape[a] for a in axes)
    found = earliest(counted, by_group(keep, axes), none, size, jnp.array(True))
    return lax.expand_dims(found, axes)


def zeros(order: Array, axes: tuple[int, ...]) -> Array:
    """Zeros without the axes, sharded like counts along them."""
    if jax.typeof(order) == jax.typeof(jnp.zeros(order.shape, order.dtype)):  # not split
        return jnp.zeros([n for a, n in enumerate(order.shape) if a not in axes], order.dtype)
    return (order & jnp.uint32(0)).max(axis=axes)


def sort_keys(score: Array) -> Array:
    """uint32 values that sort like the scores; 0 for NaN.

    Uses integers only: XLA:CPU merges `isnan` and the test for zero bits into one comparison of
    floats with 0, which is also true of subnormal numbers.
    """
    bits = lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)
    size, sign = bits << 1, jnp.uint32(1 << 31)
    none = jnp.zeros_like(bits)
    bits = lax.select(size == none, none, bits)  # -0 ties with +0
    nan = size > jnp.uint32(0xFF000000)
    return lax.select(nan, none, lax.select(bits >= sign, ~bits, bits | sign))


def score_of(order: Array) -> Array:
    """The inverse of `sort_keys`, float32."""
    sign = jnp.uint32(1 << 31)
    return lax.bitcast_convert_type(select(order >= sign, order ^ sign, ~order), jnp.float32)


def reversed_index(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """uint32 index along the competing axes, counting down from their size to 1."""
    size = np.uint32(math.prod(shape[a] for a in axes))
    return size - index_along(shape, axes)


def index_along(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """uint32 index along the competing axes, counting up from 0: [shape]."""
    stride, places = math.prod(shape[a] for a in axes), []
    for axis in axes:
        stride //= max(1, shape[axis])
        place = lax.broadcasted_iota(jnp.uint32, shape, axis)
        places.append(place if stride == 1 else place * np.uint32(stride))
    return functools.reduce(jnp.add, places) if places else jnp.zeros(shape, jnp.uint32)


def index_below(shape: tuple[int, ...], axes: tuple[int, ...], first: Array) -> Array:
    """Which entries have a `reversed_index` below `first`, [groups...]: bool, [shape].

    Rows are compared with columns, so that a loop over `first` stores no index for each entry.

    Example: the reversed indices of a 2x3 array are 6 5 4 / 3 2 1.
      >>> index_below((2, 3), (0, 1), jnp.uint32(5)).astype(int).tolist()
      [[0, 0, 1], [1, 1, 1]]
    """
    row, *rest = axes
    size = np.uint32(math.prod(shape[a] for a in axes))
    stride = np.uint32(math.prod(shape[a] for a in rest))
    left = size - lax.iota(jnp.uint32, shape[row]) * stride
    others = tuple(a for a in range(len(shape)) if a != row)
    within = tuple(others.index(a) for a in rest)
    first = along(first, within)
    column = index_along(tuple(shape[a] for a in others), within)
    below = first + jnp.minimum(column, ~first)  # by the minimum, this does not overflow
    return lax.broadcast_in_dim(left, shape, (row,)) < lax.broadcast_in_dim(below, shape, others)


def along(value: Array, axes: tuple[int, ...]) -> Array:
    """A value per group, to compare with the entries along axes; a scalar fits as it is."""
    return lax.expand_dims(value, axes) if value.ndim else value


def by_group(value: Array, axes: tuple[int, ...]) -> Array:
    """The inverse of `along`: a value of length 1 along axes, without them."""
    return jnp.squeeze(value, axes) if value.ndim else value
