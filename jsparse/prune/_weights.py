"""A model as a function of its prunable weights: what scores are derivatives of."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import Array

from jsparse._pure import calling, taken_apart
from jsparse._score import wide
from jsparse._slots import slots
from jsparse._surgery import fold
from jsparse._values import check_function, each_batch
from jsparse.importance._gradients import Loss
from jsparse.prune._choice import Arrays, held_parts


class Weights(NamedTuple):
    """A model, apart from the weights that can be pruned.

    Attributes:
      values: of the masked weights by path, [...].
      rest: the other variables by path; an argument of compiled functions, not a constant in them.
      build: from values and rest, the plain model that reads these values.
    """

    values: dict[str, Array]
    rest: Any
    build: Callable[[Arrays, Any], nnx.Module]


def weights_of(model: nnx.Module) -> Weights:
    """Take a model apart; dropout is off, batch norm uses the statistics of the batch.

    Anything the model writes in a forward pass is lost. Tied weights have one value.
    """
    plain = fold(model)
    plain.train()
    plain.set_attributes(deterministic=True, raise_if_not_found=False)
    return split(plain, held_parts(model))


def split(plain: nnx.Module, paths: Iterable[str]) -> Weights:
    """Take a plain model apart as it is; `paths` are of the weights."""
    build, variables, _ = taken_apart(plain)
    places = slots(plain)
    own = {id(slot.value): slot.path for slot in places if slot.path in variables}
    at = {slot.path: own[id(slot.value)] for slot in places if slot.path in set(paths)}
    rest = {path: variables[path] for path in variables if path not in at.values()}

    def whole(values: Arrays, rest: Any) -> nnx.Module:
        return build(rest | {at[path]: value for path, value in values.items()})

    return Weights({path: variables[at[path]] for path in at}, rest, whole)


def held_masks(model: nnx.Module) -> dict[str, Array]:
    """The masks of the prunable weights by path, [...] like the weights."""
    return {path: part.mask[...] for path, part in held_parts(model).items()}


def kept_share(masks: Mapping[str, Any]) -> float:
    """The fraction of all weights that some masks keep."""
    kept = sum(int((mask > 0).sum()) for mask in masks.values())
    return kept / sum(mask.size for mask in masks.values())


def slope(loss: Loss, build: Callable[[Arrays, Any], nnx.Module]) -> Callable[..., Arrays]:
    """The gradient of a loss: (values, rest, batch) -> [...] by path, as the values."""
    check_function(loss=loss)
    return jax.grad(lambda values, rest, batch: loss(build(values, rest), batch))


def mean_over(
    batches: Iterable[Any], function: Callable[..., Arrays], *given: Any
) -> dict[str, Array]:
    """The mean over batches of function(*given, batch), arrays by path; float32 or wider."""
    compiled = jax.jit(function)
    total: dict[str, Array] = {}
    count = 0
    for batch in each_batch(batches):
        count += 1
        with calling("batches", batch):
            found = compiled(*given, batch)
        new = {path: g.astype(wide(g.dtype)) for path, g in found.items()}
        total = {path: total[path] + g for path, g in new.items()} if total else new
    return {path: g / count for path, g in total.items()}
