"""Layers that hold single kept weights: y = x W, with a kernel for the CPU.

The kernel is C++ (`kernels/`); on other platforms, on meshes and without a compiler, the matrix is
filled in and multiplied as a whole, which is always correct.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._values import check_function, check_whole
from jsparse._variables import check_together
from jsparse.export._packing.bilinear import bilinear, dense_kernel, plain_outer
from jsparse.export._packing.formats import MOST, CsrArrays, csr_matrix
from jsparse.export._packing.packed import WIDEST, Linked, Products, as_shape, has_kernel
from jsparse.export._packing.structure import CsrSizes


class Plan(NamedTuple):
    """Sizes of a sparse product, known when it is compiled.

    Attributes:
      inputs: of the matrix.
      outputs: of the matrix.
      width: inputs a group.
      lanes: floats in a vector, at most.
    """

    inputs: int
    outputs: int
    width: int
    lanes: int = WIDEST

    @property
    def group(self) -> int:
        """Inputs of the matrix that are stored together."""
        return self.width

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.inputs, self.outputs

    def x_shape(self, batch: Any) -> tuple[Any, int]:
        """The shape of x."""
        return batch, self.inputs

    def multiply(self, kernel: Array, x: Array) -> Array:
        """The product in plain JAX."""
        return x @ kernel

    def by_kernel(self, name: str, shape: tuple[int, ...], *args: Array) -> Array:
        """What a kernel for the CPU makes of float32 arrays."""
        call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.float32))
        return call(*args, width=np.int64(self.width), lanes=np.int64(self.lanes))


_product, _, _outer = bilinear("csr_product", "jsparse_csr")
Product = Callable[[CsrArrays, Array, Plan], Array]


def csr_dot(arrays: CsrArrays, x: Array, plan: Plan) -> Array:
    """x W for a sparse matrix W and x [..., in], of the same dtype as the values."""
    if not arrays.values.size or not has_kernel(x, *arrays):
        return plain_csr_dot(arrays, x, plan)
    rows = x.reshape(-1, plan.inputs).astype(jnp.float32)
    values = arrays.values.astype(jnp.float32)
    y = _product(plan, values, rows, arrays.indices, arrays.starts)
    return y.astype(x.dtype).reshape(*x.shape[:-1], plan.outputs)


def plain_csr_dot(arrays: CsrArrays, x: Array, plan: Plan) -> Array:
    """`csr_dot` in plain JAX, for any platform: the matrix is filled in at each call."""
    if not arrays.values.size:
        return jnp.zeros((*x.shape[:-1], plan.outputs), x.dtype)
    return x @ dense_kernel(arrays, plan)


def gradients_at(plan: Plan, indices: Array, starts: Array, x: Array, dy: Array) -> Array:
    """The gradient x^T dy of y = x W at these places only, as in `CsrArrays`: float32 [places]."""
    rows = x.reshape(-1, plan.inputs).astype(jnp.float32)
    given = rows, dy.reshape(-1, plan.outputs).astype(jnp.float32), indices, starts
    return (_outer if has_kernel(*given) else plain_outer)(plan, *given)


class Csr(Linked):
    """A linear layer that holds only the weights it keeps: y = x W + b.

    `pack(model, csr())` makes it from a trained layer; `random_csr`, `erdos_renyi_csr` and
    `csr_from_arrays` make one without a dense matrix; a new one is all zeros, to be filled from a
    file. It can be trained like any layer: the values and the bias are its parameters, and the mask
    is fixed unless a `jsparse.PackedOptimizer` changes it.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      kept: weights.
      width: inputs a group, at most 65536: see `jsparse.export.csr`.
      stack: axes of layers that are stacked in one, which `nnx.scan` and `nnx.vmap` split; each has
        room for `kept` weights.
      use_bias: whether there is a bias b.
      dtype: of the computation; that of x and the values if not given.
      param_dtype: of the values.
      product: `csr_dot`, or `plain_csr_dot` for programs that run on other machines.

    Raises:
      ValueError: sizes that no matrix has.

    Example:
      >>> Csr(784, 300, kept=1000, width=784).values.shape
      (1000,)
    """

    format = "csr"
    products = Products(csr_dot, plain_csr_dot)

    def __init__(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        *,
        kept: int,
        width: int,
        stack: Sequence[int] = (),
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        product: Product = csr_dot,
    ):
        check_whole(width=width)
        if width > MOST:
            raise ValueError(f"width, a group of {width} inputs; allowed are 1 to {MOST}")
        check_function(product=product)
        self._set_features(in_features, out_features)
        self.width, self.product = width, product
        stack = () if stack == () else as_shape(stack=stack)
        sizes = CsrSizes(self.in_features, self.out_features, kept, width, stack)
        self._set_arrays(sizes, use_bias, dtype, param_dtype)

    @property
    def sizes(self) -> CsrSizes:
        """Inputs and outputs of the matrix, room for links, and inputs a group."""
        kept = self.values.shape[-1]
        return CsrSizes(self.in_features, self.out_features, kept, self.width, self.stack)

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes of layers that are stacked in one; () for one layer, also within `nnx.scan`."""
        return self.values.shape[:-1]

    @property
    def plan(self) -> Plan:
        """What the product needs besides the arrays."""
        return Plan(self.in_features, self.out_features, self.width)

    def _multiplied(self, x: Array, floats: Array) -> Array:
        check_together("indices", self.indices, self.values)
        y = super()._multiplied(x, floats)
        return y if self.probe is None else self.probe(y, x, gradients_at, self.plan)

    def kernel_matrix(self) -> Array:
        """The whole kernel [*stack, in, out], with zeros where nothing is kept."""
        shape = (self.in_features, self.out_features)
        whole = lambda arrays: csr_matrix(arrays, shape, self.width)
        for _ in self.stack:
            whole = jax.vmap(whole)
        return whole(self.arrays(self.values[...]))
