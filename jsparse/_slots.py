"""The places in a model that hold variables, by path: surgery reads and writes them."""

import dataclasses
from collections.abc import Container, Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._coupled import CoupledSparse, CoupledUnits
from jsparse._paths import named
from jsparse._pattern import Role
from jsparse._sparse import Sparse
from jsparse._values import shown
from jsparse._variables import LORA, WRAPPERS, overwrites_message, stored, unseen_message
from jsparse.rules._coupled import Joint, Span

CONVOLUTIONS = (nnx.Conv, nnx.ConvTranspose)
HOLDERS = (nnx.Pytree, list, dict)
"""Types that may hold variables; a module is an nnx.Pytree."""
NOT_OPENED = (Sparse, nnx.Rngs, nnx.RngStream)


@runtime_checkable
class Packed(Protocol):
    """A layer that stores only part of its kernel, as `jsparse.export.pack` makes them."""

    format: str
    """What files call it, such as "csr"."""

    @property
    def kernel_shape(self) -> tuple[int, ...]: ...

    @property
    def kept(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place in a model that holds a variable or a Sparse."""

    path: str
    parent: Any
    key: str | int
    value: Any
    recurrent: bool
    wrapper: str = ""
    """Class of the enclosing layer that writes weights in each forward pass, such as WeightNorm."""

    def put(self, value: Any) -> None:
        """Store another value in this place."""
        if isinstance(self.parent, MutableSequence | dict | _Tuple):
            self.parent[self.key] = value  # type: ignore[index]
        else:
            setattr(self.parent, str(self.key), value)


class _Tuple:
    """A writable tuple: each change replaces the tuple in the model by a new one."""

    def __init__(self, parent: Any, key: str | int, old: tuple):
        self.parent, self.key, self.items = parent, key, list(old)
        self.kind = getattr(type(old), "_make", tuple)  # a NamedTuple stays a NamedTuple

    def __setitem__(self, index: int, value: Any) -> None:
        if self.items[index] is value:
            return
        self.items[index] = value
        whole = self.kind(self.items)
        inside_object = isinstance(self.parent, nnx.Pytree)
        Slot("", self.parent, self.key, None, False).put(
            nnx.data(whole) if inside_object else whole
        )


def check_module(model: Any, name: str = "model") -> None:
    """Refuse anything but an nnx.Module."""
    if isinstance(model, nnx.Module):
        return
    if isinstance(model, type) and issubclass(model, nnx.Module):
        raise TypeError(
            f"{name} is the class {model.__name__}, expected an nnx.Module; pass an instance: "
            f"{model.__name__}(..., rngs=nnx.Rngs(0))"
        )
    what = shown(model) if isinstance(model, type | bool | int | str) else type(model).__name__
    raise TypeError(
        f"{name}: expected an nnx.Module, got {what}; for Linen params or another tree of arrays "
        "use jsparse.tree"
    )


def check_rngs(rngs: Any) -> None:
    """Refuse anything but `nnx.Rngs` that can draw for parameters."""
    if not isinstance(rngs, nnx.Rngs) or not {"params", "default"} & set(vars(rngs)):
        streams = f"nnx.Rngs without params: {list(rngs)}" if isinstance(rngs, nnx.Rngs) else rngs
        raise TypeError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0); got {shown(streams)}")


def slots(model: nnx.Module, kinds: Any = nnx.Variable | Sparse) -> list[Slot]:
    """Every place that holds a variable or a Sparse, in order; shared values once per place.

    Or every place that holds other kinds, such as a class of layers.
    """
    check_module(model)
    return list(_walk(model, "", False, "", (), kinds))


def _walk(
    node: Any, prefix: str, recurrent: bool, wrapper: str, above: tuple[int, ...], kinds: Any
) -> Iterator[Slot]:
    if id(node) in above:
        return
    recurrent = recurrent or isinstance(node, nnx.RNNCellBase)
    wrapper = wrapper or (type(node).__name__ if isinstance(node, WRAPPERS) else "")
    for key, value in _children(node):
        path = f"{prefix}{key}"
        if isinstance(value, kinds):
            yield Slot(path, node, key, value, recurrent, wrapper)
        elif isinstance(value, tuple):
            held = _Tuple(node, key, value)
            yield from _walk(held, f"{path}/", recurrent, wrapper, (*above, id(node)), kinds)
        elif isinstance(value, HOLDERS) and not isinstance(value, NOT_OPENED):
            yield from _walk(value, f"{path}/", recurrent, wrapper, (*above, id(node)), kinds)


def _children(node: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)
    elif isinstance(node, _Tuple):
        yield from enumerate(node.items)
    else:
        listed = isinstance(node, MutableSequence)
        for name, value in vars(node).items():
            name = str(name)  # flax 0.12.1 keeps the items of a List under whole numbers
            if not name.startswith(("_pytree__", "_object__")):  # internals of nnx
                yield (int(name) if listed and name.isdigit() else name), value


def walk_modules(
    node: Any, path: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, nnx.Module]]:
    """Yield (path, module) for a model and the modules in it; shared modules once per place."""
    if id(node) in above:
        return
    if isinstance(node, nnx.Module):
        yield path, node
    held = list(enumerate(node)) if isinstance(node, tuple) else _children(node)
    for key, value in held:
        if isinstance(value, (*HOLDERS, tuple)) and not isinstance(value, nnx.Rngs | nnx.RngStream):
            inner = f"{path}/{key}" if path else str(key)
            yield from walk_modules(value, inner, (*above, id(node)))


def own_masks(model: nnx.Module) -> dict[str, Any]:
    """The convolutions that multiply their kernel by Flax's own mask, by path of that array."""
    return {
        f"{path}/mask".lstrip("/"): module
        for path, module in walk_modules(model)
        if isinstance(module, CONVOLUTIONS) and isinstance(module.mask, jax.Array | np.ndarray)
    }


def clear_hidden_in_place(places: Iterable[Slot]) -> None:
    """Set to 0 the weights that Flax's own masks hide in all of these places: they rank last."""
    read: dict[int, tuple[nnx.Variable, Any]] = {}
    for slot in places:
        weight = slot.value.weight if isinstance(slot.value, Sparse) else slot.value
        mask = slot.parent.mask if isinstance(slot.parent, CONVOLUTIONS) else None
        here = True if mask is None or slot.key != "kernel" else jnp.asarray(mask[...]) != 0
        read[id(weight)] = weight, here | read.get(id(weight), (weight, False))[1]
    for weight, where in read.values():
        if where is not True and jnp.shape(where) == weight.shape:
            weight[...] = jnp.where(where, weight[...], 0).astype(weight.dtype)


def sparse_parts(model: nnx.Module) -> dict[str, Sparse]:
    """Each Sparse of the model by its first path; those inside nnx.WeightNorm are refused."""
    first: dict[int, tuple[str, Sparse]] = {}
    for slot in slots(model):
        if isinstance(slot.value, Sparse):
            refuse_wrapped(slot)
            first.setdefault(id(slot.value), (slot.path, slot.value))
    return dict(first.values())


def state_paths(model: nnx.Module, variables: Container[str]) -> dict[int, str]:
    """The path under which variables are listed of each Sparse, which may be tied; by identity."""
    places = slots(model, Sparse)
    return {id(one.value): one.path for one in places if f"{one.path}/weight" in variables}


def ruled_parts(model: nnx.Module) -> dict[str, Sparse]:
    """Each Sparse of the model by its first path, and each group of coupled units once by its."""
    groups = coupled_units(model)
    first = {group.name: path for path, group in reversed(groups.items())}
    return sparse_parts(model) | {path: groups[path] for path in reversed(first.values())}


def coupled_units(model: nnx.Module) -> dict[str, CoupledUnits]:
    """The groups of coupled units by path; those for stacked weights after those for others."""
    members = [part for part in sparse_parts(model).values() if isinstance(part, CoupledSparse)]
    groups = {id(stored(g.weight)): g for part in members for g in part.groups.values()}
    if not groups:
        return {}
    first = {id(leaf): path for path, leaf in reversed(named(nnx.state(model)).items())}
    found = {first[one].removesuffix("/weight"): group for one, group in groups.items()}
    return dict(sorted(found.items(), key=lambda pair: pair[1].weight.ndim))


def refuse_wrapped(slot: Slot) -> None:
    """Refuse a sparse weight inside a layer that writes weights."""
    if slot.wrapper:
        raise ValueError(f"{slot.path}: {overwrites_message(slot.wrapper)}")


def refuse_unseen(slot: Slot, params: Sequence[Slot]) -> None:
    """Refuse a rule on a weight that qwix quantizes or adapts at each call."""
    if not hasattr(slot.parent, "qwix_path") or LORA in str(slot.key):
        return
    adapted = {other.path.partition(LORA)[0] for other in params if LORA in other.path}
    if not adapted or slot.path in adapted:
        raise TypeError(unseen_message(slot.path))


def roles(model: nnx.Module) -> dict[str, Role]:
    """The meaning of the axes of each sparse weight, by path: for `jsparse.revise`.

    Those of stored masks of coupled units say where the units are in each weight.
    """
    parts = sparse_parts(model)
    spans: dict[str, list[tuple[str, Span]]] = {}
    for path, part in parts.items():
        if isinstance(part, CoupledSparse):
            for span, group in part.pairs:
                spans.setdefault(group.name, []).append((path, span))
    return {path: part.rule.role for path, part in parts.items()} | {
        path: dataclasses.replace(
            group.rule.role, group=Joint(group.name, tuple(spans[group.name]))
        )
        for path, group in coupled_units(model).items()
        if "mask" in group.state_names
    }


def held_groups(model: nnx.Module) -> dict[str, CoupledUnits]:
    """The groups of coupled units with a stored mask, by name."""
    return {
        part.name: part
        for part in ruled_parts(model).values()
        if isinstance(part, CoupledUnits) and "mask" in part.state_names
    }
