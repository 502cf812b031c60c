"""Kernels for GPUs and TPUs give the product with the kept blocks, interpreted or lowered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse.export._packing import pallas
from jsparse.export._packing.block import plain_dot
from jsparse.export._packing.formats import block_arrays
from jsparse.export._packing.mosaic import mosaic_dot
from tests.support.packing import draw, matrix

KERNEL = matrix(200, 300) * np.kron([[1, 0, 0], [0, 1, 0]], np.ones((128, 128)))[:200, :300]


def test_tpu_interpreted():
    arrays, x = block_arrays(np.float32(KERNEL), (128, 128)), jnp.asarray(draw(20, 200))
    y = pallas.tpu_dot(arrays, x, 300, tile=16, interpret=True)
    np.testing.assert_allclose(y, x @ np.float32(KERNEL), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*Triton.*:DeprecationWarning")
def test_gpu_interpreted():
    arrays, x = block_arrays(np.float32(KERNEL), (32, 32)), jnp.asarray(draw(20, 200))
    y = pallas.gpu_dot(arrays, x, 300, tile=16, interpret=True)
    np.testing.assert_allclose(y, x @ np.float32(KERNEL), atol=1e-4)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowered_for_the_platform(platform):
    if platform == "cuda" and jax.version.__version_info__ >= (0, 12):
        pytest.skip("this JAX lowers Triton kernels only where a GPU is")
    arrays, x = block_arrays(np.float32(KERNEL), (128, 128)), jnp.asarray(draw(20, 200))
    lowered = (
        jax.jit(lambda x: pallas.pallas_dot(arrays, x, 300))
        .trace(x)
        .lower(lowering_platforms=(platform,))
    )
    assert {"tpu": "tpu_custom_call", "cuda": "triton"}[platform] in lowered.as_text()
    np.testing.assert_allclose(pallas.pallas_dot(arrays, x, 300), x @ np.float32(KERNEL), atol=1e-4)


def half_blocks():
    """Blocks of 64 in bfloat16, an output block without any, and the product with them."""
    kernel = (
        matrix(250, 190) * np.kron([[1, 0, 0]] * 3 + [[1, 0, 1]], np.ones((64, 64)))[:250, :190]
    )
    arrays = block_arrays(np.float32(kernel), (64, 64))
    arrays = arrays._replace(values=jnp.asarray(arrays.values, jnp.bfloat16))
    x = jnp.asarray(draw(70, 250), jnp.bfloat16)
    return arrays, x, plain_dot(arrays, x, 190)


def test_mosaic_interpreted():
    from jax.experimental.pallas import mosaic_gpu

    if not hasattr(mosaic_gpu, "InterpretGPUParams"):
        pytest.skip("this JAX interprets no Mosaic GPU kernels")
    arrays, x, expected = half_blocks()
    params = mosaic_gpu.InterpretGPUParams(detect_races=True)
    y = mosaic_dot(arrays, x, 190, interpret=params)
    np.testing.assert_allclose(*(np.float32(a) for a in (y, expected)), atol=0.5)
    assert not np.float32(y)[:, 64:128].any()


def test_mosaic_takes_over_where_triton_is_gone(monkeypatch):
    if jax.version.__version_info__ < (0, 10):
        pytest.skip("this JAX has other names for Mosaic GPU")
    monkeypatch.setattr(pallas, "has_triton", lambda: False)
    monkeypatch.setattr(pallas, "runs_mosaic", lambda: True)
    arrays, x, expected = half_blocks()

    def lowered(arrays, outputs):
        jitted = jax.jit(lambda x: pallas.pallas_dot(arrays, x, outputs))
        return jitted.trace(x).lower(lowering_platforms=("cuda",)).as_text()

    # numbers of outputs that no other test has, as what is traced for one is kept
    assert "mosaic_gpu" in lowered(arrays, 189)
    large = block_arrays(np.float32(matrix(250, 187)), (128, 128))  # as large as fits
    large = large._replace(values=jnp.asarray(large.values, jnp.bfloat16))
    assert "mosaic_gpu" in lowered(large, 187)
    single = arrays._replace(values=arrays.values.astype(jnp.float32))
    x = x.astype(jnp.float32)
    assert "mosaic_gpu" not in lowered(single, 188)
    np.testing.assert_allclose(
        pallas.pallas_dot(single, x, 190), np.float32(expected), rtol=0.02, atol=0.5
    )
