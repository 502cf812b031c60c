"""Formats: functions from a dense layer to a packed one, for `pack` and `pick`."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jsparse._values import check_function, check_whole, shown
from jsparse.export._packing.block import BlockSparse, Product, block_dot, check_block
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.csr_conv import CsrConv
from jsparse.export._packing.dense import Dense, features_of, has_window, kernel_of, stack_of
from jsparse.export._packing.formats import (
    MOST,
    MOST_INT8,
    block_arrays,
    csr_arrays,
    features_a_group,
    group_width,
    stacked_csr_arrays,
)
from jsparse.export._packing.int8 import BlockSparseInt8, CsrInt8
from jsparse.export._packing.int8_products import BlockInt8Arrays, CsrInt8Arrays, quantized
from jsparse.export._packing.packed import Packed
from jsparse.export._packing.windows import geometry_of

Format = Callable[[Dense], Packed]
Made = TypeVar("Made", bound=Packed)


class NotStored(ValueError):
    """A format cannot hold such a layer."""


def csr(width: int = 0) -> Format:
    """The format that holds single weights, for unstructured masks.

    Args:
      width: inputs a group: weights are stored by group, then by output, to keep the inputs of a
        group in the nearest cache. 256 to 512 suits batches; 65536, no groups, suits single rows
        and densities below 2 %. By default the density decides, for batches. Each tap of each
        feature of a convolution is an input; 576 to 1152 suits single images.

    Returns:
      A function from a layer to a `Csr`, or for a convolution with a window to a `CsrConv`, for
      `pack`.
    """
    check_whole(0, width=width)

    def packed(layer: Dense) -> Csr | CsrConv:
        kernel = kernel_of(layer)
        if has_window(layer):
            return _convolution(layer, kernel, width)
        chosen = min(width or group_width(kernel), MOST, max(1, kernel.shape[-2]))
        stack = kernel.shape[:-2]
        arrays = (stacked_csr_arrays if stack else csr_arrays)(kernel, chosen)
        made = Csr(
            *features_of(layer),
            kept=arrays.values.shape[-1],
            width=chosen,
            stack=stack,
            **settings_of(layer, kernel.dtype),
        )
        return _filled(made, arrays, layer.bias)

    return packed


def _convolution(layer: Any, kernel: np.ndarray, width: int) -> CsrConv:
    window = geometry_of(layer)
    taps = math.prod(window.kernel_size)
    asked = min(width, MOST) // taps or 1
    chosen = min(asked, kernel.shape[0] // taps) if width else features_a_group(kernel, taps)
    arrays = csr_arrays(kernel, chosen * taps)
    made = CsrConv(
        layer.in_features,
        layer.out_features,
        **window._asdict(),
        kept=len(arrays.values),
        width=chosen,
        **settings_of(layer, kernel.dtype),
    )
    return _filled(made, arrays, layer.bias)


def _filled(made: Made, arrays: Any, bias: Any) -> Made:
    """A new packed layer itself, with what it holds."""
    made._fill(arrays)
    made.bias = bias
    made.check()
    return made


def blocks(block: tuple[int, int], product: Product = block_dot) -> Format:
    """The format that holds whole blocks, for block masks.

    Args:
      block: inputs and outputs of a block; at the edges it may extend past the matrix.
      product: `block_dot`, or `jsparse.export.pallas_dot` for GPU and TPU.

    Returns:
      A function from a layer to a `BlockSparse`, for `pack`.

    Raises:
      ValueError: a side below 1.
    """
    check_block(block)
    check_function(product=product)

    def packed(layer: Dense) -> BlockSparse:
        _refuse_others(layer, "blocks")
        kernel = kernel_of(layer)
        arrays = block_arrays(kernel, block)
        made = BlockSparse(
            *features_of(layer),
            block=block,
            kept=len(arrays.values),
            product=product,
            **settings_of(layer, kernel.dtype),
        )
        return _filled(made, arrays, layer.bias)

    return packed


def int8(format: Format) -> Format:
    """The same format with weights of 8 bits: y = s (x Q) + b, with a scale s for each output.

    Q is the kernel divided by s and rounded, s the largest weight of the output divided by 127, so
    a weight is off by half of s at most. Weights that round to 0 are dropped. Single weights take 2
    bytes each: at 95 % sparsity about 2.7 % of a dense float32 kernel.

    Args:
      format: `csr()` or `blocks((64, 64))`. Groups of more than 255 inputs are cut into equal ones,
        so that positions take 8 bits as well.

    Returns:
      A function from a layer to a `CsrInt8` or a `BlockSparseInt8`, for `pack`. It raises
      ValueError for infinite and NaN weights, and for blocks with a custom product.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> layer.kernel[...] = jnp.array([[0, 0, 0.2], [1, 0, 0], [0.5, 0, 0], [0, 0, -0.1]])
      >>> int8(csr())(layer).values[...].tolist()
      [127, 64, 127, -64]
    """
    check_format(format)

    def packed(layer: Dense) -> Packed:
        _refuse_others(layer, "8-bit weights")
        plain = format(layer)
        matrix, scale = quantized(kernel_of(layer))
        return _quantized(plain, matrix, scale, layer)

    return packed


def _refuse_others(layer: Any, what: str) -> None:
    """Refuse what only `csr()` takes."""
    if has_window(layer):
        window = tuple(layer.kernel_size)
        raise NotStored(f"{what} are for matrices, and its window is {window}; csr() takes it")
    if stack := stack_of(layer):
        raise NotStored(f"{what} are for one matrix, and it is a stack of {stack}; csr() takes it")


def check_format(format: Any, name: str = "format") -> None:
    """Refuse anything but a function from a layer to a packed one."""
    if format in (csr, blocks, int8):
        raise TypeError(f"{name} is {shown(format)}; call it: {format.__name__}(...)")
    if isinstance(format, str):
        raise TypeError(f"{name} must be a function, as jsparse.export.csr() gives; got {format!r}")
    check_function(**{name: format})


def _quantized(plain: Packed, matrix: np.ndarray, scale: np.ndarray, layer: Dense) -> Packed:
    """A matrix of int8 in the format of a packed layer."""
    features, settings = (plain.in_shape, plain.out_shape), settings_of(layer, scale.dtype)
    if isinstance(plain, Csr):
        width = plain.width if plain.width <= MOST_INT8 else _even(plain.in_features)
        values, indices, starts = map(np.asarray, csr_arrays(matrix, width))
        eight = indices.astype(np.uint8), np.diff(starts).astype(np.uint8)
        arrays: Any = CsrInt8Arrays(*map(jax.device_put, (values, *eight, scale)))
        made: Packed = CsrInt8(*features, kept=len(values), width=width, **settings)
    elif isinstance(plain, BlockSparse):
        if plain.product is not block_dot:
            raise ValueError("int8 blocks take no custom product; give blocks(...) without one")
        arrays = BlockInt8Arrays(*block_arrays(matrix, plain.block), jax.device_put(scale))
        kept = len(arrays.values)
        made = BlockSparseInt8(*features, block=plain.block, kept=kept, **settings)
    else:
        raise TypeError(f"format makes a {type(plain).__name__}; int8 takes csr() and blocks()")
    return _filled(made, arrays, layer.bias)


def _even(inputs: int) -> int:
    """Inputs a group, in groups of about the same size, small enough for 8 bits to count them."""
    return -(-inputs // -(-inputs // MOST_INT8))


def settings_of(layer: Any, param_dtype: Any) -> dict[str, Any]:
    """What dense and packed layers have in common."""
    use_bias = layer.bias is not None
    return {"use_bias": use_bias, "dtype": layer.dtype, "param_dtype": param_dtype}
