"""The kept part of a matrix as plain arrays: single weights (`csr_arrays`) or blocks."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOST = 1 << 16
"""Inputs that a 16-bit index can address."""
MOST_INT8 = (1 << 8) - 1
"""Inputs of a group whose weights an 8-bit number can count."""
MOST_KEPT = (1 << 31) - 1
"""Weights, or blocks, that a 32-bit index can count."""


class CsrArrays(NamedTuple):
    """The kept weights of a matrix [in, out], by group of `width` inputs, then by output.

    Attributes:
      values: [kept].
      indices: [kept], the input within its group.
      starts: [groups * out + 1], where each output of each group begins; group after group.
    """

    values: Array
    indices: Array
    starts: Array


class BlockArrays(NamedTuple):
    """The kept blocks of a matrix, by output block; those at the edges are filled with zeros.

    Attributes:
      values: [kept, wide, high], blocks of `wide` inputs and `high` outputs.
      rows: [kept], the input block of each.
      starts: [output blocks + 1], where each output block begins.
    """

    values: Array
    rows: Array
    starts: Array


def group_width(kernel: np.ndarray) -> int:
    """Inputs a group of [..., in, out] for batches: about ten weights per output.

    That is 256 or 512, whose inputs fit the nearest cache; all inputs (at most 65536) if so few
    weights are kept that groups cost more.
    """
    return width_at(np.count_nonzero(kernel) / max(1, kernel.size), kernel.shape[-2])


def width_at(density: float, inputs: int) -> int:
    """`group_width` of a matrix of this density."""
    width = 256 if density > 0.04 else 512 if density > 0.015 else MOST
    return max(1, min(width, inputs))


def features_a_group(matrix: np.ndarray, taps: int) -> int:
    """Features a group of a convolution: at least about 14 weights per output, and 32 features.

    What a tile reads of 32 stays in the nearest cache. Chosen by runs on layers of VGG-16 with 10,
    5 and 3 % of the weights, of 1 and 32 images. It is a power of two, at most all features of the
    matrix [features * taps, outputs], and what 16 bits can address.
    """
    density = max(np.count_nonzero(matrix), 1) / max(1, matrix.size)
    width = 1 << max(5, round(math.log2(14 / (taps * density))))
    return max(1, min(width, matrix.shape[0] // taps, MOST // taps))


def csr_arrays(kernel: np.ndarray, width: int) -> CsrArrays:
    """The nonzero weights of a matrix [in, out], in groups of 1 to 65536 inputs."""
    inputs, outputs = kernel.shape
    values, indices = [kernel[:0].ravel()], [np.zeros(0, np.uint16)]
    counts = [np.zeros(0, np.int64)]
    for first in range(0, inputs, width):
        group = np.ascontiguousarray(kernel[first : first + width].T)
        out, within = np.nonzero(group)
        values.append(group[out, within])
        indices.append(within.astype(np.uint16))
        counts.append(np.bincount(out, minlength=outputs))
    return CsrArrays(
        jax.device_put(np.concatenate(values)),  # jnp.asarray would compile for each new shape
        jax.device_put(np.concatenate(indices)),
        starts_of(np.concatenate(counts)),
    )


def stacked_csr_arrays(kernels: np.ndarray, width: int) -> CsrArrays:
    """Arrays of a stack of matrices [*stack, in, out], each with room for the fullest one."""
    *stack, inputs, outputs = kernels.shape
    each = [csr_arrays(kernel, width) for kernel in kernels.reshape(-1, inputs, outputs)]
    room = max((len(one.values) for one in each), default=0)

    def together(name: str, length: int, dtype: Any) -> Array:
        whole = np.zeros((len(each), length), dtype)
        for row, one in zip(whole, each, strict=True):
            array = getattr(one, name)
            row[: len(array)] = array
        return jax.device_put(whole.reshape(*stack, length))

    starts = together("starts", -(-inputs // width) * outputs + 1, np.int32)
    values, indices = together("values", room, kernels.dtype), together("indices", room, np.uint16)
    return CsrArrays(values, indices, starts)


def csr_places(arrays: CsrArrays, outputs: int, width: int) -> tuple[Array, Array]:
    """(input, output) of each kept weight, [kept] both; past all inputs for those of no output."""
    segment = segments(arrays.starts, arrays.indices.shape[0])
    inputs = arrays.indices.astype(jnp.int32) + (segment // outputs) * width
    return inputs, segment % outputs


@partial(jax.jit, static_argnames=("shape", "width"), inline=True)
def csr_matrix(arrays: CsrArrays, shape: tuple[int, int], width: int) -> Array:
    """The whole matrix [in, out], with zeros where nothing is kept."""
    places = csr_places(arrays, shape[1], width)
    return jnp.zeros(shape, arrays.values.dtype).at[places].set(arrays.values)


def as_matrix(kernel: Any) -> Any:
    """A kernel [..., features, outputs] as a matrix: features, then taps of each."""
    if kernel.ndim == 2:
        return kernel
    *taps, features, outputs = kernel.shape
    split = kernel.reshape(math.prod(taps), features, outputs)
    return split.swapaxes(0, 1).reshape(len(split) * features, outputs)


def as_kernel(matrix: Any, shape: tuple[int, ...]) -> Any:
    """The kernel [..., features, outputs] of such a matrix."""
    if len(shape) == 2:
        return matrix
    *taps, features, outputs = shape
    return matrix.reshape(features, math.prod(taps), outputs).swapaxes(0, 1).reshape(shape)


def block_arrays(kernel: np.ndarray, block: tuple[int, int]) -> BlockArrays:
    """The blocks of a matrix [in, out] that are not all zeros; they may extend past its edges."""
    wide, high = block
    down, across = (-(-length // size) for length, size in zip(kernel.shape, block, strict=True))
    gaps = [(0, down * wide - kernel.shape[0]), (0, across * high - kernel.shape[1])]
    tiles = np.pad(kernel, gaps).reshape(down, wide, across, high).transpose(2, 0, 1, 3)
    column, row = np.nonzero((tiles != 0).any((2, 3)))
    return BlockArrays(
        jax.device_put(tiles[column, row]),
        jax.device_put(row.astype(np.int32)),
        starts_of(np.bincount(column, minlength=across)),
    )


def block_columns(arrays: BlockArrays) -> Array:
    """The output block of each kept block, [kept]."""
    return segments(arrays.starts, arrays.rows.shape[0])


@partial(jax.jit, static_argnames="shape", inline=True)
def block_matrix(arrays: BlockArrays, shape: tuple[int, int]) -> Array:
    """The whole matrix [in, out], with zeros where nothing is kept."""
    _, wide, high = arrays.values.shape
    down, across = -(-shape[0] // wide), -(-shape[1] // high)
    tiles = jnp.zeros((down, across, wide, high), arrays.values.dtype)
    tiles = tiles.at[arrays.rows, block_columns(arrays)].set(arrays.values)
    return tiles.transpose(0, 2, 1, 3).reshape(down * wide, across * high)[: shape[0], : shape[1]]


def padded(x: Array, tile: int, wide: int) -> Array:
    """x with zeros at the end, to fill whole tiles and blocks."""
    return jnp.pad(x, ((0, -x.shape[0] % tile), (0, -x.shape[1] % wide)))


def inside_matrix(arrays: BlockArrays, inputs: int) -> BlockArrays:
    """The same arrays, with positions outside the matrix, as in damaged ones, moved inside."""
    kept, wide, _ = arrays.values.shape
    rows = jnp.clip(arrays.rows, 0, -(-inputs // wide) - 1)
    return arrays._replace(rows=rows, starts=jnp.clip(arrays.starts, 0, kept))


def starts_of(counts: np.ndarray) -> Array:
    """Where each part begins, and where the last one ends."""
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    if starts[-1] > MOST_KEPT:
        raise ValueError(
            f"a layer keeps {starts[-1]:,} weights or blocks, allowed are {MOST_KEPT:,}; leave it "
            "dense, or split it"
        )
    return jax.device_put(starts.astype(np.int32))


def segments(starts: Array, kept: int) -> Array:
    """For each of `kept` entries the n with starts[n] <= entry < starts[n + 1], or the last n."""
    begins = jnp.zeros((kept + 1,), jnp.int32).at[starts[1:]].add(1)  # several if some are empty
    return jnp.cumsum(begins)[:kept]


def on_mesh(*arrays: Array) -> bool:
    """Whether any array is on a mesh, where a kernel for one device cannot run."""
    return any(not jax.typeof(array).sharding.mesh.empty for array in arrays)
