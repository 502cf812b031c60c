import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jsparse._step import gate, long_tailed, step, straight_through

numbers = st.floats(-2, 2, width=32, allow_subnormal=False)


def long_tailed_integral(x: Array) -> Array:
    """The antiderivative of `long_tailed` that is zero at zero, between -0.72 and 0.72."""
    size = jnp.abs(x)
    near = 2.0 * size - 2.0 * size**2
    far = 0.48 + 0.4 * (jnp.minimum(size, 1.0) - 0.4)
    return jnp.sign(x) * jnp.where(size <= 0.4, near, far)


def test_long_tailed_is_the_published_slope() -> None:
    x = jnp.array([0.0, 0.2, -0.2, 0.4, 1.0, -1.0, 1.01])
    np.testing.assert_allclose(long_tailed(x), [2, 1.2, 1.2, 0.4, 0.4, 0.4, 0], atol=1e-6)


def test_long_tailed_integrates_to_1_44() -> None:
    assert float(long_tailed_integral(jnp.array(9.0)) - long_tailed_integral(jnp.array(-9.0))) == (
        pytest.approx(1.44, abs=1e-6)
    )


@given(numbers.filter(lambda x: abs(abs(x) - 1) > 1e-2))
def test_slope_is_the_difference_quotient_of_its_integral(x: float) -> None:
    h = 1e-3
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        at = jnp.array(x, jnp.float64)
        quotient = (long_tailed_integral(at + h) - long_tailed_integral(at - h)) / (2 * h)
        np.testing.assert_allclose(jax.grad(step)(at), quotient, atol=5e-3)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_step_is_0_or_1(values: list[float]) -> None:
    x = jnp.array(values, jnp.float32)
    np.testing.assert_array_equal(step(x), np.asarray(values) > 0)


def test_another_slope() -> None:
    assert float(jax.grad(lambda x: step(x, jnp.cos))(0.5)) == pytest.approx(float(jnp.cos(0.5)))


def test_forward_mode_equals_reverse_mode() -> None:
    x = jnp.linspace(-1.5, 1.5, 7)
    f = lambda x: step(x) * x**2
    np.testing.assert_allclose(jax.jacfwd(f)(x), jax.jacrev(f)(x), atol=1e-6)


@pytest.mark.parametrize("product", [gate, straight_through])
def test_masked_products(product) -> None:
    w, m, g = jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0]), jnp.array([5.0, 7.0])
    out, pull = jax.vjp(product, w, m)
    np.testing.assert_array_equal(out, [2, 0])
    expected = {gate: ([5, 0], [5, 7]), straight_through: ([5, 7], [0, 0])}[product]
    for got, want in zip(pull(g), expected, strict=True):
        np.testing.assert_array_equal(got, want)
