"""Where arrays lie: the state of a rule is split over devices as its weight is."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jsparse.rules.rule import Rule, State, stacked_init

Fits = Callable[[int, int], bool]


def follow(rule: Rule, weight: Array, state: State, where: NamedSharding) -> State:
    """The state of a rule, split over devices as its weight, which lies as `where` says.

    Args:
      rule: made the state.
      weight: [stack..., layer...].
      state: its arrays; what has no axis of the weight's is put on all devices.
      where: from `where_is`.

    Returns:
      The state, elsewhere.
    """
    mesh, names = where.mesh, padded(where.spec, weight.ndim)
    if mesh.empty:
        return state

    def fits(axis: int, length: int) -> bool:
        return length % shards(names[axis], mesh) == 0

    specs = followed(rule, weight, names, state, fits)
    return {name: placed(value, _with_spec(where, specs[name])) for name, value in state.items()}


def followed(rule: Rule, weight: Array, names: tuple, state: State, fits: Fits) -> dict[str, tuple]:
    """Names for the axes of each entry of a state: those of the weight's axes that they follow.

    An axis follows that axis of the weight with which it grows: those of a mask all, of a grid of
    units those that hold several units, of thresholds the outputs. All others are None.

    Args:
      rule: made the state.
      weight: [stack..., layer...].
      names: of each axis of the weight; None where it has none.
      state: its arrays, or their shapes.
      fits: whether an axis of the state, of some length, can have the name of an axis of the
        weight.

    Returns:
      Names by entry, one for each axis.
    """
    found: dict[str, list] = {name: [None] * value.ndim for name, value in state.items()}
    for axis, name in enumerate(names):
        if name is None:
            continue
        for entry, grown in _grown(rule, weight, axis).items():
            here = found[entry]
            for place, (n, longer) in enumerate(zip(state[entry].shape, grown, strict=True)):
                if n != longer and name not in here and here[place] is None and fits(axis, n):
                    here[place] = name
    # one number a layer is on all devices: flax cannot scan over a name that is all there is
    several = {name for name, value in state.items() if value.ndim > rule.role.stack}
    return {e: tuple(here) if e in several else (None,) * len(here) for e, here in found.items()}


def _grown(rule: Rule, weight: Array, axis: int) -> dict[str, tuple[int, ...]]:
    """The shapes that the state would have, were an axis of the weight twice as long."""
    shape = tuple(2 * n if a == axis else n for a, n in enumerate(weight.shape))
    longer = jax.ShapeDtypeStruct(shape, weight.dtype)
    try:
        state = jax.eval_shape(lambda w: stacked_init(rule, w, jax.random.key(0)), longer)
    except ValueError:  # a single unit, which would have become several that are alone: no axis
        return {}
    return {name: value.shape for name, value in state.items()}


def where_is(x: Any) -> NamedSharding:
    """How an array lies on a mesh; on an empty one if it lies on none, or if that does not show.

    Under `jax.jit` the axes of an Explicit mesh show, those of an Auto mesh do not.
    """
    if not isinstance(x, Tracer):
        sharding = getattr(x, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            return NamedSharding(jax.sharding.AbstractMesh((), ()), PartitionSpec())
        return sharding
    return jax.typeof(x).sharding


def beside(x: Array, other: Array) -> Array:
    """The array, moved to where another one of its shape is."""
    return placed(x, where_is(other))


def placed(x: Array, where: NamedSharding) -> Array:
    """The array, split over devices so; under a jit constrained to it."""
    mesh, split = where.mesh, any(where.spec)
    if isinstance(mesh, jax.sharding.Mesh):
        return jax.device_put(x, where)
    if not split:
        return x
    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    return (jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint)(x, where)


def padded(spec: Iterable, ndim: int) -> tuple:
    """One name, tuple of names or None for each axis."""
    names = tuple(spec)
    return (*names, *(None,) * (ndim - len(names)))


def shards(name: Any, mesh: Any) -> int:
    """Over how many devices of a mesh an axis of this name is split; 0 if the mesh has no such."""
    names = (name,) if isinstance(name, str) else name or ()
    return math.prod(mesh.shape.get(n, 0) for n in names)


def _with_spec(where: NamedSharding, spec: tuple) -> NamedSharding:
    """The sharding, of another array; equal to the old one where the names are."""
    if spec == padded(where.spec, len(spec)):
        return where
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return NamedSharding(where.mesh, PartitionSpec(*spec), memory_kind=where.memory_kind)
