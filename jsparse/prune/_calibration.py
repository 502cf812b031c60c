"""What flows into each weight on calibration data, and pruning in that order.

1. The model is run on all batches; each layer with a weight to prune adds up a moment of its
   inputs.
2. The first weight is pruned; the model is run again, so that the second one sees the inputs that
   the pruned first one gives; and so on, in the order in which the layers are called.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._pure import calling
from jsparse._score import wide
from jsparse._slots import Slot, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import hold
from jsparse._values import check_batches, check_function
from jsparse._watch import watch_in_place
from jsparse.prune._choice import held_parts

Model = TypeVar("Model", bound=nnx.Module)
Forward = Callable[[Any, Any], Any]
"""forward(model, batch): runs the model."""
Moment = Callable[[Array], Array]
"""From the inputs of a layer [n, inputs], a sum over n."""
Prune = Callable[[Sparse, Array], tuple[Array, Array]]
"""From a weight and the moment of its inputs [stack..., of a layer], the new weight and mask."""


SEEN = "inputs_seen"
"""Name of the variable that a weight is given for the moment of its inputs."""


class Sum(nnx.Variable):
    """The moment of a layer's inputs so far."""


def call(model: Any, batch: Any) -> Any:
    """Run a model whose input is the batch itself."""
    return model(batch)


def in_order(
    model: Model, batches: Iterable[Any], forward: Forward, moment: Moment, prune: Prune
) -> Model:
    """Prune one weight after the other, each with the inputs that it then has.

    Args:
      model: with weights under `Held` in layers `nnx.Linear` or `nnx.LinearGeneral`.
      batches: calibration data, of one shape: each new shape is compiled again.
      forward: runs the model on a batch; in eval mode.
      moment: what `prune` needs to know of the inputs.
      prune: of one weight.

    Returns:
      The model with new weights and stored masks; runs on all batches: one for each weight.

    Raises:
      ValueError: a weight of another layer, or of one that is not called; no batch; a moment that
        is not finite.
    """
    check_batches(batches)
    check_function(forward=forward)
    batches = list(batches)
    if not batches:
        raise ValueError("no batches; pass a list with at least one")
    watched = hold(model)
    watched.eval()
    order: dict[str, None] = {}
    _watch(watched, moment, order)
    graph = nnx.graphdef(watched)

    @jax.jit
    def measure(state: Any, batch: Any) -> dict[str, Array]:
        copy = nnx.merge(graph, jax.tree.map(jnp.asarray, state))  # variables of this trace
        forward(copy, batch)
        return {path: seen_by(part)[...] for path, part in sparse_parts(copy).items()}

    with calling("batches", batches[0]):
        jax.eval_shape(measure, nnx.state(watched), batches[0])  # for the order alone
    parts = held_parts(watched)
    if missed := [path for path in parts if path not in order]:
        raise ValueError(
            f"{', '.join(missed)}: no layer that reads it is called; leave it out of the pattern "
            "of sparsify, or give a `forward` that calls it"
        )
    for path in order:
        state, part = nnx.state(watched), parts[path]
        none = jnp.zeros_like(seen_by(part)[...])
        seen = sum((measure(state, batch)[path] for batch in batches), none)
        if not bool(jnp.isfinite(seen).all()):
            raise ValueError(f"{path}: its inputs are not finite; look for NaN in the batches")
        part.weight[...], part.mask[...] = prune(part, seen)
    pruned = hold(model, {path: part.mask[...] for path, part in parts.items()})
    for path, part in held_parts(pruned).items():
        part.weight[...] = parts[path].weight[...]
    return pruned


def seen_by(part: Sparse) -> Sum:
    """What the weight has seen of its inputs."""
    return vars(part)[SEEN]


def matrix(part: Sparse, array: Array) -> Array:
    """As matrices of the layers: [as the weight] -> [stack..., inputs, outputs]."""
    stack = array.shape[: part.rule.role.stack]
    return array.reshape(*stack, inputs_of(part), -1)


def inputs_of(part: Sparse) -> int:
    """How many inputs one layer has."""
    shape = part.weight[...].shape
    return math.prod(shape[axis] for axis in part.rule.role.input_axes(len(shape)))


def _watch(model: nnx.Module, moment: Moment, order: dict[str, None]) -> None:
    """Make the layers add up their inputs, in a variable of the Sparse that they read."""
    first: dict[int, str] = {}
    for slot in slots(model, Sparse):
        part, path = slot.value, first.setdefault(id(slot.value), slot.path)
        _check(slot)
        stack = part.weight[...].shape[: part.rule.role.stack]
        one = jax.eval_shape(moment, jax.ShapeDtypeStruct((1, inputs_of(part)), jnp.float32))
        setattr(part, SEEN, Sum(jnp.zeros((*stack, *one.shape))))

        def add(layer: Any, inputs: Array, _: Array, path: str = path) -> None:
            order.setdefault(path)
            seen = seen_by(layer.kernel)
            seen[...] = seen[...] + moment(_rows(layer, inputs).astype(wide(inputs.dtype)))

        watch_in_place(slot.parent, add)


def _rows(layer: Any, inputs: Array) -> Array:
    """The inputs as the layer contracts them with its kernel, [n, inputs]."""
    axes = layer.axis if isinstance(layer, nnx.LinearGeneral) else -1
    axes = axes if isinstance(axes, tuple) else (axes,)
    last = tuple(range(inputs.ndim - len(axes), inputs.ndim))
    size = math.prod(inputs.shape[axis] for axis in axes)
    return jnp.moveaxis(inputs, axes, last).reshape(-1, size)


def _check(slot: Slot) -> None:
    layer = slot.parent
    general = isinstance(layer, nnx.LinearGeneral) and not getattr(layer, "batch_axis", ())
    if slot.key != "kernel" or not (general or isinstance(layer, nnx.Linear)):
        raise ValueError(
            f"{slot.path} of {type(layer).__name__} is not pruned by its inputs; kernels of "
            "nnx.Linear and nnx.LinearGeneral (attention has these) without batch axes are: leave "
            "it out of the pattern of sparsify"
        )
