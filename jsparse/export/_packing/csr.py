"""Layers that hold single kept weights: y = x W, with a kernel for the CPU.

The kernel is C++ (`kernels/`); on other platforms, on meshes and without a compiler, the matrix is
filled in and multiplied as a whole, which is always correct.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap

from jsparse._values import check_function, check_whole
from jsparse.export._packing.formats import MOST, CsrArrays, csr_matrix, csr_places, on_mesh
from jsparse.export._packing.packed import (
    WIDEST,
    Packed,
    Products,
    Structure,
    by_rows,
    has_kernel,
    on_cpu,
)
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


Product = Callable[[CsrArrays, Array, Plan], Array]


def csr_dot(arrays: CsrArrays, x: Array, plan: Plan) -> Array:
    """x W for a sparse matrix W.

    Args:
      arrays: what is kept of W.
      x: [..., in], of the same dtype as the values.
      plan: the sizes.

    Returns:
      [..., out].
    """
    if not arrays.values.size or on_mesh(x, *arrays) or not has_kernel(x):
        return plain_csr_dot(arrays, x, plan)
    rows = x.reshape(-1, plan.inputs).astype(jnp.float32)
    values = arrays.values.astype(jnp.float32)
    y: Any = _product(plan, values, rows, arrays.indices, arrays.starts)
    return y.astype(x.dtype).reshape(*x.shape[:-1], plan.outputs)


def plain_csr_dot(arrays: CsrArrays, x: Array, plan: Plan) -> Array:
    """`csr_dot` in plain JAX, for any platform: the matrix is filled in at each call."""
    if not arrays.values.size:
        return jnp.zeros((*x.shape[:-1], plan.outputs), x.dtype)
    return x @ csr_matrix(arrays, (plan.inputs, plan.outputs), plan.width)


def _with_gradients(product: Any, gradients: Any) -> Any:
    """A product (plan, one, other, *structure) that knows its gradients.

    Args:
      product: what to compute.
      gradients: (plan, one, other, structure, gradient of the result) -> those of one and other.
    """
    found = jax.custom_vjp(product, nondiff_argnums=(0,))

    def ahead(plan: Plan, *args: Array) -> tuple[Array, Any]:
        return found(plan, *args), args

    def back(plan: Plan, saved: Any, gradient: Array) -> tuple:
        one, other, *structure = saved
        return *gradients(plan, one, other, structure, gradient), None, None

    found.defvjp(ahead, back)
    return found


def bilinear(forward: Any, backward: Any, weights: Any) -> tuple[Any, Any, Any]:
    """x W, dy W^T and x^T dy where W is kept: the gradients of each are the other two.

    Args:
      forward: plan -> ((values, *structure, x) -> y).
      backward: plan -> ((values, *structure, dy) -> dx).
      weights: plan -> ((*structure, x, dy) -> gradient of the values).

    Returns:
      The three as (plan, one, other, *structure), which know their gradients to any order: of
      values and x, of values and dy, of x and dy.
    """
    product = _with_gradients(
        lambda plan, values, x, *structure: forward(plan)(values, *structure, x),
        lambda plan, values, x, structure, dy: (
            outer(plan, x, dy, *structure),
            transposed(plan, values, dy, *structure),
        ),
    )
    transposed = _with_gradients(
        lambda plan, values, dy, *structure: backward(plan)(values, *structure, dy),
        lambda plan, values, dy, structure, dx: (
            outer(plan, dx, dy, *structure),
            product(plan, values, dx, *structure),
        ),
    )
    outer = _with_gradients(
        lambda plan, x, dy, *structure: weights(plan)(*structure, x, dy),
        lambda plan, x, dy, structure, values: (
            transposed(plan, values, dy, *structure),
            product(plan, values, x, *structure),
        ),
    )
    return product, transposed, outer


def _matrix(plan: Plan, values: Array, indices: Array, starts: Array) -> Array:
    return csr_matrix(CsrArrays(values, indices, starts), (plan.inputs, plan.outputs), plan.width)


def _by_rows(name: str, plan: Plan, size: int, plain: Any) -> Any:
    """(values, indices, starts, rows [batch, ...]) -> [batch, size], by a kernel on the CPU."""
    kernel = lambda *args: _call(name, (args[-1].shape[0], size), plan, *args)
    return by_rows(on_cpu(kernel, plain), plain)


@functools.cache
def _forward(plan: Plan) -> Any:
    """(values, indices, starts, x [batch, in]) -> [batch, out]."""
    plain = lambda *args: args[3] @ _matrix(plan, *args[:3])
    return _by_rows("jsparse_csr_forward", plan, plan.outputs, plain)


@functools.cache
def _backward(plan: Plan) -> Any:
    """(values, indices, starts, dy [batch, out]) -> dx [batch, in]."""
    plain = lambda *args: args[3] @ _matrix(plan, *args[:3]).T
    return _by_rows("jsparse_csr_backward", plan, plan.inputs, plain)


@functools.cache
def _weights(plan: Plan) -> Any:
    """(indices, starts, x [batch, in], dy [batch, out]) -> d values [kept]."""
    plain = functools.partial(_plain_weights, plan)
    kernel = lambda *args: _call("jsparse_csr_weights", args[0].shape, plan, *args)
    return sequential_vmap(on_cpu(kernel, plain))


_product, _transposed, _outer = bilinear(_forward, _backward, _weights)


def gradients_at(plan: Plan, indices: Array, starts: Array, x: Array, dy: Array) -> Array:
    """The gradient x^T dy of y = x W in these places only, float32 [places].

    Args:
      plan: the sizes.
      indices: [places], as in `CsrArrays`.
      starts: likewise.
      x: [batch, in].
      dy: [batch, out].
    """
    given = indices, starts, x.astype(jnp.float32), dy.astype(jnp.float32)
    if on_mesh(*given) or not has_kernel(given[2]):
        return _plain_weights(plan, *given)
    return _weights(plan)(*given)


def _plain_weights(plan: Plan, indices: Array, starts: Array, x: Array, dy: Array) -> Array:
    places = csr_places(CsrArrays(indices, indices, starts), plan.outputs, plan.width)
    return (x.T @ dy).at[places].get(mode="fill", fill_value=0)


def _call(name: str, shape: tuple[int, ...], plan: Plan, *args: Array) -> Array:
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.float32))
    return call(*args, width=np.int64(plan.width), lanes=np.int64(plan.lanes))


class Csr(Packed):
    """A linear layer that holds only the weights it keeps: y = x W + b.

    `pack(model, csr())` makes it from a trained layer; `random_csr`, `erdos_renyi_csr` and
    `csr_from_arrays` make one without a dense matrix; a new one is all zeros, to be filled from a
    file. It can be trained like any layer: the values and the bias are its parameters, and the mask
    is fixed unless a `jsparse.PackedOptimizer` moves it.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      kept: weights.
      width: inputs a group, at most 65536: see `jsparse.export.csr`.
      use_bias: whether b is there.
      dtype: of the computation; that of x and the values if not given.
      param_dtype: of the values.
      product: `csr_dot`, or `plain_csr_dot` for programs that leave this machine.

    Raises:
      ValueError: sizes that no matrix has.

    Example:
      >>> Csr(784, 300, kept=1000, width=784).values.shape
      (1000,)
    """

    format = "csr"
    products = Products(csr_dot, plain_csr_dot)
    probe: Any = None
    """A `Probe` where a `jsparse.PackedOptimizer` grows links by gradient, or None."""

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
        product: Product = csr_dot,
    ):
        check_whole(width=width)
        if width > MOST:
            raise ValueError(f"width, a group of {width} inputs; allowed are 1 to {MOST}")
        check_function(product=product)
        self._set_features(in_features, out_features)
        self.check_settings(kept, use_bias, dtype, param_dtype)
        groups = -(-self.in_features // width)
        self.width = width
        CsrSizes(self.in_features, self.out_features, kept, width).check()
        self.product = product
        self._settle((kept,), use_bias, dtype, param_dtype)
        self.indices = Structure(jnp.zeros((kept,), jnp.uint16))
        self.starts = Structure(jnp.zeros((groups * self.out_features + 1,), jnp.int32))

    @property
    def sizes(self) -> CsrSizes:
        """Of the matrix."""
        return CsrSizes(self.in_features, self.out_features, self.values.size, self.width)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Of the dense kernel, [..., inputs, outputs]; stacked layers have axes before."""
        return (*self.values.shape[:-1], *super().kernel_shape)

    @property
    def kept(self) -> int:
        """Links, also those whose value is 0; not the room for links that were dropped."""
        return int(self.starts[...][..., -1].sum())

    @property
    def loose(self) -> bool:
        """Whether it holds more than its links: see `jsparse.export.trim`."""
        return self.probe is not None or self.kept != self.values.size

    @property
    def plan(self) -> Plan:
        """The sizes."""
        return Plan(self.in_features, self.out_features, self.width)

    def arrays(self, floats: Array) -> CsrArrays:
        """These values with their inputs and where each output begins."""
        return CsrArrays(floats, self.indices[...], self.starts[...])

    def _multiplied(self, x: Array, floats: Array) -> Array:
        y = super()._multiplied(x, floats)
        return y if self.probe is None else self.probe(y, x, self.plan)

    def kernel_matrix(self) -> Array:
        """The whole kernel [in, out], with zeros where nothing is kept."""
        shape = (self.in_features, self.out_features)
        return csr_matrix(self.arrays(self.values[...]), shape, self.width)
