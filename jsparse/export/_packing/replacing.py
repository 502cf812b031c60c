"""Places of layers, and replacing layers there; what was shared stays shared."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flax import nnx

from jsparse._slots import Slot, slots
from jsparse.export._packing.dense import features_of, sides_of
from jsparse.export._packing.packed import Packed

Model = TypeVar("Model", bound=nnx.Module)


def layers_of(model: nnx.Module) -> list[Slot]:
    """Every place with a layer that has a kernel; the model itself has the empty path."""
    convolutions = nnx.Conv | nnx.ConvTranspose
    return places_of(model, nnx.Linear | convolutions | nnx.LinearGeneral | nnx.Einsum)


def places_of(model: nnx.Module, kinds: Any) -> list[Slot]:
    """Every place that holds a layer of some kinds; the model itself has the empty path."""
    if isinstance(model, kinds):
        return [Slot("", None, "", model, False)]
    return slots(model, kinds)


def put_in_place(model: Model, places: list[Slot], make: Callable[[Slot], nnx.Module]) -> Model:
    """The model itself with new layers in some places.

    Layers that are shared stay shared, and so do kernels that several layers have.

    Returns:
      The model; the new layer instead, if the model is the layer itself, at the empty path.

    Raises:
      ValueError: layers that share a kernel would hold it in different ways.
    """
    made: dict[int, Any] = {}
    owners: dict[int, Any] = {}
    for place in places:
        old: Any = place.value
        if id(old) not in made:
            new = made[id(old)] = make(place)
            _share(owners.setdefault(id(_weights(old)), new), new, place.path)
        if not place.path:
            return made[id(old)]
        place.put(made[id(old)])
    return model


def _weights(layer: Any) -> nnx.Variable:
    return layer.values if isinstance(layer, Packed) else layer.kernel


def _share(owner: Any, layer: Any, path: str) -> None:
    """Give a new layer, in place, the kernel of another one."""
    form = lambda one: (type(one), one.sizes if isinstance(one, Packed) else one.kernel.shape)
    if form(owner) != form(layer):
        raise ValueError(
            f"{path}: it shares its kernel with a layer that was made a {type(owner).__name__} of "
            f"sizes {form(owner)[1]}, and would be a {type(layer).__name__} of sizes "
            f"{form(layer)[1]}; use one format for both"
        )
    packed = isinstance(layer, Packed)
    for name in layer.array_kind._fields if packed else ("kernel",):
        setattr(layer, name, getattr(owner, name))


def shared_with_dense(model: nnx.Module, places: Iterable[Slot]) -> dict[str, str]:
    """Why layers in these places cannot be replaced although each alone could be, by path.

    Their kernel is shared with a layer that stays, or with one that reads it differently.
    """
    users: dict[int, dict[int, str]] = {}
    for slot in slots(model, nnx.Variable):
        path = slot.path.rpartition("/")[0]
        users.setdefault(id(slot.value), {}).setdefault(id(slot.parent), path)
    layers: dict[int, Any] = {id(place.value): place.value for place in places}
    reading = lambda layer: (features_of(layer), sides_of(layer))
    found = {}
    for place in places:
        for other, path in users.get(id(place.value.kernel), {}).items():
            if other not in layers:
                found[place.path] = f"its kernel is shared with {path or 'the model'}, which stays"
            elif reading(layers[other]) != reading(place.value):
                found[place.path] = f"its kernel is shared with {path}, which reads it another way"
    return found
