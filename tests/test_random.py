"""Draws of rules are those of `jax.random`, to the bit."""

import jax
import jax.numpy as jnp
import pytest

from jsparse._random import draw_key, uniform


def theirs(seed: int, number: int) -> jax.Array:
    return jax.random.wrap_key_data(jnp.array([seed, number], jnp.uint32), impl="threefry2x32")


def ours(seed: int, number: int) -> jax.Array:
    return draw_key(jnp.array([seed, number], jnp.float32))


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (1, 7), (2**24 - 1, 12_345)])
@pytest.mark.parametrize("shape", [(), (5,), (3, 0), (4, 3, 7)])
def test_draws_equal_those_of_jax(seed: int, number: int, shape: tuple[int, ...]) -> None:
    key = ours(seed, number)
    assert key == theirs(seed, number)
    numbers = uniform(key, shape, jnp.float32)
    assert (numbers == jax.random.uniform(key, shape)).all()
    assert numbers.shape == shape and numbers.dtype == jnp.float32


def test_other_types_and_stacked_layers() -> None:
    key = theirs(3, 4)
    half = uniform(key, (6,), jnp.float16)
    assert half.dtype == jnp.float16
    assert (half == jax.random.uniform(key, (6,), jnp.float16)).all()
    seeds = jnp.arange(3.0)
    draw = lambda seed: uniform(draw_key(jnp.append(seed, 2.0)), (4, 2), jnp.float32)
    stacked = jax.jit(jax.vmap(draw))(seeds)
    assert all((one == draw(seed)).all() for one, seed in zip(stacked, seeds, strict=True))


def test_masks_do_not_depend_on_the_default_generator() -> None:
    with jax.default_prng_impl("rbg"):
        key = ours(3, 4)
    assert key == theirs(3, 4)


def test_draws_of_other_seeds_and_steps_are_independent() -> None:
    grid = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0)), axis=-1).reshape(-1, 2)
    draw = lambda one: uniform(draw_key(one), (4000,), jnp.float32)
    rows = jax.jit(jax.vmap(draw))(grid)
    assert (rows[9] == jax.random.uniform(draw_key(grid[9]), (4000,))).all()
    spread = 12**0.5 * (rows - 0.5)  # mean 0, variance 1
    together = spread @ spread.T / 4000 - jnp.eye(64)
    # 64 means and 2080 correlations, each normal with a deviation of at most 4000^-0.5
    assert jnp.abs(jnp.append(together, spread.mean(axis=1))).max() < 5.5 * 4000**-0.5
