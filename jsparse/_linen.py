"""Linen modules whose layers take their sizes from their weights.

Linen computes the shape of each weight from attributes, such as `features`, and refuses a weight of
another shape. Here each of Linen's own layers gets the attributes that suit its weights when it is
called, so that the sizes in the code around it do not matter.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn


def sized_by_variables(module: nn.Module) -> nn.Module:
    """A copy for which `apply` takes the sizes of Linen's layers from the variables that it gets.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}
      >>> sized_by_variables(nn.Dense(3)).apply({"params": params}, jnp.ones((1, 4))).shape
      (1, 2)
    """
    return _of_kind(module, _sized_kind(type(module)))


def _of_kind(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    fields = dataclasses.fields(kind)
    return kind(**{field.name: getattr(module, field.name) for field in fields if field.init})


@functools.cache
def _sized_kind(kind: type[nn.Module]) -> type[nn.Module]:
    if getattr(kind, "_fits", False):
        return kind

    @nn.nowrap
    def apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(_fit):
            return kind.apply(self, *args, **kwargs)

    @nn.nowrap
    def reduced(self: Any) -> tuple[Callable[[nn.Module], nn.Module], tuple[nn.Module]]:
        # pickle finds the user's class, not this one
        return sized_by_variables, (_of_kind(self, kind),)

    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    own = {"apply": apply, "__reduce__": reduced, "_fits": True}
    return type(kind.__name__, (kind,), same | own)


def _fit(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Call a method of a module, after its attributes are those of its weights."""
    module = context.module  # a clone of the user's, as Linen makes for each `apply`
    if module.scope is not None and context.method_name in ("__call__", "setup"):
        given = () if context.method_name == "setup" else (*args, *kwargs.values())
        for name, value in _sizes(module, *given).items():
            object.__setattr__(module, name, value)
    return call(*args, **kwargs)


def _sizes(module: nn.Module, *given: Any) -> Mapping[str, Any]:
    """The attributes of a layer of Linen, by its weights and inputs; empty for others."""
    match module:
        case nn.RNN():
            _fit_cell(module.cell)
        case nn.MultiHeadDotProductAttention() if shape := _shape(module, "query", "kernel"):
            return {"num_heads": shape[-2], "qkv_features": shape[-2] * shape[-1]}
        case nn.Embed() if shape := _shape(module, "embedding"):
            return {"num_embeddings": shape[-2], "features": shape[-1]}
        case _ if not (shape := _shape(module, "kernel")):
            return {}
        case nn.Dense() | nn.ConvLocal():
            return {"features": shape[-1]}
        case nn.DenseGeneral():
            made = module.features
            return {"features": shape[-1] if isinstance(made, int) else shape[-len(made) :]}
        case nn.Conv() if given:
            return {"features": shape[-1], "feature_group_count": given[0].shape[-1] // shape[-2]}
        case nn.ConvTranspose():
            return {"features": shape[-2 if module.transpose_kernel else -1]}
        case nn.Einsum():
            return {"shape": shape}
    return {}


def _shape(module: nn.Module, *path: str) -> tuple[int, ...]:
    """The shape of a weight, which may be boxed; () if there is none."""
    found: Any = module.variables.get("params", {})
    for name in path:
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return tuple(getattr(nn.meta.unbox(found), "shape", ()))


def _fit_cell(cell: Any) -> None:
    """Set the number of cells, by the first of the weights that read the state."""
    for name in ("hi", "hr", "h", "hf"):  # of an LSTM, GRU, simple and MGU cell
        if shape := _shape(cell, name, "kernel"):
            object.__setattr__(cell, "features", shape[-1])
            return
