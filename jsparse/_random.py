"""Random numbers of rules: those of `jax.random` to the bit, by code that compiles faster.

On a CPU `jax.random` lowers Threefry to loops, which XLA compiles again for every layer. Here its
rounds are written out, which halves the time to compile a draw and cuts its run time to a third.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jsparse._counting import index_along

PARITY = np.uint32(0x1BD11BDA)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def new_draw(key: Array) -> Array:
    """A source of random numbers: float32 [2], a seed and the number of draws so far.

    Both are whole numbers stored as floats, which `jax.grad` over a whole model, numpy and every
    checkpoint format accept; they are exact up to 2^24, 16 million train steps.
    """
    seed = jax.random.bits(key, dtype=jnp.uint32) >> 8
    return jnp.stack([seed.astype(jnp.float32), jnp.zeros((), jnp.float32)])


def draw_key(draw: Array) -> Array:
    """The key of the current draw, []: its seed and number, which Threefry mixes when it is used.

    Example:
      >>> jax.random.key_data(draw_key(jnp.array([3.0, 5.0]))).tolist()
      [3, 5]
    """
    return jax.random.wrap_key_data(draw.astype(jnp.uint32), impl="threefry2x32")


def next_draw(draw: Array) -> Array:
    """The source for the next train step."""
    return counted("draw", draw) + jnp.array([0.0, 1.0], draw.dtype)


def counted(name: str, value: Array) -> Array:
    """A state's count of train steps, in floats; refused if it was cast to fewer bits."""
    if jnp.finfo(value.dtype).bits < 32:
        raise TypeError(
            f"the {name} of a rule has become {value.dtype}, which cannot count train steps; cast "
            "only the parameters (nnx.Param), not the whole state"
        )
    return value


def uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """`jax.random.uniform`, in [0, 1): fast for float32 and fewer than 2^32 numbers.

    The key is one of `draw_key`.

    Example:
      >>> key = draw_key(jnp.array([3.0, 5.0]))
      >>> uniform(key, (2,), jnp.float32).tolist() == jax.random.uniform(key, (2,)).tolist()
      True
    """
    size = math.prod(shape)
    if jnp.dtype(dtype) != jnp.float32 or size >= 2**32:
        return jax.random.uniform(key, shape, dtype)
    one, two = jax.random.key_data(key)
    index = index_along(shape, tuple(range(len(shape))))
    high, low = _threefry(one, two, jnp.zeros_like(one), index)
    mantissa = (high ^ low) >> 9
    from_1_to_2 = lax.bitcast_convert_type(mantissa | np.uint32(0x3F800000), jnp.float32)
    return from_1_to_2 - 1.0


def numpy_generator(key: Array) -> np.random.Generator:
    """NumPy's generator, seeded by a key of the new style or the old one."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key) if typed else key))


@partial(jax.jit, inline=True)  # outside jit one program instead of one for each operation
def _threefry(key_0: Array, key_1: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds: keys and x uint32 [], y uint32 [...] -> two of uint32 [...].

    Reference: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 3.3.
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ PARITY)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(bits) | y >> np.uint32(32 - bits))
        x, y = x + keys[(group + 1) % 3], y + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return x, y
