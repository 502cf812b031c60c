"""Convolutions and pooling of the experiments are the stock ones, in other formulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")

from experiments import networks
from experiments.networks.operations import conv_as_matmul, convolution, max_pool

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_conv_as_matmul_is_the_stock_convolution() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (3, 8, 6, 2)), jax.random.normal(keys[1], (3, 3, 2, 4))
    cases = [((1, 1), "VALID"), ((1, 1), [(1, 2), (0, 1)]), ((2, 2), "SAME"), ((1, 3), "VALID")]
    for strides, padding in cases:

        def stock(x, kernel, strides=strides, padding=padding):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, strides, padding, dimension_numbers=numbers
            )

        fast = lambda x, kernel, s=strides, p=padding: conv_as_matmul(x, kernel, s, p)
        out, pull = jax.vjp(stock, x, kernel)
        ours, ours_pull = jax.vjp(fast, x, kernel)
        np.testing.assert_allclose(ours, out, atol=1e-4)
        for a, b in zip(ours_pull(out), pull(out), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 3)])
def test_convolution_outside_a_scan(kernel: tuple[int, int]) -> None:
    """By XLA, and as a product where the kernel is larger than the map."""
    make = lambda **how: nnx.Conv(2, 3, kernel, rngs=nnx.Rngs(0), **how)
    layer = make(conv_general_dilated=convolution(scanned=False))
    call = jax.jit(lambda x: layer(x), compiler_options=networks.compiler_options())
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 2))
    np.testing.assert_allclose(call(x), make()(x), atol=1e-5)
    taken = [str(eqn.primitive) for eqn in jax.make_jaxpr(layer)(x).eqns]
    assert ("conv_general_dilated" in taken) == (kernel == (3, 3))


def test_conv_as_matmul_refuses_groups() -> None:
    with pytest.raises(ValueError, match="one group"):
        x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
        conv_as_matmul(x, kernel, (1, 1), "VALID", feature_group_count=2)


def test_max_pool_is_the_stock_one_and_its_gradient_too() -> None:
    x = jax.random.randint(jax.random.key(0), (2, 4, 6, 3), 0, 3).astype(jnp.float32)  # with ties
    stock = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(max_pool(x), stock(x))
    weigh = jax.random.normal(jax.random.key(1), (2, 2, 3, 3))
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weigh).sum())(x) for f in (max_pool, stock))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
