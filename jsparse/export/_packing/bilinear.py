"""Sparse products as primitives of JAX: compiled on the CPU, and plain JAX on other platforms.

x W, dy W^T, and x^T dy where W is kept, are linear in each of two arrays, and the derivatives of
each are the other two. As primitives they support forward and reverse differentiation, to any
order, and batching.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jsparse.export._packing.formats import CsrArrays, as_kernel, as_matrix, csr_matrix, csr_places


class Plan(Protocol):
    """A product with a sparse matrix, as far as it is known when it is compiled.

    Attributes:
      kernel_shape: of the dense kernel: [inputs, outputs], or of the window before these.
      group: inputs of the matrix that are stored together.
      x_shape: (batch) -> the shape of x.
      multiply: (dense kernel, x) -> the product in plain JAX.
      by_kernel: (name, shape, *arrays) -> what a kernel for the CPU makes of float32 arrays.
    """

    @property
    def kernel_shape(self) -> tuple[int, ...]: ...

    @property
    def group(self) -> int: ...

    def x_shape(self, batch: Any) -> tuple[Any, ...]: ...

    def multiply(self, kernel: Array, x: Array) -> Array: ...

    def by_kernel(self, name: str, shape: tuple[int, ...], *args: Array) -> Array: ...


Product = Callable[..., Array]


def bilinear(name: str, kernels: str) -> tuple[Product, Product, Product]:
    """x W, dy W^T and x^T dy, which know their derivatives.

    Args:
      name: of what is printed of them.
      kernels: what the names of their kernels for the CPU begin with.

    Returns:
      The three, as functions (plan, one, other, *structure) -> array: of the values of W and of
      x [batch, ...]; of the values and of dy [batch, ...]; of x and dy, only where W is kept.
      Nothing is differentiated by the structure, the indices and starts of `CsrArrays`.
    """
    ahead = _primitive(name, f"{kernels}_forward", _product)
    back = _primitive(f"{name}_transposed", f"{kernels}_backward", _transposed)
    places = _primitive(f"{name}_outer", f"{kernels}_weights", plain_outer, rows=False)
    _differentiable(
        ahead, by_one=lambda dy, x: (places, x, dy), by_other=lambda dy, w: (back, w, dy)
    )
    _differentiable(
        back, by_one=lambda dx, dy: (places, dx, dy), by_other=lambda dx, w: (ahead, w, dx)
    )
    _differentiable(places, by_one=lambda w, dy: (back, w, dy), by_other=lambda w, x: (ahead, w, x))
    one, two, three = (functools.partial(_bound, each) for each in (ahead, back, places))
    return one, two, three


def dense_kernel(arrays: CsrArrays, plan: Plan) -> Array:
    """The whole kernel, with zeros where nothing is kept."""
    shape = math.prod(plan.kernel_shape[:-1]), plan.kernel_shape[-1]
    return as_kernel(csr_matrix(arrays, shape, plan.group), plan.kernel_shape)


def _product(plan: Plan, values: Array, x: Array, *structure: Array) -> Array:
    return plan.multiply(dense_kernel(CsrArrays(values, *structure), plan), x)


def _transposed(plan: Plan, values: Array, dy: Array, *structure: Array) -> Array:
    multiply = functools.partial(plan.multiply, dense_kernel(CsrArrays(values, *structure), plan))
    x = jax.ShapeDtypeStruct(plan.x_shape(dy.shape[0]), dy.dtype)
    return jax.linear_transpose(multiply, x)(dy)[0]


def plain_outer(plan: Plan, x: Array, dy: Array, indices: Array, starts: Array) -> Array:
    """x^T dy in plain JAX at these places, as in `CsrArrays`: [places]."""
    kernel = jax.ShapeDtypeStruct(plan.kernel_shape, x.dtype)
    whole = jax.linear_transpose(lambda kernel: plan.multiply(kernel, x), kernel)(dy)[0]
    places = csr_places(CsrArrays(indices, indices, starts), kernel.shape[-1], plan.group)
    return as_matrix(whole).at[places].get(mode="fill", fill_value=0)


def _bound(primitive: Primitive, plan: Plan, *arrays: Array) -> Array:
    return primitive.bind(*arrays, plan=plan)


def _primitive(name: str, kernel: str, plain: Product, *, rows: bool = True) -> Primitive:
    """One of the three with everything but derivatives: a kernel for the CPU, `plain` elsewhere.

    `rows` says that its second array and its result are batches of rows, so that several batches
    can be one with more rows; the kernel then takes the structure after the first array, otherwise
    before it.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="plan"))

    @primitive.def_abstract_eval
    def shaped(*arrays: Any, plan: Plan) -> Any:
        found = _result(plain, plan, arrays)
        return arrays[0].update(shape=found.shape, dtype=found.dtype, weak_type=False)

    def batched(arrays: Any, axes: Any, *, plan: Plan) -> tuple[Array, int]:
        one, other, *structure = arrays
        if rows and all(axis is None for axis in (axes[0], *axes[2:])):
            call = lambda batch: primitive.bind(one, batch, *structure, plan=plan)
            return as_one_batch(call, jnp.moveaxis(other, axes[1], 0)), 0
        return _each(functools.partial(_bound, primitive, plan), arrays, axes), 0

    def by_kernel(*arrays: Array, plan: Plan) -> Array:
        one, other, *structure = arrays
        first = (one, *structure) if rows else (*structure, one)
        return plan.by_kernel(kernel, _result(plain, plan, arrays).shape, *first, other)

    batching.primitive_batchers[primitive] = batched
    by_plain = lambda *arrays, plan: plain(plan, *arrays)
    for platform, lowered in (("cpu", by_kernel), (None, by_plain)):
        rule = mlir.lower_fun(lowered, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


def _result(plain: Product, plan: Plan, arrays: Any) -> jax.ShapeDtypeStruct:
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    return jax.eval_shape(functools.partial(plain, plan), *shapes)


def as_one_batch(call: Callable[[Array], Array], several: Array) -> Array:
    """Several batches [calls, batch, ...] as one with more rows: [calls, batch, ...]."""
    calls, batch, *rest = several.shape
    result = call(several.reshape(calls * batch, *rest))
    return result.reshape(calls, batch, *result.shape[1:])


def _each(call: Callable[..., Array], arrays: Any, axes: Any) -> Array:
    """One after another, as each has its own matrix."""
    moving = {
        n: jnp.moveaxis(arrays[n], axis, 0) for n, axis in enumerate(axes) if axis is not None
    }
    one = lambda taken: call(*(taken.get(n, array) for n, array in enumerate(arrays)))
    return jax.lax.map(one, moving)


def _differentiable(primitive: Primitive, by_one: Callable, by_other: Callable) -> None:
    """Give a primitive, linear in its first two arrays, its derivatives.

    For the cotangent of one of them, `by_one` and `by_other` take the cotangent of the result and
    the other array, and return the primitive that computes it and its two arrays.
    """

    def jvp(primals: Any, tangents: Any, *, plan: Any) -> tuple[Array, Any]:
        one, other, *structure = primals
        pairs = [(tangents[0], other), (one, tangents[1])]
        terms = [
            primitive.bind(*pair, *structure, plan=plan)
            for pair, tangent in zip(pairs, tangents, strict=False)
            if type(tangent) is not ad.Zero
        ]
        return primitive.bind(*primals, plan=plan), functools.reduce(ad.add_jaxvals, terms)

    def transpose(cotangent: Any, one: Any, other: Any, *structure: Array, plan: Any) -> list:
        first = ad.is_undefined_primal(one)
        unknown = one if first else other
        if type(cotangent) is ad.Zero:
            found: Any = ad.Zero(unknown.aval)
        else:
            another, *pair = by_one(cotangent, other) if first else by_other(cotangent, one)
            found = another.bind(*pair, *structure, plan=plan)
        none = [None for _ in structure]
        return [found, None, *none] if first else [None, found, *none]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
