"""Draws of rules are those of `jax.random`, to the bit."""

import jax
import jax.numpy as jnp
import pytest

from jsparse._random import folded, uniform


def theirs(seed: int, number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (1, 7), (2**24 - 1, 12_345)])
@pytest.mark.parametrize("shape", [(), (5,), (3, 0), (4, 3, 7)])
def test_draws_equal_those_of_jax(seed: int, number: int, shape: tuple[int, ...]) -> None:
    key = folded(jnp.uint32(seed), jnp.uint32(number))
    assert key == theirs(seed, number)
    ours = uniform(key, shape, jnp.float32)
    assert (ours == jax.random.uniform(key, shape)).all()
    assert ours.shape == shape and ours.dtype == jnp.float32


def test_other_types_and_stacked_layers() -> None:
    key = theirs(3, 4)
    half = uniform(key, (6,), jnp.float16)
    assert half.dtype == jnp.float16
    assert (half == jax.random.uniform(key, (6,), jnp.float16)).all()
    seeds = jnp.arange(3, dtype=jnp.uint32)
    draw = lambda seed: uniform(folded(seed, jnp.uint32(2)), (4, 2), jnp.float32)
    stacked = jax.jit(jax.vmap(draw))(seeds)
    assert all((one == draw(seed)).all() for one, seed in zip(stacked, seeds, strict=True))


def test_masks_do_not_depend_on_the_default_generator() -> None:
    with jax.default_prng_impl("rbg"):
        key = folded(jnp.uint32(3), jnp.uint32(4))
    assert key == theirs(3, 4)
