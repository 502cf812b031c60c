"""Functions that need values, and so refuse models and arrays that are traced or only shapes."""

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

Function = TypeVar("Function", bound=Callable)
NO_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class TracedInput(TypeError):
    """A function that needs values got traced arrays."""


def outside_jit(function: Function) -> Function:
    """Decorate a function so that a model or another argument that is traced is refused."""
    name = function.__name__
    explained = explain_abstract_model(function)

    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        refuse_traced(name, *args, *named.values())
        handled = sys.exception()  # by the caller
        try:
            return explained(*args, **named)
        except TracedInput:  # of a function that it calls
            raise _traced(name, "values") from None
        except Exception as error:
            if not (_needs_values(error, handled) and isinstance(jnp.ones(1) + 1, Tracer)):
                raise
            raise _traced(name, "values") from None

    return checked  # type: ignore[return-value]


def _needs_values(error: BaseException | None, handled: BaseException | None) -> bool:
    """Whether it is, or comes from, an error of JAX about a traced array without values.

    One that was being handled before the call does not count.
    """
    while error is not None and error is not handled and not isinstance(error, NO_VALUES):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None and error is not handled


def explain_abstract_model(function: Function) -> Function:
    """Decorate a function: if it fails for a model that has only shapes, the error says so."""
    name = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except Exception as error:
            models = [one for one in (*args, *named.values()) if isinstance(one, nnx.Module)]
            if (model := next(filter(is_abstract, models), None)) is None:
                raise
            raise TypeError(
                f"{name} got {type(model).__name__} with shapes in place of arrays, as "
                f"nnx.eval_shape makes it; give {name} a model with values, or call it in the "
                "function that nnx.eval_shape gets, if it can be traced"
            ) from error

    return checked  # type: ignore[return-value]


def refuse_traced(name: str, *values: Any) -> None:
    """Refuse values that are traced, or hold traced arrays, for the function of this name."""
    for value in values:
        state = nnx.state(value) if isinstance(value, nnx.Pytree) else value
        leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Iterator))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            raise _traced(name, type(value).__name__)


def _traced(name: str, got: str) -> TracedInput:
    return TracedInput(
        f"{name} got {got} traced, as in jax.jit, nnx.jit, grad or vmap, where no values are "
        f"known; call {name} outside of them"
    )


def is_abstract(model: nnx.Module) -> bool:
    """Whether a model has shapes in place of arrays."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))
