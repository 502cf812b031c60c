"""Sparse products as primitives of JAX: compiled on the CPU, and plain JAX on other platforms.

x W, dy W^T, and x^T dy where W is kept, are linear in each of two arrays, and the derivatives of
each are the other two. As primitives they support forward and reverse differentiation, to any
order, and batching.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Contraction(NamedTuple):
    """One of the three, as functions (plan, one, other, *structure) -> array.

    Attributes:
      cpu: by a kernel.
      plain: in plain JAX.
    """

    cpu: Callable[..., Array]
    plain: Callable[..., Array]


Product = Callable[..., Array]


def bilinear(
    name: str, product: Contraction, transposed: Contraction, outer: Contraction
) -> tuple[Product, Product, Product]:
    """x W, dy W^T and x^T dy, which know their derivatives.

    Args:
      name: of what is printed of them.
      product: of the values of W and of x [batch, ...].
      transposed: of the values of W and of dy [batch, ...].
      outer: of x and dy; only where W is kept.

    Returns:
      The three, as functions (plan, one, other, *structure) -> array. Nothing is differentiated by
      the structure, and the plan is known when they are compiled.
    """
    ahead = _primitive(name, product, rows=True)
    back = _primitive(f"{name}_transposed", transposed, rows=True)
    places = _primitive(f"{name}_outer", outer, rows=False)
    _differentiable(
        ahead, by_one=lambda dy, x: (places, x, dy), by_other=lambda dy, w: (back, w, dy)
    )
    _differentiable(
        back, by_one=lambda dx, dy: (places, dx, dy), by_other=lambda dx, w: (ahead, w, dx)
    )
    _differentiable(places, by_one=lambda w, dy: (back, w, dy), by_other=lambda w, x: (ahead, w, x))
    one, two, three = (functools.partial(_bound, each) for each in (ahead, back, places))
    return one, two, three


def _bound(primitive: Primitive, plan: Any, *arrays: Array) -> Array:
    return primitive.bind(*arrays, plan=plan)


def _primitive(name: str, contraction: Contraction, *, rows: bool) -> Primitive:
    """With everything but derivatives.

    Args:
      name: what it is printed as.
      contraction: what it computes.
      rows: whether the other array and the result have rows, so that more of them can be one batch.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(plan: Any) -> Callable[..., Array]:
        return jax.jit(functools.partial(_bound, primitive, plan))

    @primitive.def_impl
    def called(*arrays: Array, plan: Any) -> Array:
        return compiled(plan)(*arrays)

    @primitive.def_abstract_eval
    def shaped(*arrays: Any, plan: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
        found = jax.eval_shape(functools.partial(contraction.plain, plan), *shapes)
        return arrays[0].update(shape=found.shape, dtype=found.dtype, weak_type=False)

    def batched(arrays: Any, axes: Any, *, plan: Any) -> tuple[Array, int]:
        one, other, *structure = arrays
        if rows and all(axis is None for axis in (axes[0], *axes[2:])):
            call = lambda rows: primitive.bind(one, rows, *structure, plan=plan)
            return as_one_batch(call, jnp.moveaxis(other, axes[1], 0)), 0
        return _each(functools.partial(_bound, primitive, plan), arrays, axes), 0

    batching.primitive_batchers[primitive] = batched
    for platform, compute in (("cpu", contraction.cpu), (None, contraction.plain)):
        lowered = lambda *arrays, plan, compute=compute: compute(plan, *arrays)
        rule = mlir.lower_fun(lowered, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


def as_one_batch(call: Callable[[Array], Array], several: Array) -> Array:
    """Several batches [calls, batch, ...] as one with more rows: [calls, batch, ...]."""
    calls, batch, *rest = several.shape
    result = call(several.reshape(calls * batch, *rest))
    return result.reshape(calls, batch, *result.shape[1:])


def _each(call: Callable[..., Array], arrays: Any, axes: Any) -> Array:
    """One after another, as each has its own matrix."""
    moving = [
        jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True) if axis is not None
    ]

    def one(taken: list[Array]) -> Array:
        left = iter(taken)
        return call(
            *(a if axis is None else next(left) for a, axis in zip(arrays, axes, strict=True))
        )

    return jax.lax.map(one, moving)


def _differentiable(primitive: Primitive, by_one: Callable, by_other: Callable) -> None:
    """Give a primitive its derivatives.

    Args:
      primitive: linear in its first two arrays.
      by_one: (cotangent, the other array) -> the primitive and the two arrays of the first one's.
      by_other: (cotangent, the first array) -> likewise of the second one's.
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
