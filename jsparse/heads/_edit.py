"""Putting a head into a model, and removing single features from it."""

import re
from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jsparse._paths import listed
from jsparse._slots import Slot, check_module, slots
from jsparse._sparse import Sparse
from jsparse._surgery import copied, sparsify
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_is, shown
from jsparse.heads._given import read_indices
from jsparse.heads._point import Point, put
from jsparse.rules._held import Held

Model = TypeVar("Model", bound=nnx.Module)


def replace(model: Model, path: str, point: Point) -> Model:
    """A copy of the model in which the sparse head replaces a linear layer.

    Args:
      model: any NNX module; not changed.
      path: of the layer's kernel, such as "fc/kernel". The head's features are its inputs.
      point: the head.

    Returns:
      The copy; the kernel is under `Held`, and the layer has a bias, whether it had one or not.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: no `nnx.Linear` has its kernel there, or its sizes are not those of the head.
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


@explain_abstract_model
def ablate(
    model: Model,
    path: str,
    inputs: Sequence[int] | int,
    output: int,
    *,
    means: ArrayLike | Sequence[float] = (),
) -> Model:
    """A copy of the model in which an output of a linear layer no longer reads some features.

    Instead of a feature the output reads 0, or the feature's mean, which is added to the bias. With
    the means by which a head was centered, this equals a zero among its standardized weights.

    Args:
      model: any NNX module; not changed.
      path: of the layer's kernel, such as "fc/kernel".
      inputs: indices of the features.
      output: index of the class; other classes still read the features.
      means: of all features, [features], such as `Point.mean`; zeros without them.

    Returns:
      The copy; the kernel is under `Held`.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: no `nnx.Linear` has its kernel there, it has no such input or output, or means
        are not one finite number for each input.
    """
    check_module(model)
    slot = _kernel(model, path)
    features, outputs = slot.parent.kernel.shape
    chosen = sorted({*read_indices("inputs", inputs, features)})
    (place,) = read_indices("output", [output], outputs)
    given = _means(means, features)
    held = sparsify(model, (re.escape(path), Held()))
    part, layer = _kernel(held, path).value, _kernel(held, path).parent
    if np.size(given):
        lost = given[np.asarray(chosen, int)] @ np.asarray(part.read_final(), float)[chosen, place]
        bias = jnp.zeros(outputs, part.dtype) if layer.bias is None else layer.bias[...]
        bias = bias.at[place].add(jnp.asarray(lost, bias.dtype))
        old = layer.bias if isinstance(layer.bias, nnx.Variable) else nnx.Param(bias)
        layer.bias, layer.use_bias = old.replace(bias), True  # of the same kind
    part.mask[...] = part.mask[...].at[jnp.asarray(chosen, int), place].set(0)
    return held


def _means(means: ArrayLike | Sequence[float], features: int) -> np.ndarray:
    """The means, [features]; [0] if none are given."""
    try:
        given = np.asarray(means, float)
        right = given.shape in ((0,), (features,)) and bool(np.isfinite(given).all())
    except (TypeError, ValueError):
        given, right = np.zeros(0), False
    if not right:
        raise ValueError(
            f"means must be a finite number for each of {features} inputs; got {shown(means)}"
        )
    return given


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
            f"path must be that of the kernel of an nnx.Linear; got {shown(path)}; the model has "
            f"{listed(slot.path for slot in kernels)}"
        )
    return found[0]
