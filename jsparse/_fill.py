"""`fill`: load the weights of a dense model into a sparse one, under its rules."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx

from jsparse._paths import named, naming
from jsparse._slots import check_module, slots
from jsparse._sparse import Sparse
from jsparse._storage.leaves import check_fit, describe, filled, plain
from jsparse._surgery import copied, share_cuts_in_place
from jsparse._untraced import outside_jit
from jsparse._values import check_is
from jsparse._variables import store, stored

Model = TypeVar("Model", bound=nnx.Module)
ADVICE = (
    "give all parameters of the dense model by path; those of another model have to be renamed "
    "or transposed first"
)


@outside_jit
def fill(model: Model, weights: nnx.Module | Mapping[str, Any]) -> Model:
    """A copy with given weights; its rules, masks, thresholds and scores stay.

    It does for a sparse model what `nnx.update(model, state)` does for a dense one. Flax itself
    refuses the state of a dense model there, since `kernel` is a `Sparse` and not a variable.

    Args:
      model: with rules or without.
      weights: the dense model, its `nnx.state`, or arrays by path as in a file, such as
        {"blocks/0/kernel": array}. Every nnx.Param must be given, once if it is shared; other
        variables, such as batch statistics, may be left out and then stay as they are. Floating
        types become those of the model.

    Returns:
      A model of the same structure, which shares nothing with either.

    Raises:
      TypeError: `weights` is neither a model nor a mapping.
      ValueError: paths, shapes or types differ, with a list of what differs; or a rule holds a
        parameter in place of the weight (`Powerpropagation`): fill the dense model, then sparsify.

    Example:
      >>> from jsparse import Top, sparsify
      >>> first, second = (nnx.Linear(4, 3, rngs=nnx.Rngs(n)) for n in (0, 1))
      >>> model = fill(sparsify(first, ("kernel", Top(density=0.5))), nnx.state(second))
      >>> bool((model.kernel.weight[...] == second.kernel[...]).all())
      True
    """
    check_module(model)
    copy = copied(model)
    places = _places(copy)
    given = _given(weights)
    leaves = {path: stored(_variable(part)) for path, part in places.items()}
    there = {id(_variable(places[path])) for path in given if path in places}
    inside = {id(part.weight) for part in places.values() if isinstance(part, Sparse)}

    def missing(part: Any) -> bool:
        variable = _variable(part)
        named_apart = isinstance(part, Sparse) or id(part) not in inside
        return type(variable) is nnx.Param and named_apart and id(variable) not in there

    wanted = {p: describe(leaves[p]) for p, part in places.items() if p in given or missing(part)}
    cast = {path: _cast(array, leaves.get(path)) for path, array in given.items()}
    check_fit({path: describe(array) for path, array in cast.items()}, wanted, "weights", ADVICE)
    for path, array in cast.items():
        part, new = places[path], filled(plain(path, array), leaves[path], path)
        with naming(path):
            part.set_value(new) if isinstance(part, Sparse) else store(part, new)
    share_cuts_in_place(copy)
    return copy


def _places(model: nnx.Module) -> dict[str, Any]:
    """Each variable and each Sparse by every path that it has, those inside a Sparse included."""
    found = {
        "/".join(map(str, path)): part
        for path, part in nnx.iter_graph(model)
        if isinstance(part, nnx.Variable | Sparse)
    }
    return found | {slot.path: slot.value for slot in slots(model)}


def _variable(part: Any) -> nnx.Variable:
    return part.weight if isinstance(part, Sparse) else part


def _given(weights: Any) -> dict[str, Any]:
    """Arrays by path."""
    if isinstance(weights, nnx.Module):
        return named(nnx.state(weights))
    check_is(Mapping, "a dense model, its nnx.state, or arrays by path", weights=weights)
    return named(weights if isinstance(weights, nnx.State) else dict(weights))


def _cast(array: Any, leaf: Any) -> Any:
    """An array of the leaf's floating type; anything else as it is."""
    floating = lambda one: hasattr(one, "dtype") and jnp.issubdtype(one.dtype, jnp.floating)
    if not (floating(array) and floating(leaf)) or array.dtype == leaf.dtype:
        return array
    return array.astype(leaf.dtype)
