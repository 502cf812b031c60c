"""The kinds of variables in a rule's state, writing them, and layers that would overwrite them."""

import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer

from jsparse._paths import map_by_path

WRAPPERS = tuple(getattr(nnx, n) for n in ("WeightNorm", "SpectralNorm") if hasattr(nnx, n))
"""Layers that write the variables of the layer in them at each call; flax 0.11 has none."""


LORA = "_lora_"
"""In the names of the parameters that qwix adds to a layer."""


def overwrites_message(wrapper: str) -> str:
    """What is wrong with a sparse weight inside such a layer, and what to do."""
    return (
        f"nnx.{wrapper} writes normalized values into the variables of the layer it wraps at each "
        "call, so a mask would not last and fold could not find the weight. Leave this weight "
        "dense (exclude it from the pattern), or remove the wrapper"
    )


def unseen_message(path: str) -> str:
    """What is wrong with a rule on a weight that qwix is to quantize or adapt, and what to do."""
    return (
        f"{path}: qwix looks for nnx.Params, so it would silently neither quantize a weight with a "
        "rule nor add LoRA to it. Fold the model first and give qwix the result, "
        "qwix.quantize_model(jsparse.fold(model), ...), or keep rules off this weight"
    )


def check_together(name: str, part: Any, weight: Any) -> None:
    """Refuse a part and weight that a scan or vmap split differently."""
    if part.shape != weight.shape:
        raise ValueError(
            f"the weight has shape {weight.shape} and its {name} {part.shape}: a scan or vmap "
            "split only part of a stack; give it all variables on one axis, as "
            "nnx.StateAxes({...: 0})"
        )


class Unseen:
    """The attribute that qwix sets on each module of a model it converts: a weight refuses it."""

    def __get__(self, part: object, kind: type) -> str:
        raise AttributeError("qwix_path")

    def __set__(self, part: object, path: tuple[str | int, ...]) -> None:
        raise TypeError(unseen_message("/".join(map(str, path))))


class _Apart:
    """Variables of a rule's state, which, unlike those of a layer, refuse wrappers."""

    __slots__ = ()

    @property
    def ndim(self) -> int:
        """The number of axes.

        Raises:
          TypeError: a layer such as nnx.WeightNorm asks, which is about to write this variable.
        """
        ndim, caller = self.get_value().ndim, sys._getframe(1)  # type: ignore[attr-defined]
        if WRAPPERS and caller.f_globals.get("__name__") == WRAPPERS[0].__module__:
            wrapper = type(caller.f_locals.get("self")).__name__
            if ndim > 1 or wrapper == "WeightNorm":  # the other one leaves vectors alone
                raise TypeError(overwrites_message(wrapper))
        return ndim


class Learned(_Apart, nnx.Param):
    """Rule state trained by gradients: thresholds, logits of gates."""


class Mask(_Apart, nnx.Variable):
    """A stored mask: 1 kept, 0 dropped. A float leaf, so `jax.grad` over a whole model works."""


class Setting(_Apart, nnx.Variable):
    """A number changed by events and controls, never by gradients: alpha, a temperature."""


def stored(variable: nnx.Variable) -> Any:
    """What a variable holds: an array, or a tree of arrays."""
    return variable.get_value() if hasattr(variable, "get_value") else variable.value


def store(variable: nnx.Variable, value: Any) -> None:
    """Put an array or a tree into a variable."""
    if hasattr(variable, "set_value"):  # not in flax 0.11
        variable.set_value(value)
    else:
        variable.value = value


def map_arrays(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """The tree with a function of path and array applied to its leaves, or inside its variables."""

    def at(path: str, leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            return leaf.replace(function(path, stored(leaf)))
        return function(path, leaf)

    return map_by_path(at, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def write(variable: nnx.Variable, value: Array) -> None:
    """`variable[...] = value`, at the same cost however long the trace is.

    On flax 0.12.8 the plain form asks a tracer for its sharding, and the error that answers looks
    through the whole trace for its origin, so that a step of n writes traces in time n squared.
    """
    now = variable[...]
    traced = any(isinstance(one, Tracer) for one in (now, value))
    alike = traced and (now.shape, now.dtype) == (jnp.shape(value), jnp.result_type(value))
    if alike and hasattr(variable, "set_value"):  # not in flax 0.11, where the plain form is cheap
        variable.set_value(value)
    else:
        variable[...] = value
