"""Putting a head into a model, and taking single features away from it."""

import re
from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp
from flax import nnx

from jsparse._paths import listed
from jsparse._slots import Slot, check_module, slots
from jsparse._sparse import Sparse
from jsparse._surgery import copied, sparsify
from jsparse._values import check_is, shown
from jsparse.heads._given import read_places
from jsparse.heads._point import Point, put
from jsparse.rules._held import Held

Model = TypeVar("Model", bound=nnx.Module)


def replace(model: Model, path: str, point: Point) -> Model:
    """A copy of the model in which a linear layer is the sparse head.

    Args:
      model: any NNX module; not changed.
      path: of the layer's kernel, such as "fc/kernel". The head's features are its inputs.
      point: the head.

    Returns:
      The copy; the kernel is under `Held`, and the layer has a bias, whether it had one or not.

    Raises:
      TypeError: an argument of another kind.
      ValueError: no `nnx.Linear` has its kernel there, or it has other sizes than the head.
    """
    check_module(model)
    check_is(Point, "a Point, such as path.choose()", point=point)
    copy = copied(model)
    layer = _kernel(copy, path).parent
    sizes = tuple(layer.kernel.shape)
    if sizes != point.weight.shape:
        raise ValueError(
            f"point must be a head for {path}, {list(sizes)}; got {list(point.weight.shape)}: "
            "features by outputs"
        )
    put(layer, point)
    return copy


def ablate(model: Model, path: str, inputs: Sequence[int] | int, output: int) -> Model:
    """A copy of the model in which an output of a linear layer no longer reads some features.

    Args:
      model: any NNX module; not changed.
      path: of the layer's kernel, such as "fc/kernel".
      inputs: the features, by their place.
      output: the class, by its place; other classes go on reading the features.

    Returns:
      The copy; the kernel is under `Held`.

    Raises:
      TypeError: an argument of another kind.
      ValueError: no `nnx.Linear` has its kernel there, or it has no such input or output.
    """
    check_module(model)
    slot = _kernel(model, path)
    features, outputs = slot.parent.kernel.shape
    chosen = read_places("inputs", inputs, features)
    (place,) = read_places("output", [output], outputs)
    held = sparsify(model, (re.escape(path), Held()))
    part = _kernel(held, path).value
    part.mask[...] = part.mask[...].at[jnp.asarray(chosen, int), place].set(0)
    return held


def _kernel(model: nnx.Module, path: str) -> Slot:
    """The place of a linear layer's kernel."""
    kernels = [
        slot
        for slot in slots(model, nnx.Param | Sparse)
        if slot.key == "kernel" and isinstance(slot.parent, nnx.Linear)
    ]
    found = [slot for slot in kernels if slot.path == path]
    if not found or len(found[0].parent.kernel.shape) != 2:
        raise ValueError(
            f"path must be that of the kernel of an nnx.Linear; got {shown(path)}; there are: "
            f"{listed(slot.path for slot in kernels)}"
        )
    return found[0]
