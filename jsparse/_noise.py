"""Random numbers of rules: those of `jax.random`, in one pass and quicker to compile.

On a CPU `jax.random` runs Threefry as a loop that stores two arrays at each of its 5 turns. Written
out, it is fused with what uses the numbers: a quarter of the time for a mask, and a third of the
time to compile it for each layer.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
Words = tuple[Array, Array]


@jax.jit
def threefry(key: Words, words: Words) -> Words:
    """Threefry-2x32 with 20 rounds: uint32 [...] each.

    Reference: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    a, b = words[0] + keys[0], words[1] + keys[1]
    for group in range(5):
        for turn in TURNS[group % 2]:
            a += b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a += keys[(group + 1) % 3]
        b += keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def folded(seed: Array, number: Array) -> Words:
    """`jax.random.fold_in(jax.random.key(seed), number)`: uint32 [] to the two words of a key."""
    zero = jnp.zeros_like(seed)
    return threefry((zero, seed), (zero, number))


def draw_words(draw: Array) -> Words:
    """The two words of the key of a rule's current draw, [2]: uint32 [] each."""
    seed, count = draw.astype(jnp.uint32)
    return folded(seed, count)


def uniform(key: Words, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """`jax.random.uniform`, in [0, 1): the same numbers, [shape].

    Args:
      key: the two words of a Threefry key, uint32 [] each.
      shape: of at most 2^32 entries.
      dtype: a type of floats, 32 bits or more.
    """
    if dtype != jnp.float32 or math.prod(shape) >= 2**32:
        whole = jax.random.wrap_key_data(jnp.stack(key), impl="threefry2x32")
        return jax.random.uniform(whole, shape, dtype)
    index = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    high, low = threefry(key, (jnp.zeros_like(index), index))
    one = np.float32(1.0).view(np.uint32)  # with random digits: a number in [1, 2)
    return lax.bitcast_convert_type(((high ^ low) >> np.uint32(9)) | one, jnp.float32) - 1
