"""Random numbers of rules: those of `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse._noise import draw_words, folded, uniform
from jsparse.rules._rule import draw_key


def test_the_numbers_are_those_of_jax() -> None:
    seed, number = jnp.uint32(123_456_789), jnp.uint32(2**24 - 1)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)
    words = folded(seed, number)
    np.testing.assert_array_equal(jnp.stack(words), jax.random.key_data(key))
    for shape in ((), (7,), (3, 4, 5), (0, 2)):
        mine = jax.jit(uniform, static_argnums=(1, 2))(words, shape, jnp.float32)
        np.testing.assert_array_equal(mine, jax.random.uniform(key, shape))


@pytest.mark.parametrize("size", [1, 5])
def test_mapped_draws_are_those_of_each(size: int) -> None:
    draws = jnp.stack([jnp.arange(size, dtype=jnp.float32), jnp.full(size, 3.0)], axis=1)
    drawn = lambda draw: uniform(draw_words(draw), (4,), jnp.float32)
    alone = [jax.random.uniform(draw_key(draw), (4,)) for draw in draws]
    np.testing.assert_array_equal(jax.vmap(drawn)(draws), jnp.stack(alone))
