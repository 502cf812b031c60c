"""Weights that a stored mask hides and the optimizer does not change.

The model reads 0 there, whatever is stored. A norm over the layer, such as that of a trust ratio,
must not depend on it. So these weights and their gradients are 0 for the update, and get what was
stored back after it. `revise` does the same for the masks in its tree.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._coupled import CoupledSparse
from jsparse._slots import coupled_units, slots
from jsparse._sparse import Sparse
from jsparse._variables import map_arrays, write
from jsparse.rules._held import Held


class Masked(NamedTuple):
    """A weight under a stored mask, which is 1 where `on` is True: [...] like the weight."""

    weight: nnx.Variable
    on: Array

    def over(self, inside: Array, outside: Any) -> Array:
        """One array where the mask is 1, another elsewhere: [...], or [n, ...] for n examples."""
        on = jnp.broadcast_to(self.on, inside.shape)
        return jnp.where(on, inside, outside).astype(inside.dtype)


def masked_weights(model: nnx.Module, trained: Collection[str]) -> dict[str, Masked]:
    """The trained weights under stored masks that are not trained, by each of their paths."""
    groups = coupled_units(model).items()
    fixed = {id(g) for p, g in groups if _stored(g) and f"{p}/mask" not in trained}
    places: dict[int, list[str]] = {}
    for slot in (found := slots(model, Sparse)):
        places.setdefault(id(slot.value), []).append(slot.path)
    weights: dict[str, Masked] = {}
    for part in {id(slot.value): slot.value for slot in found}.values():
        paths = places[id(part)]
        weight, masks = part.weight[...], []
        if isinstance(part, CoupledSparse):
            both = [(span, group) for span, group in part.pairs if id(group) in fixed]
            masks = [span.spread(group.one(group.mask[...]), weight) for span, group in both]
        elif _stored(part) and not any(f"{path}/mask" in trained for path in paths):
            masks = [part.mask[...]]
        if masks and any(f"{path}/weight" in trained for path in paths):
            one = Masked(part.weight, reduce(jnp.multiply, masks) > 0)
            weights |= {f"{path}/weight": one for path in paths}
    return weights


@contextmanager
def masked_at_zero(weights: Mapping[str, Masked]) -> Iterator[None]:
    """Meanwhile, the weights are 0 where they are masked."""
    stored = [(one, one.weight[...]) for one in {id(one): one for one in weights.values()}.values()]
    for one, array in stored:
        write(one.weight, one.over(array, 0))
    try:
        yield
    finally:
        for one, array in stored:
            write(one.weight, one.over(one.weight[...], array))


def without_masked(grads: Any, weights: Mapping[str, Masked]) -> Any:
    """The gradients, 0 for weights that are masked; coupled units have others there."""
    seen = lambda path, grad: weights[path].over(grad, 0) if path in weights else grad
    return map_arrays(seen, grads)


def _stored(part: Sparse) -> bool:
    return isinstance(part.rule, Held)
