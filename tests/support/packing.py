"""Formats and layers that tests of packing share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsparse.export import blocks, csr
from jsparse.export._packing import compiled

FORMATS = {
    "csr": csr(),
    "csr in groups": csr(16),
    "blocks": blocks((8, 4)),
    "ragged": blocks((7, 5)),
}
BATCHES = (1, 3, 20, 67)  # a row; less than a vector; parts of a tile; several tiles


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def matrix(inputs: int, outputs: int, density: float = 0.3) -> np.ndarray:
    """A sparse matrix with empty inputs and outputs, and two quarters empty, so blocks save room.

    Of the other two quarters `density` is kept.
    """
    kept = np.random.default_rng(1).random((inputs, outputs)) < density
    kept[:, ::7], kept[3] = False, False
    kept[: inputs // 2, outputs // 2 :] = kept[inputs // 2 :, : outputs // 2] = False
    return draw(inputs, outputs) * kept


def linear(kernel: np.ndarray, **settings) -> nnx.Linear:
    """A layer with this kernel and a drawn bias."""
    given = lambda array: lambda key, shape, dtype: jnp.asarray(array.astype(dtype))
    settings |= {"kernel_init": given(kernel), "bias_init": given(draw(kernel.shape[1]))}
    return nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0), **settings)


@functools.partial(jax.jit, static_argnums=1)
def outputs_and_gradients(state, graphdef, x):
    """y, d loss / d parameters and d loss / dx of a model."""
    loss = lambda s, x: (nnx.merge(graphdef, *s)(x).astype(jnp.float32) ** 2).mean()
    by_state, by_x = jax.grad(lambda p, x: loss((p, state[1]), x), (0, 1))(state[0], x)
    return nnx.merge(graphdef, *state)(x), by_state, by_x


needs_compiler = pytest.mark.skipif(not compiled.find_compiler(), reason="no C++ compiler")
