"""Group lasso over coupled units: training that makes whole units of several layers exactly 0.

1. A unit of a group (`jsparse.groups`) is made by several weights: in a residual stream by every
   layer that adds to it, with their biases, learned positions and class tokens, and the scales and
   biases of normalizations. Their entries together are one group of the lasso.
2. The transform takes its step without the penalty. Then the entries of each unit, from all of its
   weights, take the proximal step of the group lasso in the metric of the transform:

       w = argmin_x  sum_i (x_i - z_i)^2 / (2 s_i) + strength * sum_u sqrt(p_u) * |x_u|

   as in `jsparse.optim.proximal`, where a unit has the weights of one layer.
3. A unit all of whose makers are 0 is 0 for every input, so `shrink` removes it from all layers.

Numbers: tests/prune/test_group_lasso.py compares its solution with `proximal`'s; Fang et al.
publish none for the models here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jsparse._paths import listed, named
from jsparse._schedule import Schedule
from jsparse._values import check_is, check_transform
from jsparse.export._shrinking.groups import UnitGroup, UnitGroups, chosen_groups
from jsparse.export._shrinking.uses import Use
from jsparse.optim._proximal import Strength, checked_strengths, followed_by, prox


class _Part(NamedTuple):
    """A weight that makes the units of a group, along an axis of some length.

    Attributes:
      places: where they are on that axis, [places of a unit, units].
      needed: whether units depend on it, as on a kernel; not on a bias or a statistic.
    """

    path: str
    axis: int
    length: int
    places: np.ndarray
    needed: bool


class _Chosen(NamedTuple):
    """The parts of a group, and its strength."""

    name: str
    strength: Strength
    parts: tuple[_Part, ...]


def group_lasso(
    tx: optax.GradientTransformation, groups: UnitGroups, *strengths: tuple[str, float | Schedule]
) -> optax.GradientTransformationExtraArgs:
    """Train with a group lasso over the coupled units of a model, whose zeros are exact.

        loss + strength * sum_u sqrt(p_u) * |w_u|

    over the units u of each chosen group, w_u being the p_u entries of all weights that make the
    unit: kernels by their outputs, biases, scales and biases of normalizations. Weights that only
    read it are not penalized. Then `shrink` makes the model smaller, also in residual streams,
    where `jsparse.optim.proximal` with `Filter()` zeroes the units of one layer while others still
    add to them. Streams that a layer norm averages over stay: cut their units with `prune.units`,
    which removes those that are 0 first.

    It takes the same transforms as `jsparse.optim.proximal`, and belongs in the same places.

    Args:
      tx: an optax transform, learning rate included.
      groups: what `jsparse.groups` found; of the model that is trained.
      *strengths: pairs of a pattern for names of groups, such as "blocks/.*", and a strength of 0
        or more, or its curve over the steps; the first match wins. Groups without one, and those
        that cannot shrink, are not penalized.

    Returns:
      An optax transform.

    Raises:
      TypeError: tx is not an optax transform, or groups are not groups.
      ValueError: a strength below 0; no pair; a pattern that is invalid or matches no group that
        can shrink; two groups that share a weight; a weight that is not among the parameters, or of
        another size there (at `init`); a transform whose step cannot be determined.

    Example:
      >>> import jsparse
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> tx = group_lasso(optax.adam(1e-3), jsparse.groups(model, (1, 4)), (".*", 0.05))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    Reference: Fang et al., DepGraph: Towards any structural pruning, CVPR 2023, section 3.3, which
    adds a penalty to the loss instead; Yuan and Lin, 2006, section 2, for the step.
    """
    check_transform(tx=tx)
    check_is(UnitGroups, "what jsparse.groups gives", groups=groups)
    pairs = [(pattern, Strength(value)) for pattern, value in checked_strengths(strengths)]
    chosen = _chosen(groups, pairs)

    def after(params: Any, moves: Any, steps: Any, taken: Array) -> Any:
        new = _penalized(chosen, named(params), named(moves), named(steps), taken)
        leaves = [new.get(path, move) for path, move in named(moves).items()]
        return jax.tree.unflatten(jax.tree.structure(moves), leaves)

    check = lambda params: _check_parameters(chosen, named(params))
    return followed_by(tx, "group_lasso", check, after)


def _penalized(
    chosen: Sequence[_Chosen],
    weights: Mapping[str, Array],
    moves: Mapping[str, Array],
    steps: Mapping[str, Array],
    taken: Array,
) -> dict[str, Array]:
    """The moves of the penalized weights after their proximal steps, by path (2)."""
    wide = {path: weight.astype(jnp.float32) for path, weight in weights.items()}
    found: dict[str, Array] = {}
    for group in chosen:
        parts = [part for part in group.parts if part.path in weights]
        for path in (part.path for part in parts):
            found.setdefault(path, wide[path] + moves[path])
        z = jnp.concatenate([_rows(found[p.path], p) for p in parts], 1)
        rates = [jnp.broadcast_to(steps[p.path], wide[p.path].shape) for p in parts]
        step = jnp.concatenate([_rows(r, p) for r, p in zip(rates, parts, strict=True)], 1)
        new = prox(z, step.astype(jnp.float32) * group.strength.at(taken), (1, z.shape[1]))
        for part in parts:
            size = len(part.places) * (found[part.path].size // part.length)
            found[part.path] = _with_rows(found[part.path], new[:, :size], part)
            new = new[:, size:]
    return {path: (new - wide[path]).astype(moves[path].dtype) for path, new in found.items()}


def _rows(array: Array, part: _Part) -> Array:
    """The entries of each unit, [units, entries]."""
    first = jnp.moveaxis(array, part.axis, 0)[part.places]  # [places, units, ...]
    return jnp.moveaxis(first, 1, 0).reshape(part.places.shape[1], -1)


def _with_rows(array: Array, rows: Array, part: _Part) -> Array:
    """The inverse: the array with these entries."""
    first = jnp.moveaxis(array, part.axis, 0)
    shape = (part.places.shape[1], len(part.places), *first.shape[1:])
    first = first.at[part.places].set(jnp.moveaxis(rows.reshape(shape), 0, 1))
    return jnp.moveaxis(first, 0, part.axis)


def _chosen(groups: UnitGroups, strengths: Sequence[tuple[str, Strength]]) -> list[_Chosen]:
    """The groups that are penalized."""
    by = chosen_groups(groups, strengths, "strengths", "penalize")
    found = [_Chosen(n, strength, _parts(groups[n])) for n, strength in by.items()]
    owners: dict[str, tuple[str, _Part]] = {}
    for group in found:
        for part in group.parts:
            name, other = owners.setdefault(part.path, (group.name, part))
            apart = part.axis == other.axis and not np.isin(part.places, other.places).any()
            if name != group.name and not apart:
                raise ValueError(
                    f"groups {name} and {group.name} are both made by {part.path}; give a "
                    "strength to one of them, by patterns that match its name alone"
                )
    return [group for group in found if group.parts]


def _parts(group: UnitGroup) -> tuple[_Part, ...]:
    """The weights that make the units of a group, each along one axis."""
    parts: dict[str, _Part] = {}
    for member in group.members:
        at = [np.flatnonzero(member.units == n) for n in range(group.width)]
        makes = Use.MAKES in member.use
        beside = bool(member.use & (Use.SCALES | Use.ADDS)) and Use.READS not in member.use
        if (makes or beside) and len({len(one) for one in at}) == 1:
            length, places = len(member.units), np.stack(at, 1)
            parts.setdefault(member.path, _Part(member.path, member.axis, length, places, makes))
    return tuple(parts.values())


def _check_parameters(chosen: Sequence[_Chosen], params: Mapping[str, Any]) -> None:
    """Refuse parameters of another size, or without a weight that the units of a group need."""
    for group in chosen:
        for part in group.parts:
            shape = np.shape(params[part.path]) if part.path in params else ()
            if shape and shape[part.axis] != part.length:
                raise ValueError(
                    f"groups: {part.path} has length {part.length} on axis {part.axis} there, and "
                    f"the parameter has {shape[part.axis]}; give the groups of this model, from "
                    "jsparse.groups"
                )
            if part.needed and part.path not in params:
                raise ValueError(
                    f"groups: {group.name} has the weight {part.path}, which is not among the "
                    f"parameters: {listed(params)}. Give the transform all weights of a group, "
                    "without rules"
                )
