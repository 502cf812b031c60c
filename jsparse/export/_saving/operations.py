"""A function as operations that ONNX and its runtimes know."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval

from jsparse._jaxprs import evaluate, interpret

BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
AS_THEY_ARE = {"convert_element_type", "bitcast_convert_type"}  # these are about the dtype itself
DTYPES = ("preferred_element_type", "dtype")  # settings that name the dtype of the result
POOLINGS = {
    "reduce_window_max": (lax.max, -jnp.inf),
    "reduce_window_min": (lax.min, jnp.inf),
    "reduce_window_sum": (lax.add, 0),
}
WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")


def without_unused(function: Callable[..., Any], specs: Sequence[Any]) -> ClosedJaxpr:
    """The operations of a function of arrays, without unused ones, such as random keys."""
    closed = jax.make_jaxpr(function)(*specs)
    wanted = [True] * len(closed.jaxpr.outvars)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, wanted, instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


def decomposed(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    """The same function by other operations.

    1. Calls that only wrap others, such as `jit`, are opened.
    2. What is in float16 or bfloat16 is computed in float32, and each result rounded to its own
       dtype: runtimes have few operations for these on a CPU.
    3. A pooling becomes the largest, smallest or sum of slices, one axis after the other:
       runtimes pool three axes at most.
    """
    specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jaxpr_as_fun(jax.make_jaxpr(lambda *arrays: _run(closed, arrays))(*specs))


def every(closed: ClosedJaxpr, above: tuple = ()) -> list[tuple[Any, tuple]]:
    """(operation, tracebacks of its callers and itself) of each, those inside of loops first."""
    found = []

    def listed(eqn: Any, _: list, source: tuple) -> list:
        for body in jax.tree.leaves([eqn.params[n] for n in BODIES.get(eqn.primitive.name, ())]):
            found.extend(every(body, source))
        found.append((eqn, source))
        return eqn.outvars

    interpret(closed, closed.jaxpr.invars, listed, lambda value, atom: atom, above)
    return found


def is_narrow_float(value: Any) -> bool:
    """Whether an array, or what is known of one, is a float of fewer bits than float32."""
    kind = getattr(value, "dtype", None)
    return kind is not None and jnp.issubdtype(kind, jnp.floating) and kind.itemsize < 4


def _body(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a loop or a branch, taking and returning float32 instead of narrower floats."""
    variables = closed.jaxpr.invars

    def body(*arrays: Any) -> list[Any]:
        return list(map(_wide, _run(closed, _rounded(arrays, variables))))

    specs = [
        jax.ShapeDtypeStruct(
            v.aval.shape,
            jnp.float32 if is_narrow_float(v.aval) else v.aval.dtype,
            weak_type=v.aval.weak_type,
        )
        for v in variables
    ]
    return jax.make_jaxpr(body)(*specs)


def _rounded(arrays: Sequence[Any], atoms: Sequence[Any]) -> list[Any]:
    """The arrays in the dtypes of variables where these are narrow floats."""
    return [
        lax.convert_element_type(x, atom.aval.dtype) if is_narrow_float(atom.aval) else x
        for x, atom in zip(arrays, atoms, strict=True)
    ]


def _wide(x: Any) -> Any:
    return lax.convert_element_type(x, jnp.float32) if is_narrow_float(x) else x


def _run(closed: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    # not from NumPy, which jax 0.12 would widen before the trace, and in the file
    constant = lambda value, atom: value if isinstance(atom, Literal) else jnp.asarray(value)
    return interpret(closed, arrays, lambda eqn, read, _: outputs_of(eqn, *read), constant)


def outputs_of(eqn: Any, *inputs: Any) -> list[Any]:
    """Outputs of an operation, given its inputs."""
    name, params = eqn.primitive.name, dict(eqn.params)
    if name in BODIES:
        params |= {body: jax.tree.map(_body, params[body]) for body in BODIES[name]}
        inputs = tuple(map(_wide, inputs))
    elif name not in AS_THEY_ARE and any(
        is_narrow_float(atom.aval) for atom in (*eqn.invars, *eqn.outvars)
    ):
        inputs = tuple(map(_wide, inputs))
        params |= {key: jnp.dtype("float32") for key in DTYPES if params.get(key) is not None}
    if name in POOLINGS:
        combine, start = POOLINGS[name]
        outputs = [_pooled(inputs[0], combine, start, params)]
    else:
        outputs = evaluate(eqn.primitive, params, *inputs)
    return _rounded(outputs, eqn.outvars)


def _pooled(x: Array, combine: Callable, start: float, params: dict[str, Any]) -> Array:
    """A pooling, one axis after the other: each place of the window is a slice."""
    if jnp.issubdtype(x.dtype, jnp.integer) and start:
        start = jnp.iinfo(x.dtype).max if start > 0 else jnp.iinfo(x.dtype).min
    along = zip(*(params[name] for name in WINDOW), strict=True)
    for axis, (window, stride, (before, after), inside, apart) in enumerate(along):
        if inside > 1:
            gaps = [(0, 0, inside - 1 if n == axis else 0) for n in range(x.ndim)]
            x = lax.pad(x, jnp.asarray(start, x.dtype), gaps)
        if before or after:
            x = _edged(x, axis, before, after, start)
        if window == stride == 1:
            continue
        last = (x.shape[axis] - (window - 1) * apart - 1) // stride * stride  # start of a window
        places = range(0, window * apart, apart)
        parts = [lax.slice_in_dim(x, n, n + last + 1, stride, axis) for n in places]
        x = functools.reduce(combine, parts)
    return x


def _edged(x: Array, axis: int, before: int, after: int, value: float) -> Array:
    """With a value at both ends; not by `lax.pad`, which jax2onnx lacks where a size is free."""
    shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (before, after)]
    first, second = ([lax.full(s, value, x.dtype)] if s[axis] else [] for s in shapes)
    return lax.concatenate([*first, x, *second], axis)
