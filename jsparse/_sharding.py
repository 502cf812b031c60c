"""Sharding: the state of a rule is split over devices like its weight."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

State = Mapping[str, Array]
Fits = Callable[[int, int], bool]
Grown = Sequence[Mapping[str, tuple[int, ...]]]


def follow(grown: Grown, stack: int, state: State, where: NamedSharding) -> dict[str, Array]:
    """The state of a rule, sharded like its weight.

    Arguments as in `followed`, and the sharding of the weight, from `where_is`. Arrays that share
    no axis with the weight are put on all devices.
    """
    names = tuple(where.spec)
    fits = lambda axis, length: length % shards(names[axis], where.mesh) == 0
    specs = followed(grown, stack, names, state, fits)
    return {name: placed(value, _with_spec(where, specs[name])) for name, value in state.items()}


def followed(grown: Grown, stack: int, names: tuple, state: State, fits: Fits) -> dict[str, tuple]:
    """Names for the axes of each entry of a state, taken from the axes of the weight.

    An axis takes the name of the axis of the weight with which it grows: in a mask every axis, in a
    grid of units the axes with several units, in thresholds the outputs. Other axes get None.

    Args:
      grown: by axis of the weight [stack..., layer...], the shapes of the state if that axis were
        twice as long.
      stack: number of leading axes that stack layers.
      names: the name of each axis of the weight, or None.
      state: its arrays, or their shapes.
      fits: (axis of the weight, length) -> whether an axis of this length can take its name.
    """
    found: dict[str, list] = {name: [None] * value.ndim for name, value in state.items()}
    for axis, name in enumerate(names):
        if name is None:
            continue
        for entry, longer in grown[axis].items():
            here = found[entry]
            for place, (n, more) in enumerate(zip(state[entry].shape, longer, strict=True)):
                if n != more and name not in here and here[place] is None and fits(axis, n):
                    here[place] = name
    # one number per layer goes on all devices: flax cannot scan over an array's only named axis
    several = {name for name, value in state.items() if value.ndim > stack}
    return {e: tuple(here) if e in several else (None,) * len(here) for e, here in found.items()}


def where_is(x: Any) -> NamedSharding:
    """The sharding of an array; over an empty mesh if it has none, or if it is not visible.

    Under `jax.jit` the axes of an Explicit mesh are visible, those of an Auto mesh are not.
    """
    if isinstance(x, Tracer):
        return jax.typeof(x).sharding
    sharding = getattr(x, "sharding", None)
    nowhere = NamedSharding(jax.sharding.AbstractMesh((), ()), PartitionSpec())
    return sharding if isinstance(sharding, NamedSharding) else nowhere


def beside(x: Array, other: Array) -> Array:
    """The array, moved to the devices of another array of the same shape."""
    return placed(x, where_is(other))


def placed(x: Array, where: NamedSharding) -> Array:
    """The array with a given sharding; under jit, constrained to it."""
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
    """How many devices an axis of this name is split over; 0 if the mesh does not have the name."""
    names = (name,) if isinstance(name, str) else name or ()
    return math.prod(mesh.shape.get(n, 0) for n in names)


def _with_spec(where: NamedSharding, spec: tuple) -> NamedSharding:
    """The sharding with another specification; the same object if the names are equal."""
    if spec == padded(where.spec, len(spec)):
        return where
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return NamedSharding(where.mesh, PartitionSpec(*spec), memory_kind=where.memory_kind)


def reshaped(x: Array, shape: tuple[int, ...], spec: tuple) -> Array:
    """Reshape; `spec` says how an Explicit mesh splits the axes of the result."""
    if not any(spec):
        return x.reshape(shape)
    return jnp.reshape(x, shape, out_sharding=on_mesh_of(x, spec))


def on_mesh_of(x: Array, spec: tuple) -> NamedSharding:
    """The sharding with this specification over the mesh of an array."""
    return NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*spec))


def everywhere(x: Array) -> Array:
    """The array, replicated on every device of an Explicit mesh."""
    split = any(split_axes(x))
    return jax.sharding.reshard(x, on_mesh_of(x, (None,) * x.ndim)) if split else x


def split_axes(x: Array) -> tuple:
    """The axes of an Explicit mesh over which each axis is split; None for the others."""
    return padded(jax.typeof(x).sharding.spec, x.ndim)
