"""The product with kept blocks as a Mosaic GPU kernel, for Hopper: the form for JAX without Triton.

1. A program for each tile of the batch and each output block sets its sums to zero.
2. For each kept block of that output block, in a pipeline: copy the inputs it reads and its weights
   to shared memory while earlier ones are multiplied (tensor copies), then multiply (wgmma).
3. Copy the sums, rounded, to shared memory and from there to the output.

Tested in interpret mode and lowered; not run on a GPU yet. Pallas is imported on first use.

Reference: the matrix product for Hopper in JAX's documentation of Mosaic GPU, with positions that
are read from memory in place of a range.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse.export._packing.formats import BlockArrays, inside_matrix, padded

TILE, SIDES = 128, (64, 128)
"""Rows of x a program takes, and what a block's sides are."""
STEPS, SHARED = 4, 220 * 1024
"""Blocks that are copied or multiplied at a time, if they fit into these bytes of shared memory."""
FLOATS = ("bfloat16", "float16")
SWIZZLED = 128
"""Bytes of a row of shared memory, as tensor copies lay them and wgmma reads them."""


def runs_mosaic() -> bool:
    """Whether there are devices with wgmma, which are those of compute capability 9.0."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:
        return False
    return all(getattr(one, "compute_capability", "") == "9.0" for one in devices)


def mosaic_dot(
    arrays: BlockArrays, x: Array, outputs: int, *, tile: int = TILE, interpret: Any = None
) -> Array:
    """x W on a Hopper GPU, for x [batch, in], 16-bit floats and blocks whose sides are 64 or 128.

    At least one block is kept. A tile is a multiple of 64 rows of x; to test it on a CPU, give
    `InterpretGPUParams`.
    """
    arrays = inside_matrix(arrays, x.shape[1])
    kept, wide, high = arrays.values.shape
    rows = padded(x, tile, wide)
    sizes = (rows.shape[0] // tile, arrays.starts.shape[0] - 1)
    call = _kernel(sizes, (tile, wide, high), x.dtype, interpret)
    y = call(arrays.starts, arrays.rows, arrays.values.reshape(kept * wide, high), rows)
    return y[: x.shape[0], :outputs]


def _kernel(sizes: tuple[int, int], sides: tuple[int, int, int], dtype: Any, interpret: Any) -> Any:
    """(starts, input blocks, weights [kept * wide, high], x [batch, in]) -> [batch, out].

    The sizes are the numbers of tiles and output blocks; the sides are the rows of a tile, and the
    inputs and outputs of a block.
    """
    from jax.experimental import pallas as pl

    plgpu: Any = importlib.import_module("jax.experimental.pallas.mosaic_gpu")
    tile, wide, high = sides
    transforms = (
        plgpu.TilingTransform((8, SWIZZLED // dtype.itemsize)),
        plgpu.SwizzleTransform(SWIZZLED),
    )
    free = SHARED // dtype.itemsize - tile * high
    steps = min(STEPS, free // ((tile + high) * wide))
    block = functools.partial(plgpu.BlockSpec, transforms=transforms, delay_release=1)

    def body(starts: Any, places: Any, weights: Any, inputs: Any, y: Any, shared: Any) -> None:
        row, column = jax.lax.axis_index("row"), jax.lax.axis_index("column")
        first, last = starts[column], starts[column + 1]

        def add(sums: Any) -> Array:
            def multiply(_: Any, x_shared: Any, w_shared: Any) -> None:
                plgpu.wgmma(sums, x_shared, w_shared)
                plgpu.wgmma_wait(1)  # the block before is done, and its memory free

            plgpu.emit_pipeline(  # 2
                multiply,
                grid=(jnp.maximum(last - first, 0),),
                in_specs=[
                    block((tile, wide), lambda n: (row, places[first + n])),
                    block((wide, high), lambda n: (first + n, 0)),
                ],
                max_concurrent_steps=steps,
            )(inputs, weights)
            plgpu.wgmma_wait(0)
            return sums[...]

        sums = pl.run_scoped(add, plgpu.ACC((tile, high), jnp.float32))  # 1
        shared[...] = sums.astype(y.dtype)  # 3
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(shared, y.at[pl.ds(row * tile, tile), pl.ds(column * high, high)])
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((sizes[0] * tile, sizes[1] * high), dtype),
        scratch_types=[plgpu.SMEM((tile, high), dtype, transforms=transforms)],
        grid=sizes,
        grid_names=("row", "column"),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=interpret,
    )
