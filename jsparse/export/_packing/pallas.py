"""Products with kept blocks as Pallas kernels: one for TPU, one for GPU, plain JAX elsewhere.

TPU: the grid runs over tiles of the batch and over the blocks, sorted by output block; their
positions are fetched beforehand and say which inputs and outputs to load (scalar prefetch). The
outputs of a block stay in fast memory until the next output block begins.
GPU (Triton): a program for each tile and output block, with a loop over its blocks. Where JAX no
longer has Triton, `mosaic` has the form for Hopper.

Both are tested in interpret mode and lowered for their platforms; their speed has not been measured
yet. Pallas itself is imported on first use.

Reference: Gale et al., "Sparse GPU Kernels for Deep Learning", SC 2020, on the use of blocks; the
  form for TPU follows the JAX documentation on scalar prefetch.
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse.export._packing.block import block_dot, plain_dot
from jsparse.export._packing.formats import (
    BlockArrays,
    block_columns,
    inside_matrix,
    on_mesh,
    padded,
)
from jsparse.export._packing.mosaic import FLOATS, SIDES, mosaic_dot, runs_mosaic
from jsparse.export._packing.packed import by_rows

TPU_TILE, TPU_UNIT = 128, 128
"""Rows of x a program takes, and what a block's sides are multiples of."""
GPU_TILE, GPU_SIDES = 64, (16, 32, 64, 128)
"""Rows of x a program takes, and what a block's sides are."""
TRITON = "jax.experimental.pallas.triton"


def pallas_dot(arrays: BlockArrays, x: Array, outputs: int) -> Array:
    """x W for a matrix W of which some blocks are kept; see `block_dot`.

    The kernels take blocks whose sides are multiples of 128 (TPU), or powers of two from 16 to 128
    (GPU; without Triton, on Hopper alone, 64 or 128 and 16-bit floats); on other platforms, for
    other blocks and on meshes this is `block_dot`.
    """
    if not arrays.values.size or on_mesh(x, *arrays):
        return block_dot(arrays, x, outputs)
    y: Any = _product(outputs)(*arrays, x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], outputs)


@functools.cache
def _product(outputs: int) -> Any:
    bound = lambda dot: lambda *args: dot(BlockArrays(*args[:3]), args[3], outputs)
    plain = bound(plain_dot)

    def product(*args: Array) -> Array:
        sides = args[0].shape[1:]
        by_mosaic = args[0].dtype.name in FLOATS and all(side in SIDES for side in sides)
        kernels = {"cpu": bound(block_dot)}
        if all(side % TPU_UNIT == 0 for side in sides):
            kernels["tpu"] = bound(tpu_dot)
        if has_triton() and all(side in GPU_SIDES for side in sides):
            kernels["cuda"] = bound(gpu_dot)
        elif by_mosaic and not has_triton() and runs_mosaic():
            kernels["cuda"] = bound(mosaic_dot)
        return jax.lax.platform_dependent(*args, default=plain, **kernels)

    return by_rows(product, plain)


def has_triton() -> bool:
    """Whether this JAX can make Triton kernels; later versions will not."""
    return importlib.util.find_spec(TRITON) is not None


def tpu_dot(
    arrays: BlockArrays, x: Array, outputs: int, *, tile: int = TPU_TILE, interpret: Any = False
) -> Array:
    """x W on a TPU, for x [batch, in] and blocks whose sides are multiples of 128; one at least.

    A program takes `tile` rows of x; with `interpret` it runs on any platform, to test it.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    arrays = inside_matrix(arrays, x.shape[1])
    kept, wide, high = arrays.values.shape
    across, columns = arrays.starts.shape[0] - 1, block_columns(arrays)
    rows = padded(x, tile, wide)

    def kernel(rows_ref: Any, columns_ref: Any, x_ref: Any, w_ref: Any, y_ref: Any, sum_ref: Any):
        n = pl.program_id(1)
        column = columns_ref[n]

        @pl.when((n == 0) | (columns_ref[jnp.maximum(n - 1, 0)] != column))
        def _() -> None:
            sum_ref[...] = jnp.zeros_like(sum_ref)

        sum_ref[...] += jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32)

        @pl.when((n == kept - 1) | (columns_ref[jnp.minimum(n + 1, kept - 1)] != column))
        def _() -> None:
            y_ref[...] = sum_ref[...].astype(y_ref.dtype)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(rows.shape[0] // tile, kept),
        in_specs=[
            pl.BlockSpec((tile, wide), lambda b, n, rows, columns: (b, rows[n])),
            pl.BlockSpec((None, wide, high), lambda b, n, rows, columns: (n, 0, 0)),
        ],
        out_specs=pl.BlockSpec((tile, high), lambda b, n, rows, columns: (b, columns[n])),
        scratch_shapes=[pltpu.VMEM((tile, high), jnp.float32)],
    )
    shape = jax.ShapeDtypeStruct((rows.shape[0], across * high), x.dtype)
    call = pl.pallas_call(kernel, grid_spec=grid, out_shape=shape, interpret=interpret)
    y = call(arrays.rows, columns, rows, arrays.values)
    written = jnp.repeat(arrays.starts[1:] > arrays.starts[:-1], high)[None]
    return jnp.where(written, y, jnp.zeros_like(y))[: x.shape[0], :outputs]


def gpu_dot(
    arrays: BlockArrays, x: Array, outputs: int, *, tile: int = GPU_TILE, interpret: bool = False
) -> Array:
    """`tpu_dot` on a GPU, for blocks whose sides are powers of two from 16 to 128."""
    from jax.experimental import pallas as pl

    triton: Any = importlib.import_module(TRITON)
    arrays = inside_matrix(arrays, x.shape[1])
    _, wide, high = arrays.values.shape
    across = arrays.starts.shape[0] - 1
    rows = padded(x, tile, wide)

    def kernel(starts_ref: Any, rows_ref: Any, w_ref: Any, x_ref: Any, y_ref: Any) -> None:
        column = pl.program_id(1)

        def add(n: Array, total: Array) -> Array:
            inputs = x_ref[:, pl.ds(rows_ref[n] * wide, wide)]
            return total + jnp.dot(inputs, w_ref[n], preferred_element_type=jnp.float32)

        zeros = jnp.zeros((tile, high), jnp.float32)
        total = jax.lax.fori_loop(starts_ref[column], starts_ref[column + 1], add, zeros)
        y_ref[...] = total.astype(y_ref.dtype)

    def whole(array: Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda b, j: (0,) * array.ndim)

    call = pl.pallas_call(
        kernel,
        grid=(rows.shape[0] // tile, across),
        in_specs=[
            whole(arrays.starts),
            whole(arrays.rows),
            whole(arrays.values),
            pl.BlockSpec((tile, rows.shape[1]), lambda b, j: (b, 0)),
        ],
        out_specs=pl.BlockSpec((tile, high), lambda b, j: (b, j)),
        out_shape=jax.ShapeDtypeStruct((rows.shape[0], across * high), x.dtype),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
    )
    y = call(arrays.starts, arrays.rows, arrays.values, rows)
    return y[: x.shape[0], :outputs]
