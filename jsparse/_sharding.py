"""Where arrays lie: the state of a rule is split over devices as its weight is."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

State = Mapping[str, Array]
Fits = Callable[[int, int], bool]
Grown = Callable[[int], Mapping[str, tuple[int, ...]]]


def follow(grown: Grown, stack: int, state: State, where: NamedSharding) -> dict[str, Array]:
    """The state of a rule, split over devices as its weight, which lies as `where` says.

    Args:
      grown: shapes of the state if an axis of the weight [stack..., layer...] were twice as long.
      stack: number of leading axes that stack layers.
      state: the rule's arrays; what has no axis of the weight's is put on all devices.
      where: of the weight, from `where_is`.

    Returns:
      The state, elsewhere.
    """
    mesh, names = where.mesh, tuple(where.spec)
    if mesh.empty:
        return dict(state)

    def fits(axis: int, length: int) -> bool:
        return length % shards(names[axis], mesh) == 0

    specs = followed(grown, stack, names, state, fits)
    return {name: placed(value, _with_spec(where, specs[name])) for name, value in state.items()}


def followed(grown: Grown, stack: int, names: tuple, state: State, fits: Fits) -> dict[str, tuple]:
    """Names for the axes of each entry of a state: those of the weight's axes that they follow.

    An axis follows that axis of the weight with which it grows: those of a mask all, of a grid of
    units those that hold several units, of thresholds the outputs. All others are None.

    Args:
      grown: shapes of the state if an axis of the weight [stack..., layer...] were twice as long.
      stack: number of leading axes that stack layers.
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
        for entry, longer in grown(axis).items():
            here = found[entry]
            for place, (n, more) in enumerate(zip(state[entry].shape, longer, strict=True)):
                if n != more and name not in here and here[place] is None and fits(axis, n):
                    here[place] = name
    # one number a layer is on all devices: flax cannot scan over a name that is all there is
    several = {name for name, value in state.items() if value.ndim > stack}
    return {e: tuple(here) if e in several else (None,) * len(here) for e, here in found.items()}


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


def reshaped(x: Array, shape: tuple[int, ...], spec: tuple) -> Array:
    """Reshape; `spec` says how the axes of the result are split on an Explicit mesh."""
    if not any(spec):
        return x.reshape(shape)
    return jnp.reshape(x, shape, out_sharding=on_mesh_of(x, spec))


def on_mesh_of(x: Array, spec: tuple) -> NamedSharding:
    """The sharding of this specification over the mesh that an array is on."""
    return NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*spec))


def split_axes(x: Array) -> tuple:
    """The mesh axes over which each axis is split, where the mesh is Explicit; None elsewhere."""
    return padded(jax.typeof(x).sharding.spec, x.ndim)
