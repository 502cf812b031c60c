"""Selection by counting: find a cut that a given number of scores reach, without sorting.

The search counts how many scores reach a trial value, 10 to 20 times, or up to 50 times where most
scores are equal. Each count is a sum, which costs a sharded array one all-reduce, and the result is
the same on 1 and on 8 devices.

Scores are compared by their *order*: a uint32 for each float32, which sorts the same way.
"""

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


def count(marked: Array, axes: tuple[int, ...]) -> Array:
    """The number of marked entries: uint32, of length 1 along axes."""
    long = max(axes[:-1] or axes, key=lambda a: marked.shape[a], default=0)
    if axes and marked.shape[long] < 2**16:  # narrow integers add up faster
        *before, length = marked.shape[: long + 1]
        if length % (8 * jax.device_count()) == 0:  # no shard may be split
            eighths = marked.reshape(*before, length // 8, 8, *marked.shape[long + 1 :])
            marked = eighths.sum(axis=long + 1, dtype=jnp.uint8)
        marked = marked.sum(axis=long, keepdims=True, dtype=jnp.uint16).astype(jnp.uint32)
    return marked.sum(axis=axes, keepdims=True, dtype=jnp.uint32)


@custom_vmap
def anywhere(when: Array) -> Array:
    """`when`; under vmap, whether it is true in any element, so that `lax.cond` stays a branch.

    With a batched predicate `lax.cond` runs both branches for every element, at every step. With
    `anywhere(when)` the expensive branch runs only if an element needs it, and then for all: it
    must give the other branch's result where `when` is false.

    Args:
      when: bool, [].

    Returns:
      bool, [], not batched.

    Example:
      >>> long = lambda x: lax.fori_loop(0, 100, lambda _, x: jnp.minimum(2 * x, 8.0), x)
      >>> grow = lambda x: lax.cond(anywhere(x < 8), long, lambda x: x, x)
      >>> jax.vmap(grow)(jnp.array([8.0, 3.0])).tolist()
      [8.0, 8.0]
    """
    return when


@anywhere.def_vmap
def _anywhere_batched(size: int, batched: list[bool], when: Array) -> tuple[Array, bool]:
    return anywhere(when.any(axis=0)), False


def portion(fraction: float | Array, size: int | Array) -> Array:
    """round(fraction * size), exactly; half is rounded to even.

    For a Python number the product is computed in float64. A float32 has only 24 bits, so for an
    array the product is assembled from products of 12 by 12 bits, each of which is exact.

    Args:
      fraction: [], in [0, 1]; an array is used as float32.
      size: integer, [...], from 0 to `MOST`.

    Returns:
      uint32 [...] like the size.

    Example:
      >>> int(portion(0.9, 4096 * 4099)), int(portion(jnp.float32(0.75), 2**32 - 2))
      (15110554, 3221225470)
    """
    if isinstance(fraction, Real) and isinstance(size, int):
        return jnp.asarray(np.uint32(round(float(fraction) * size)))
    fraction, size = jnp.asarray(fraction, jnp.float32), jnp.asarray(size, jnp.uint32)
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


def reaching(
    counted: Callable[[Array], Any], keep: Array, zero: Array, size: int
) -> tuple[Array, Array]:
    """Find a value that exactly `keep` orders reach, or else the `keep`-th largest order.

    The search keeps a bracket: `low`, which `keep` or more orders reach, and `high`, which fewer
    reach. Each trial value replaces one of the two. The trial is

    1. 2^-7 at first, then 6, 12, 24, 48, 48, ... octaves away, until both ends are known;
    2. the midpoint while the ends are more than 2 octaves apart, and later at every eighth trial
       and after 16 trials;
    3. otherwise the point at which the straight line between the two counts equals `keep`. When the
       same end moves twice in a row, the count of the other end is scaled down (Anderson and
       Bjorck), which makes that end move as well.

    Args:
      counted: uint32 [groups...] -> uint32 [groups...], the number of orders that reach a value.
      keep: uint32, [] or [groups...]; from 0 to the size.
      zero: uint32 [groups...], zeros that are sharded like the counts.
      size: number of orders in a group.

    Returns:
      The value, uint32 [groups...], and how many orders reach it, uint32.

    Example: the 4 largest of 9 scores. Reading the trials as scores, 9 of them reach 2^-7 (too
    many, so low = 2^-7), 9 reach 2^-1 (6 octaves up), 0 reach 2^11 (12 octaves up, so the bracket
    is closed), 0 reach 32 (midpoint) and 4 reach 4 (midpoint): done after five counts.
      >>> order = ordered(jnp.array([[3.0, 1.0, 2.0], [8.0, 5.0, 1.0], [0.5, 6.0, 4.0]]))
      >>> counted = lambda trial: count(order >= trial, (0, 1))
      >>> found, reached = reaching(counted, jnp.uint32(4), zeros(order, (0, 1)), 9)
      >>> score_of(found).item(), reached.item()
      (4.0, 4)

    With ties no value may have exactly `keep`. In the next array 3 scores lie above 2 and 7 reach
    it, so for `keep` = 4 the 4th largest order, that of 2, is found with all 7.
      >>> order = ordered(jnp.array([[3.0, 2.0, 2.0], [8.0, 2.0, 1.0], [0.5, 6.0, 2.0]]))
      >>> found, reached = reaching(counted, jnp.uint32(4), zeros(order, (0, 1)), 9)
      >>> score_of(found).item(), reached.item()
      (2.0, 7)

    Reference: Anderson and Bjorck, A new high order method of regula falsi type, BIT 13, 1973.
    """
    low, high = jnp.where(keep == 0, ~zero, zero), ~zero
    many = jnp.where(keep == 0, zero, zero + jnp.uint32(size))
    done = lambda low, high, many: (many == keep) | (high - low <= 1)

    def closer(state: tuple) -> tuple:
        low, high, many, over, under, rose, lines, turn = state
        width, stop = high - low, done(low, high, many)
        reach = jnp.uint32(3 * OCTAVE) << jnp.minimum(turn, 4)
        near = width <= 2 * OCTAVE
        line = jnp.minimum((over + 0.5) / (over + under + 1.0), 1.0 - 2.0**-12)
        part = jnp.where(near & (lines % 8 != 7) & (lines < 16), line, 0.5)
        step = jnp.minimum((part * width.astype(jnp.float32)).astype(jnp.uint32), width - 1)
        step = jnp.where(high == ~zero, jnp.minimum(step, reach), step)
        step = jnp.where(low == 0, width - jnp.minimum(width - step, reach), step)
        step = jnp.where((low == 0) & (high == ~zero), jnp.uint32(FIRST), step)
        trial = low + jnp.maximum(step, 1)
        reached = counted(trial)
        rise = reached >= keep
        gap = jnp.where(rise, reached - keep, keep - reached).astype(jnp.float32)
        scale = 1.0 - gap / jnp.maximum(jnp.where(rise, over, under), 1.0)
        scale = jnp.where(scale > 0, scale, 0.5)
        scale = jnp.where(rise == rose, scale, 1.0)
        low, many = (jnp.where(rise & ~stop, *two) for two in ((trial, low), (reached, many)))
        high = jnp.where(rise | stop, high, trial)
        over, under = jnp.where(rise, gap, over * scale), jnp.where(rise, under * scale, gap)
        return low, high, many, over, under, rise, lines + near.astype(jnp.uint32), turn + 1

    over, under = (many - keep).astype(jnp.float32), (keep + 0 * many).astype(jnp.float32)
    begin = (low, high, many, over, under, done(low, high, many), 0 * many, jnp.uint32(0))
    low, _, many, *_ = lax.while_loop(lambda now: ~jnp.all(done(*now[:3])), closer, begin)
    return low, many


def first_kept(marked: Array, keep: Array, axes: tuple[int, ...]) -> Array:
    """The reversed index that exactly `keep` marked entries reach: uint32, of length 1 along axes.

    Found bit by bit from the highest one. `reversed_index` counts down, so the entries that reach
    it are the first `keep` marked ones.

    Example: the reversed indices of a 3x3 array are 9 8 7 / 6 5 4 / 3 2 1. Of the marked 8, 6, 3
    and 1, exactly two reach 6.
      >>> marked = jnp.array([[0, 1, 0], [1, 0, 0], [1, 0, 1]], bool)
      >>> first_kept(marked, jnp.uint32(2), (0, 1)).item()
      6
    """
    early = reversed_index(marked.shape, axes)
    bits = 1 + math.prod(marked.shape[a] for a in axes).bit_length()  # one more, for keep = 0

    def set_bit(i: Array, found: Array) -> Array:
        trial = found | (jnp.uint32(1) << jnp.asarray(bits - 1 - i, jnp.uint32))
        return jnp.where(count((early >= trial) & marked, axes) >= keep, trial, found)

    none = zeros(marked.astype(jnp.uint32), axes)
    return lax.fori_loop(jnp.int32(0), jnp.int32(bits), set_bit, none)


def zeros(order: Array, axes: tuple[int, ...]) -> Array:
    """Zeros of length 1 along axes, sharded like counts along them."""
    return (order & jnp.uint32(0)).max(axis=axes, keepdims=True)


def ordered(score: Array) -> Array:
    """uint32 values that sort like the scores; 0 for NaN."""
    bits = lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)
    bits = jnp.where(bits << 1 == 0, jnp.zeros_like(bits), bits)  # -0 ties with +0
    sign = jnp.uint32(1 << 31)
    return jnp.where(jnp.isnan(score), jnp.uint32(0), jnp.where(bits >= sign, ~bits, bits | sign))


def score_of(order: Array) -> Array:
    """The inverse of `ordered`, float32."""
    sign = jnp.uint32(1 << 31)
    return lax.bitcast_convert_type(jnp.where(order >= sign, order ^ sign, ~order), jnp.float32)


def reversed_index(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """uint32 index along the competing axes, counting down from their size to 1."""
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    size = stride = math.prod(shape[a] for a in axes)
    for axis in axes:
        stride //= max(1, shape[axis])
        along = lax.broadcasted_iota(
            jnp.uint32, [n if a == axis else 1 for a, n in enumerate(shape)], axis
        )
        index = index + along * jnp.uint32(stride)
    return jnp.broadcast_to(jnp.uint32(size) - index, shape)
