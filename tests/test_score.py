"""Magnitudes of units: exact at any scale, with a gradient that stays finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse._score import magnitude

WEIGHT = jax.random.normal(jax.random.key(0), (3, 4, 5))
TILES = [(1, 1, 1), (3, 4, 1), (3, 1, 1), (2, 2, 3)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("power", [-110, -64, 64, 120])
def test_a_power_of_two_passes_through_exactly(tile: tuple, power: int) -> None:
    scaled = magnitude(WEIGHT * 2.0**power, tile)
    np.testing.assert_array_equal(scaled, magnitude(WEIGHT, tile) * 2.0**power)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e20])
def test_values_and_gradients_at_any_size(tile: tuple, size: float) -> None:
    """d s_u / d w_i = w_i / (|u| s_u): between -1 and 1 whatever the size."""
    weight = WEIGHT * size

    def value(w: np.ndarray) -> float:
        ragged = [n % t for n, t in zip(w.shape, tile, strict=True)]
        padded = np.pad(w, [(0, t - r if r else 0) for r, t in zip(ragged, tile, strict=True)])
        inside = np.pad(
            np.ones(w.shape), [(0, p - n) for n, p in zip(w.shape, padded.shape, strict=True)]
        )
        pairs = [n for g, t in zip(padded.shape, tile, strict=True) for n in (g // t, t)]
        squares, counts = (a.reshape(pairs).sum((1, 3, 5)) for a in (padded**2, inside))
        return np.sqrt(squares / counts)

    exact = np.asarray(weight, np.float64)
    np.testing.assert_allclose(magnitude(weight, tile), value(exact), rtol=2e-6)
    gradient = jax.grad(lambda w: magnitude(w, tile).sum())(weight)
    direction = np.sign(exact) * size
    slope = (value(exact + 1e-4 * direction).sum() - value(exact - 1e-4 * direction).sum()) / 2e-4
    np.testing.assert_allclose((gradient * np.sign(exact)).sum() * size, slope, rtol=1e-4)


def test_single_weights_of_zero_have_no_gradient() -> None:
    weight = jnp.array([0.0, -0.0, 1e-40, -2.0, 3.0])
    score, gradient = jax.jit(jax.value_and_grad(lambda w: magnitude(w, (1,)).sum()))(weight)
    assert score == 5 and gradient[:2].tolist() == [0, 0] and gradient[3:].tolist() == [-1, 1]
    assert magnitude(weight, (1,)).tolist() == np.abs(np.asarray(weight)).tolist()


def test_a_small_unit_beside_a_large_one_keeps_its_size() -> None:
    weight = WEIGHT.at[..., 0].multiply(1e-25).at[..., 1].multiply(1e25).at[..., 2].set(0.0)
    score = magnitude(weight, (3, 4, 1))[0, 0]
    plain = magnitude(WEIGHT, (3, 4, 1))[0, 0]
    np.testing.assert_allclose(score / plain, [1e-25, 1e25, 0.0, 1.0, 1.0], rtol=1e-6)


def test_units_of_zeros_and_infinities() -> None:
    score, gradient = jax.value_and_grad(lambda w: magnitude(w, (3, 4, 5)).sum())(0 * WEIGHT)
    assert score == 0 and not gradient.any()
    curved = jax.hessian(lambda w: magnitude(w, (2, 1)).sum())(jnp.zeros((2, 2)))
    assert np.isfinite(curved).all()
    assert magnitude(WEIGHT.at[0, 0, 0].set(jnp.inf), (3, 4, 5)).item() == jnp.inf
    assert jnp.isnan(magnitude(WEIGHT.at[0, 0, 0].set(jnp.nan), (3, 4, 5))).item()


def test_scores_of_many_layers_keep_the_branch() -> None:
    weights = jnp.stack([jnp.ones((4, 4)), jnp.full((4, 4), 1e25), jnp.full((4, 4), 1e-25)])
    score = lambda weight: magnitude(weight, (4, 1))
    assert "cond[" in str(jax.make_jaxpr(jax.vmap(score))(weights))
    np.testing.assert_array_equal(
        jax.vmap(score)(weights), jnp.stack([score(weight) for weight in weights])
    )
