"""The layers that each get a density, with their units ranked by importance, once.

A density becomes a number of units k, and the mask keeps the units of rank below k: one comparison
for each candidate, where a selection would count or sort again.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._budget import erdos_renyi_kernel
from jsparse._paths import naming
from jsparse._pattern import Unit
from jsparse._score import wide
from jsparse._sparse import Sparse
from jsparse._tiles import grid_shape, pool, spread, stacked_tile, unit_sizes
from jsparse._values import check_mapping
from jsparse.prune._choice import Arrays, held_parts, role_shape, score_of


class Place(NamedTuple):
    """A weight, which is one layer or a stack of them.

    Attributes:
      first: index of its first layer.
      stack: shape of the stack, () for one layer.
      tile: of a unit, with 1 along the stack.
      shape: of the weight.
    """

    first: int
    stack: tuple[int, ...]
    tile: tuple[int, ...]
    shape: tuple[int, ...]

    def spread(self, ranks: Array, counts: Array) -> Array:
        """Which weights are in the units kept: bool, [...] like the weight."""
        kept = counts[self.first : self.first + math.prod(self.stack)]
        kept = kept.reshape(self.stack + (1,) * (ranks.ndim - len(self.stack)))
        return spread(ranks < kept, self.tile, self.shape)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers in order, L of them.

    Attributes:
      names: paths; a stack has one for each place, such as "kernel[0]".
      shapes: (spatial..., inputs, outputs) of each.
      units: how many each has, [L].
      alive: how many of them have a weight that is not masked, [L].
      worth: importance of the units alive in each layer, ascending.
      places: by the path of the weight.
      ranks: of the units in their layer, 0 for the most important: int32 [stack..., grid] by path.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    units: np.ndarray
    alive: np.ndarray
    worth: tuple[np.ndarray, ...]
    places: Mapping[str, Place]
    ranks: Mapping[str, Array]

    def counts(self, densities: np.ndarray) -> np.ndarray:
        """Units kept at some densities, [n, L]: at least one in each layer."""
        wanted = np.round(np.asarray(densities, np.float64) * self.units)
        return np.clip(wanted, 1, self.alive).astype(np.int32)

    def densities(self, counts: np.ndarray) -> np.ndarray:
        """The fraction of units kept, [n, L]."""
        return counts / self.units

    def globally(self, density: float) -> np.ndarray:
        """Counts [L] if a share of all units alive is kept, those of highest importance."""
        everything = np.concatenate(self.worth)
        place = -max(1, round(density * len(everything)))
        cut = np.partition(everything, place)[place]
        kept = [len(one) - np.searchsorted(one, cut) for one in self.worth]
        return np.maximum(np.array(kept, np.int32), 1)

    def erdos_renyi(self, density: float) -> np.ndarray:
        """Counts [L] at Erdos-Renyi-kernel densities."""
        found = erdos_renyi_kernel(dict(zip(self.names, self.shapes, strict=True)), density)
        return self.counts(np.array([found[name] for name in self.names]))

    def masks(self, ranks: Arrays, counts: Array) -> dict[str, Array]:
        """Which weights a candidate keeps, bool by path: counts are [L]; may be traced."""
        return {path: place.spread(ranks[path], counts) for path, place in self.places.items()}


def layers_of(
    model: nnx.Module, importance: Callable[[Any], Mapping[str, Array]], unit: Unit
) -> Layers:
    """The layers of a model with weights under `Held`.

    The importance gives each weight a number, high = keep: [...] by path. That of a unit is the
    mean over its weights.

    Raises:
      ValueError: importance is missing, is NaN or has another shape; a weight without a unit left.
    """
    parts = held_parts(model)
    scores = importance(model)
    check_mapping("numbers by path, [...] like the weights", importance=scores)
    names, shapes, units, alive, worth = [], [], [], [], []
    places: dict[str, Place] = {}
    ranks: dict[str, Array] = {}
    for path, part in parts.items():
        with naming(path):
            values, place = _units(part, scores, path, unit, len(names))
        places[path] = place
        found = np.empty(values.shape, np.int32)
        for index in np.ndindex(place.stack):
            own = values[index].ravel()
            order = np.argsort(-own, kind="stable")
            found[index].reshape(-1)[order] = np.arange(own.size)
            names.append(path + "".join(f"[{n}]" for n in index))
            shapes.append(role_shape(place.shape[len(place.stack) :], part.rule.role))
            living = own[own > -np.inf]
            if not living.size:
                raise ValueError(f"{names[-1]} has no weight left; start from a model that has")
            units.append(own.size)
            alive.append(living.size)
            worth.append(own[order[: living.size]][::-1])
        ranks[path] = jnp.asarray(found)
    counted = np.array(units, np.int64), np.array(alive, np.int64)
    return Layers(tuple(names), tuple(shapes), *counted, tuple(worth), places, ranks)


def _units(
    part: Sparse, scores: Mapping[str, Array], path: str, unit: Unit, first: int
) -> tuple[np.ndarray, Place]:
    """Mean importance of each unit, -inf where it is masked: [stack..., grid]; and the place."""
    weight, mask, role = part.weight[...], part.mask[...] > 0, part.rule.role
    given = score_of(scores, path, weight.shape, "importance")
    given = jnp.where(mask, given.astype(wide(given.dtype)), 0)
    if bool(jnp.isnan(given).any()):
        raise ValueError("the importance is NaN; look for NaN in the weights, or in the batches")
    stack = weight.shape[: role.stack]
    place = Place(first, stack, stacked_tile(unit, weight.shape, role), weight.shape)
    total = pool(given, place.tile) / unit_sizes(weight.shape, place.tile).astype(given.dtype)
    there = pool(mask.astype(jnp.float32), place.tile, jnp.max) > 0
    values = np.asarray(jnp.where(there, total, -jnp.inf))
    assert values.shape == grid_shape(weight.shape, place.tile)
    return values, place
