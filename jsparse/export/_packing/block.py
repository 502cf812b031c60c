"""Layers that hold kept blocks: y = x W, with a kernel for the CPU and a version in plain JAX.

Plain JAX gathers the inputs of all blocks, multiplies them at once and sums by output block; the
kernel keeps some outputs of a tile in registers. `jsparse.export.pallas_dot` is for GPU and TPU.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._score import wide as wide_type
from jsparse._values import check_function, check_shape
from jsparse.export._packing.formats import BlockArrays, block_columns, block_matrix, on_mesh
from jsparse.export._packing.packed import Packed, Products, Structure, by_kernel, has_kernel
from jsparse.export._packing.structure import BlockSizes

Product = Callable[[BlockArrays, Array, int], Array]


def block_dot(arrays: BlockArrays, x: Array, outputs: int) -> Array:
    """x W for a matrix W of which some blocks are kept.

    Args:
      arrays: what is kept of W.
      x: [..., in], of the same dtype as the values.
      outputs: of W.

    Returns:
      [..., out].
    """
    if not arrays.values.size or not has_kernel(x, *arrays):
        return plain_block_dot(arrays, x, outputs)
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    single = arrays._replace(values=arrays.values.astype(jnp.float32))
    y: Any = _product(outputs)(*single, rows)
    return y.astype(x.dtype).reshape(*x.shape[:-1], outputs)


def plain_block_dot(arrays: BlockArrays, x: Array, outputs: int) -> Array:
    """`block_dot` in plain JAX, for any platform."""
    if not arrays.values.size:
        return jnp.zeros((*x.shape[:-1], outputs), x.dtype)
    if on_mesh(x, *arrays):
        return x @ block_matrix(arrays, (x.shape[-1], outputs))
    y = plain_dot(arrays, x.reshape(-1, x.shape[-1]), outputs)
    return y.reshape(*x.shape[:-1], outputs)


def plain_dot(arrays: BlockArrays, x: Array, outputs: int) -> Array:
    """x W in plain JAX for x [batch, in]: all blocks at once, then sums by output block.

    Sums are float32 or wider, forward and backward: in bfloat16, 4096 ones would add up to 1024.
    """
    _, wide, high = arrays.values.shape
    across = arrays.starts.shape[0] - 1
    sums = wide_type(x.dtype)
    pieces = _pieces(x.astype(sums), wide)[arrays.rows].astype(x.dtype)  # sums dx in float32 too
    each = jnp.einsum("nbw,nwh->nbh", pieces, arrays.values, preferred_element_type=sums)
    y = jax.ops.segment_sum(each, block_columns(arrays), across, indices_are_sorted=True)
    return y.transpose(1, 0, 2).reshape(x.shape[0], across * high)[:, :outputs].astype(x.dtype)


def _pieces(x: Array, wide: int) -> Array:
    """[batch, in] -> [input blocks, batch, wide], with zeros at the end."""
    down = -(-x.shape[1] // wide)
    x = jnp.pad(x, ((0, 0), (0, down * wide - x.shape[1])))
    return x.reshape(x.shape[0], down, wide).transpose(1, 0, 2)


@functools.cache
def _product(outputs: int) -> Any:
    """(values, rows, starts, x [batch, in]) -> [batch, out]."""
    plain = lambda *args: plain_dot(BlockArrays(*args[:3]), args[3], outputs)
    return by_kernel("jsparse_block_forward", outputs, plain)


def check_block(block: tuple[int, int]) -> None:
    """Refuse anything but the two sides of a block."""
    if len(check_shape("block", block)) != 2:
        raise ValueError(f"block must be a tuple of two sides of at least 1; got {block}")


class Blocks(Packed):
    """What layers of blocks have in common: where these are. Abstract."""

    sizes_of: type[BlockSizes]
    block: tuple[int, int]
    rows: Structure
    starts: Structure

    def _set_blocks(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        block: tuple[int, int],
        product: Any,
    ) -> None:
        """Set the sizes of both sides and of a block, and the product."""
        check_block(block)
        self._set_features(in_features, out_features)
        self.block, self.product = (block[0], block[1]), product

    def _sizes(self, kept: int) -> BlockSizes:
        return self.sizes_of(self.in_features, self.out_features, kept, *self.block)

    @property
    def sizes(self) -> BlockSizes:
        """Inputs and outputs of the matrix, kept blocks, and the sides of a block."""
        return self._sizes(self.values.shape[0])

    @property
    def plan(self) -> int:
        """The number of outputs."""
        return self.out_features


class BlockSparse(Blocks):
    """A linear layer that holds only the blocks it keeps: y = x W + b.

    `pack(model, blocks((64, 64)))` makes it from a trained layer; a new one is all zeros, to be
    filled from a file. A block is kept whole: zeros within one are trained like the rest.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      block: inputs and outputs of a block.
      kept: blocks.
      use_bias: whether there is a bias b.
      dtype: of the computation; that of x and the values if not given.
      param_dtype: of the values.
      product: `block_dot`, `pallas_dot` for GPU and TPU, or `plain_block_dot` for programs that run
        on other machines.

    Raises:
      ValueError: sizes that no matrix has.

    Example:
      >>> BlockSparse(784, 300, block=(32, 32), kept=20).values.shape
      (20, 32, 32)
    """

    format = "blocks"
    products = Products(block_dot, plain_block_dot)
    array_kind = BlockArrays
    sizes_of = BlockSizes

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
        product: Product = block_dot,
    ):
        check_function(product=product)
        self._set_blocks(in_features, out_features, block, product)
        self._set_arrays(self._sizes(kept), use_bias, dtype, param_dtype)

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out], with zeros where nothing is kept."""
        arrays = self.arrays(self.values[...])
        return block_matrix(arrays, (self.in_features, self.out_features))
