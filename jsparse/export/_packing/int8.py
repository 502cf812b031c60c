"""Packed layers whose weights are 8-bit whole numbers, with a scale for each output."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._score import wide as wide_type
from jsparse._values import check_whole
from jsparse.export._packing.bilinear import dense_kernel
from jsparse.export._packing.block import Blocks
from jsparse.export._packing.csr import Plan
from jsparse.export._packing.formats import BlockArrays, CsrArrays, block_matrix
from jsparse.export._packing.int8_products import (
    BlockInt8Arrays,
    CsrInt8Arrays,
    block_int8_dot,
    csr_int8_dot,
    plain_block_int8_dot,
    plain_csr_int8_dot,
    starts_from,
)
from jsparse.export._packing.packed import Packed, Products, Structure
from jsparse.export._packing.structure import BlockInt8Sizes, CsrInt8Sizes


class Quantized(nnx.Variable):
    """The kept weights as whole numbers, which are not trained."""


class _Int8(Packed):
    """What both layers have in common: the scale and the bias are parameters, the rest is fixed."""

    values: Any
    scale: nnx.Param

    @property
    def floats(self) -> nnx.Param:
        """The scale, which is trained."""
        return self.scale

    def _set_arrays(self, sizes: Any, use_bias: bool, dtype: Any, param_dtype: Any) -> None:
        super()._set_arrays(sizes, use_bias, dtype, param_dtype)
        self.values = Quantized(self.values[...])
        self.scale[...] = jnp.ones_like(self.scale[...])

    def _promoted(self, x: Array, floats: Array, bias: Array | None) -> Any:
        """x and the bias in the dtype of the computation; scales are too small for 16 bits."""
        x, _, bias = super()._promoted(x, floats, bias)
        return x, floats, bias

    def _whole(self, matrix: Array) -> Array:
        """Q [in, out] with its scale."""
        sums = wide_type(self.param_dtype)
        whole = matrix.astype(sums) * self.scale[...].astype(sums)[None]
        return whole.astype(self.param_dtype)


class CsrInt8(_Int8):
    """A linear layer that holds only the weights it keeps, as int8: y = s (x Q) + b.

    `pack(model, int8(csr()))` makes it from a trained layer; a new one is all zeros, to be filled
    from a file. The scales s and the bias can be trained, Q is fixed.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      kept: weights.
      width: inputs a group, at most 255.
      use_bias: whether b is there.
      dtype: of the computation; that of x and the scale if not given.
      param_dtype: of s and b.

    Raises:
      ValueError: sizes that no matrix has.

    Example:
      >>> CsrInt8(784, 300, kept=1000, width=196).values.dtype.name
      'int8'
    """

    format = "csr int8"
    products = Products(csr_int8_dot, plain_csr_int8_dot)
    array_kind = CsrInt8Arrays
    indices: Structure
    counts: Structure

    def __init__(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        *,
        kept: int,
        width: int,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
    ):
        check_whole(width=width)
        self._set_features(in_features, out_features)
        self.width, self.product = width, self.products.kernel
        sizes = CsrInt8Sizes(self.in_features, self.out_features, kept, width)
        self._set_arrays(sizes, use_bias, dtype, param_dtype)

    @property
    def kept(self) -> int:
        """Weights that are stored, also those that were rounded to 0."""
        return self.values.size

    @property
    def sizes(self) -> CsrInt8Sizes:
        """Inputs and outputs of the matrix, kept weights, and inputs a group."""
        return CsrInt8Sizes(self.in_features, self.out_features, self.values.size, self.width)

    @property
    def plan(self) -> Plan:
        """What the product needs besides the arrays."""
        return Plan(self.in_features, self.out_features, self.width)

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out] in floats, with zeros where nothing is kept."""
        arrays = CsrArrays(self.values[...], self.indices[...], starts_from(self.counts[...]))
        return self._whole(dense_kernel(arrays, self.plan))


class BlockSparseInt8(_Int8, Blocks):
    """A linear layer that holds only the blocks it keeps, as int8: y = s (x Q) + b.

    `pack(model, int8(blocks((64, 64))))` makes it from a trained layer; a new one is all zeros, to
    be filled from a file. The scales s and the bias can be trained, Q is fixed.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      block: inputs and outputs of a block.
      kept: blocks.
      use_bias: whether b is there.
      dtype: of the computation; that of x and the scale if not given.
      param_dtype: of s and b.

    Raises:
      ValueError: sizes that no matrix has.

    Example:
      >>> BlockSparseInt8(784, 300, block=(32, 32), kept=20).values.dtype.name
      'int8'
    """

    format = "blocks int8"
    products = Products(block_int8_dot, plain_block_int8_dot)
    array_kind = BlockInt8Arrays
    sizes_of = BlockInt8Sizes

    def __init__(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        *,
        block: tuple[int, int],
        kept: int,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
    ):
        self._set_blocks(in_features, out_features, block, self.products.kernel)
        self._set_arrays(self._sizes(kept), use_bias, dtype, param_dtype)

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out] in floats, with zeros where nothing is kept."""
        arrays = BlockArrays(self.values[...], self.rows[...], self.starts[...])
        return self._whole(block_matrix(arrays, (self.in_features, self.out_features)))
