"""Linen modules inside NNX, by `nnx.bridge.ToNNX`, whose weights are sparse."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from flax import nnx
from flax.nnx.bridge import variables as bridge_variables

from jsparse._linen import sized_by_variables
from jsparse._slots import slots, walk_modules
from jsparse._sparse import Sparse


class SparseToNNX(nnx.bridge.ToNNX):
    """`nnx.bridge.ToNNX` that passes masked weights to Linen, which does not know Sparse.

    `sparsify` makes a ToNNX one of these, and `fold` and `resolve` make it a ToNNX again.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As in `nnx.bridge.ToNNX`; in the call each Sparse is a Param with its masked weight."""
        parts = {slot.path: slot.value for slot in slots(self, Sparse)}
        self._put({path: part.weight.replace(part.read()) for path, part in parts.items()})
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._put(parts)

    def _put(self, values: dict[str, Any]) -> None:
        for slot in slots(self):
            if slot.path in values:
                if slot.parent is self:  # without the check that it is not from another trace,
                    vars(self)[str(slot.key)] = values[slot.path]  # as it gets its value back
                else:
                    slot.put(values[slot.path])


def fit_bridges(model: nnx.Module) -> None:
    """Give each ToNNX in a model the class that suits its weights."""
    for _, module in walk_modules(model):
        if type(module) in (nnx.bridge.ToNNX, SparseToNNX):
            kind = SparseToNNX if slots(module, Sparse) else nnx.bridge.ToNNX
            object.__setattr__(module, "__class__", kind)


def fit_linen_in_place(model: nnx.Module, cut: Collection[str]) -> None:
    """Let each Linen module of which weights are cut take its sizes from its weights."""
    for path, module in walk_modules(model):
        inside = f"{path}/" if path else ""
        if isinstance(module, nnx.bridge.ToNNX) and any(one.startswith(inside) for one in cut):
            setattr(module, _name(module), sized_by_variables(linen_module(module)))


def linen_variables(bridge: nnx.bridge.ToNNX) -> dict[str, Any]:
    """Its variables by collection, as Linen has them."""
    others = ("module", "rngs") if _name(bridge) == "module" else ()
    own = {n: v for n, v in vars(bridge).items() if not n.startswith(("to_nnx__", "_pytree__"))}
    return bridge_variables.nnx_attrs_to_linen_vars(
        {name: value for name, value in own.items() if name not in others}
    )


def attributes(module: nnx.Module) -> dict[str, Any]:
    """The attributes of a module by name; of a ToNNX, those of its Linen module."""
    if not isinstance(module, nnx.bridge.ToNNX):
        return vars(module)
    linen = linen_module(module)
    names = {field.name for field in dataclasses.fields(linen) if field.init}
    return {name: getattr(linen, name) for name in sorted(names - {"parent", "name"})}


def is_user_code(module: nnx.Module) -> bool:
    """Whether a module, or the Linen module in a ToNNX, is the user's code and not Flax's."""
    inner = linen_module(module) if isinstance(module, nnx.bridge.ToNNX) else module
    return not type(inner).__module__.startswith("flax.")


def set_attributes(module: nnx.Module, values: Mapping[str, Any]) -> None:
    """Set some of them."""
    if isinstance(module, nnx.bridge.ToNNX) and values:
        setattr(module, _name(module), linen_module(module).clone(**values))
    else:
        for name, value in values.items():
            setattr(module, name, value)


def linen_module(bridge: nnx.bridge.ToNNX) -> Any:
    """The Linen module in a ToNNX."""
    return getattr(bridge, _name(bridge))


def _name(bridge: nnx.bridge.ToNNX) -> str:
    """The attribute that holds the Linen module; the second in older versions of Flax."""
    return "to_nnx__module" if "to_nnx__module" in vars(bridge) else "module"
