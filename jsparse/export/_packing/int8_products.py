"""Products with matrices of 8-bit whole numbers that have a scale for each output: y = s (x Q).

Q is what is kept of a kernel, divided by the scale of its output and rounded. Where single weights
are kept, positions take a byte too: an index within a group of at most 255 inputs, and for each
output of a group how many weights it has. The kernels for the CPU read these bytes as they are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._score import wide as wide_type
from jsparse.export._packing.bilinear import dense_kernel
from jsparse.export._packing.block import plain_dot
from jsparse.export._packing.csr import Plan
from jsparse.export._packing.formats import BlockArrays, CsrArrays, block_matrix, on_mesh
from jsparse.export._packing.packed import by_kernel, has_kernel


class CsrInt8Arrays(NamedTuple):
    """The kept weights of a matrix [in, out], by group of `width` inputs, then by output.

    Attributes:
      values: [kept], int8.
      indices: [kept], uint8, the input within its group.
      counts: [groups * out], uint8, how many weights each output of each group has.
      scale: [out], the weight that a value of 1 represents.
    """

    values: Array
    indices: Array
    counts: Array
    scale: Array


class BlockInt8Arrays(NamedTuple):
    """The kept blocks of a matrix, as in `BlockArrays`, with int8 values and a scale [out]."""

    values: Array
    rows: Array
    starts: Array
    scale: Array


def quantized(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [in, out] as int8, with scales [out]: the largest weight of an output is 127.

    If its dtype lacks this scale, the next larger one is used, as none may be clipped.

    Raises:
      ValueError: a weight is infinite or NaN.
    """
    exact = kernel.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("a weight is infinite or NaN, which int8 cannot hold; repair the kernel")
    most = np.abs(exact).max(0, initial=0.0)
    read_as_zero_below = jnp.finfo(wide_type(kernel.dtype)).tiny
    least = max(float(jnp.finfo(kernel.dtype).smallest_subnormal), float(read_as_zero_below))
    scale = np.maximum((most / 127).astype(kernel.dtype), np.asarray(least, kernel.dtype))
    larger = np.nextafter(scale, np.asarray(np.inf, scale.dtype))
    scale = np.where(most > 127.5 * scale.astype(np.float64), larger, scale)
    scale = np.where(most > 0, scale, 1).astype(kernel.dtype)
    rounded = np.round(exact / scale.astype(np.float64))
    return np.clip(rounded, -127, 127).astype(np.int8), scale


@functools.partial(jax.jit, inline=True)
def starts_from(counts: Array) -> Array:
    """The places where outputs begin, as `CsrArrays` has them."""
    return jnp.pad(jnp.cumsum(counts, dtype=jnp.int32), (1, 0))


def csr_int8_dot(arrays: CsrInt8Arrays, x: Array, plan: Plan) -> Array:
    """s (x Q) where single weights are kept: `csr_dot` with a scale for each output."""
    if not arrays.values.size or not has_kernel(x, *arrays):
        return plain_csr_int8_dot(arrays, x, plan)
    return _scaled(_csr_product(plan), arrays, x)


def plain_csr_int8_dot(arrays: CsrInt8Arrays, x: Array, plan: Plan) -> Array:
    """`csr_int8_dot` in plain JAX, for any platform: the matrix is filled in at each call."""
    return _scaled(functools.partial(_plain_csr, plan), arrays, x)


def block_int8_dot(arrays: BlockInt8Arrays, x: Array, outputs: int) -> Array:
    """s (x Q) where blocks are kept: `block_dot` with a scale for each output."""
    if not arrays.values.size or not has_kernel(x, *arrays):
        return plain_block_int8_dot(arrays, x, outputs)
    return _scaled(_block_product(outputs), arrays, x)


def plain_block_int8_dot(arrays: BlockInt8Arrays, x: Array, outputs: int) -> Array:
    """`block_int8_dot` in plain JAX, for any platform."""
    return _scaled(functools.partial(_plain_block, outputs), arrays, x)


def _scaled(product: Callable, arrays: CsrInt8Arrays | BlockInt8Arrays, x: Array) -> Array:
    """s (x Q), summed in float32 or wider: sums of numbers up to 127 exceed float16."""
    *matrix, scale = arrays
    if not arrays.values.size:
        return jnp.zeros((*x.shape[:-1], scale.size), x.dtype)
    sums = wide_type(x.dtype)
    y: Any = product(*matrix, x.reshape(-1, x.shape[-1]).astype(sums))
    y = (y * scale.astype(sums)[None]).astype(x.dtype)
    return y.reshape(*x.shape[:-1], scale.size)


def _plain_csr(plan: Plan, values: Array, indices: Array, counts: Array, x: Array) -> Array:
    whole = dense_kernel(CsrArrays(values, indices, starts_from(counts)), plan)
    return x @ whole.astype(x.dtype)


def _plain_block(outputs: int, values: Array, rows: Array, starts: Array, x: Array) -> Array:
    arrays = BlockArrays(values.astype(x.dtype), rows, starts)
    if on_mesh(x, *arrays):
        return x @ block_matrix(arrays, (x.shape[-1], outputs))
    return plain_dot(arrays, x, outputs)


@functools.cache
def _csr_product(plan: Plan) -> Callable:
    plain = functools.partial(_plain_csr, plan)
    width = np.int64(plan.width)
    return by_kernel("jsparse_csr_int8_forward", plan.outputs, plain, width=width)


@functools.cache
def _block_product(outputs: int) -> Callable:
    plain = functools.partial(_plain_block, outputs)
    return by_kernel("jsparse_block_int8_forward", outputs, plain)
