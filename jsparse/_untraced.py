"""Functions that need values, and so refuse models and arrays that are traced."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.core import Tracer

Function = TypeVar("Function", bound=Callable)


def outside_jit(function: Function) -> Function:
    """Decorate a function so that a model or another argument that is traced is refused."""

    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        refuse_traced(function.__name__, *args, *named.values())
        return function(*args, **named)

    return checked  # type: ignore[return-value]


def refuse_traced(name: str, *values: Any) -> None:
    """Refuse values that are traced, or hold traced arrays, for the function of this name."""
    for value in values:
        state = nnx.state(value) if isinstance(value, nnx.Pytree) else value
        leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Iterator))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            raise TypeError(
                f"{name} got {type(value).__name__} traced, as in jax.jit, nnx.jit, grad or vmap, "
                f"where no values are known; call {name} outside of them"
            )
