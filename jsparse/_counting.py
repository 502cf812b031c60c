"""Counting: numbers that sort as scores do, and the number that so many of them reach.

Never sorting: it is counted how many scores reach a trial number, 10 to 20 times, up to 50 where
most scores are equal. Each count is a sum, which a sharded array does with an all-reduce, so that 1
and 8 devices find the same.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

HIGHEST = np.uint32(0xFFFFFFFF)
MOST = 2**32 - 2
"""How many scores can compete at most: counts, and places one past the last, are uint32."""
OCTAVE = 1 << 23
"""Distance of the orders of a score and of twice that score."""
FIRST = 0xBC000000
"""The order of 2^-7: where the search for a weight or gradient begins."""


def count(marked: Array, axes: tuple[int, ...]) -> Array:
    """How many are marked, uint32, of length 1 along axes."""
    long = max(axes[:-1] or axes, key=lambda a: marked.shape[a], default=0)
    if axes and marked.shape[long] < 2**16:  # narrow numbers add up faster
        *before, length = marked.shape[: long + 1]
        if length % (8 * jax.device_count()) == 0:  # so that no shard is split
            eighths = marked.reshape(*before, length // 8, 8, *marked.shape[long + 1 :])
            marked = eighths.sum(axis=long + 1, dtype=jnp.uint8)
        marked = marked.sum(axis=long, keepdims=True, dtype=jnp.uint16).astype(jnp.uint32)
    return marked.sum(axis=axes, keepdims=True, dtype=jnp.uint32)


def portion(fraction: float | Array, size: int | Array) -> Array:
    """round(fraction * size) to the nearest integer, exactly: of two equally near, the even one.

    Of a fraction that is a Python number the product is taken in float64. A float32 holds 24 bits,
    so that of an array is put together from products of 12 bits by 12, each of which is exact.

    Args:
      fraction: [], in [0, 1]; an array is used as float32.
      size: integer, [...], from 0 to `MOST`.

    Returns:
      uint32 [...] as the size.

    Example:
      >>> int(portion(0.9, 4096 * 4099)), int(portion(jnp.float32(0.75), 2**32 - 2))
      (15110554, 3221225470)
    """
    if isinstance(fraction, Real) and isinstance(size, int):
        return jnp.asarray(np.uint32(round(float(fraction) * size)))
    fraction, size = jnp.asarray(fraction, jnp.float32), jnp.asarray(size, jnp.uint32)
    bits = lax.bitcast_convert_type(fraction, jnp.uint32) & jnp.uint32(0xFFFFF000)
    coarse = lax.bitcast_convert_type(bits, jnp.float32)
    whole, rest = jnp.zeros_like(size), jnp.zeros(size.shape)
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
    """A number that `keep` of the orders reach, or else the `keep`-th largest order.

    Tried are numbers between one with too many at or above it and one with too few:

    1. 2^-7 first, then 6, 12, 24, 48, 48, ... octaves on, until there are both.
    2. Half-way while they are more than 2 octaves apart, later every eighth time and after 16.
    3. Else where a straight line between the counts meets `keep`. Where the same end moved twice,
       the count of the other one is scaled down (Anderson and Bjorck), so that it moves too.

    Args:
      counted: uint32 [groups...] to uint32 of that shape: how many orders reach a number.
      keep: uint32, [] or [groups...]; from 0 to the size.
      zero: uint32 [groups...], zeros that are sharded as the counts are.
      size: number of orders in a group.

    Returns:
      The number, uint32 [groups...], and how many reach it, uint32.

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
    """The reversed index from which exactly `keep` are marked: uint32, of length 1 along axes."""
    early = reversed_index(marked.shape, axes)
    bits = 1 + math.prod(marked.shape[a] for a in axes).bit_length()  # one more, to keep none

    def set_bit(i: Array, found: Array) -> Array:
        trial = found | (jnp.uint32(1) << jnp.asarray(bits - 1 - i, jnp.uint32))
        return jnp.where(count((early >= trial) & marked, axes) >= keep, trial, found)

    none = zeros(marked.astype(jnp.uint32), axes)
    return lax.fori_loop(jnp.int32(0), jnp.int32(bits), set_bit, none)


def zeros(order: Array, axes: tuple[int, ...]) -> Array:
    """Zeros of length 1 along axes, sharded as counts along them will be."""
    return (order & jnp.uint32(0)).max(axis=axes, keepdims=True)


def ordered(score: Array) -> Array:
    """uint32 that sort as the scores do; 0 for NaN."""
    bits = lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)
    bits = jnp.where(bits << 1 == 0, jnp.zeros_like(bits), bits)  # -0 ties with +0
    sign = jnp.uint32(1 << 31)
    return jnp.where(jnp.isnan(score), jnp.uint32(0), jnp.where(bits >= sign, ~bits, bits | sign))


def score_of(order: Array) -> Array:
    """The inverse of `ordered`, float32."""
    sign = jnp.uint32(1 << 31)
    return lax.bitcast_convert_type(jnp.where(order >= sign, order ^ sign, ~order), jnp.float32)


def reversed_index(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """uint32 index within the competing axes, counted down from their size for the first."""
    index = jnp.zeros((1,) * len(shape), jnp.uint32)
    size = stride = math.prod(shape[a] for a in axes)
    for axis in axes:
        stride //= max(1, shape[axis])
        along = lax.broadcasted_iota(
            jnp.uint32, [n if a == axis else 1 for a, n in enumerate(shape)], axis
        )
        index = index + along * jnp.uint32(stride)
    return jnp.broadcast_to(jnp.uint32(size) - index, shape)
