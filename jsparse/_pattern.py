"""Which weights are pruned together (unit), and which units compete (scope).

A weight of shape [..., inputs, outputs] is divided into tiles, one per unit. `pool` reduces the
weight to the grid of its units, and `spread` broadcasts a value per unit back to the weights. A
scope names the axes of that grid along which units compete, or share a threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._sharding import on_mesh_of, reshaped, shards, split_axes
from jsparse._values import check_flag, check_is, check_shape, check_whole, is_whole


@dataclass(frozen=True, kw_only=True)
class Role:
    """The meaning of each axis of a weight, counted from the last.

    Axes that are neither outputs nor inputs are spatial. The first `stack` axes index whole layers
    (of a vmapped or scanned module); a rule never sees them. `heads` is the output or input axis
    that indexes attention heads. Once units have been removed, `left` says which positions of each
    axis of the full weight remain; until then it is empty. For a mask of coupled units, `group` is
    a `jsparse.rules._coupled.Joint`.
    """

    outputs: tuple[int, ...] = (-1,)
    inputs: tuple[int, ...] = (-2,)
    heads: tuple[int, ...] = ()
    stack: int = 0
    recurrent: bool = False
    left: tuple[tuple[bool, ...], ...] = ()
    group: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in ("outputs", "inputs", "heads"):
            axes = getattr(self, name)
            if not isinstance(axes, tuple) or not all(map(is_whole, axes)):
                raise TypeError(f"{name} must be a tuple of axes, such as (-1,); got {axes!r}")
        check_whole(0, stack=self.stack)
        check_flag(recurrent=self.recurrent)
        check_is(tuple, "a tuple of tuples of True and False, one an axis", left=self.left)
        if not set(self.heads) <= set(self.outputs + self.inputs):
            raise ValueError(
                f"Role got heads {self.heads}; name an axis among the outputs "
                f"{self.outputs} and inputs {self.inputs}"
            )
        axes = self.outputs + self.inputs
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"Role got heads {self.heads}; name each axis at most once")
        if any(a >= 0 for a in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"Role got outputs {self.outputs} and inputs {self.inputs}; count axes from the "
                "last (-1), and name each at most once"
            )

    def output_axes(self, ndim: int) -> tuple[int, ...]:
        """Output axes of a weight of rank `ndim`, counted from the first."""
        return tuple(ndim + a for a in self.outputs if ndim + a >= 0)

    def input_axes(self, ndim: int) -> tuple[int, ...]:
        """Input axes of a weight of rank `ndim`, counted from the first."""
        return tuple(ndim + a for a in self.inputs if ndim + a >= 0)


class Unit(Protocol):
    """What is pruned together: `tile` gives the extent of one unit along each axis."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Weight:
    """Each weight is a unit of its own."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return (1,) * len(shape)


@dataclass(frozen=True)
class Kernel:
    """The spatial window between one input and one output; a single weight in a dense layer."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.output_axes(len(shape)) + role.input_axes(len(shape)))


@dataclass(frozen=True)
class Filter:
    """All weights that feed one output: a filter of a convolution, a column of a dense kernel."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.output_axes(len(shape)))


@dataclass(frozen=True)
class Channel:
    """All weights that read one input: an input channel of a convolution, a row of a dense one."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        return _whole_but(shape, role.input_axes(len(shape)))


@dataclass(frozen=True)
class Head:
    """All weights of one attention head in a query, key, value or output projection."""

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        if not role.heads:
            raise ValueError(
                f"Head() needs an axis of attention heads, but the weight {shape} has none; use "
                "Filter(), Channel() or Block(...), or give the rule a Role with heads"
            )
        return _whole_but(shape, tuple(len(shape) + a for a in role.heads))


@dataclass(frozen=True)
class Block:
    """A block of the last axes, such as Block((4, 4)); blocks at a ragged edge are smaller."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not check_shape("shape", self.shape):
            raise ValueError(
                f"shape must be a tuple of sizes of the last axes, one or more; got {self.shape!r}"
            )

    def tile(self, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
        if len(self.shape) > len(shape):
            raise ValueError(
                f"Block{self.shape} has {len(self.shape)} axes, but the weight {shape} has "
                f"{len(shape)}; pass a block of at most {len(shape)} axes"
            )
        whole = (1,) * (len(shape) - len(self.shape)) + self.shape
        return tuple(max(1, min(b, n)) for b, n in zip(whole, shape, strict=True))


def _whole_but(shape: tuple[int, ...], apart: tuple[int, ...]) -> tuple[int, ...]:
    """A tile that spans every axis except those in `apart`, along which its length is 1."""
    return tuple(1 if axis in apart else max(1, n) for axis, n in enumerate(shape))


class Scope(Protocol):
    """Which units compete: `axes` names the axes of the grid of units to compare along."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Whole:
    """All units of the layer together."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(range(ndim))


@dataclass(frozen=True)
class WholeModel:
    """All units of all layers under equal rules together: a global density.

    The cut is updated from the weights at each train step; call `advance` after setting weights by
    hand. Ties are resolved in favor of the first layers.
    """

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(range(ndim))


@dataclass(frozen=True)
class PerOutput:
    """The units of each output compete among themselves."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return tuple(a for a in range(ndim) if a not in role.output_axes(ndim))


@dataclass(frozen=True)
class Each:
    """Every unit by itself: units do not compete, and each has its own threshold."""

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class Groups:
    """Groups of `size` consecutive units along the last input axis: the M of N:M sparsity.

    With `skip`, weights whose axis they do not divide, such as a stem of 3 channels, stay dense;
    otherwise they are refused.
    """

    size: int
    skip: bool = False

    def __post_init__(self) -> None:
        check_whole(size=self.size)
        check_flag(skip=self.skip)

    def axes(self, ndim: int, role: Role) -> tuple[int, ...]:
        inputs = role.input_axes(ndim)
        if not inputs:
            raise ValueError(
                f"Groups({self.size}) needs an input axis, but this weight of rank {ndim} has "
                "none; use Whole() or PerOutput()"
            )
        return inputs[-1:]


def grid_shape(shape: tuple[int, ...], tile: tuple[int, ...]) -> tuple[int, ...]:
    """Number of units along each axis; a ragged edge counts as one more.

    Example:
      >>> grid_shape((5, 8), (4, 4))
      (2, 2)
    """
    return tuple(-(-n // t) for n, t in zip(shape, tile, strict=True))


def stacked_tile(unit: Unit, shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
    """The tile of a unit in a weight [stack..., layer...], 1 along the axes that stack layers."""
    return (1,) * role.stack + tuple(unit.tile(shape[role.stack :], role))


def pool(x: Array, tile: tuple[int, ...], by: Callable = jnp.sum) -> Array:
    """Sum over each tile: [shape] -> [grid_shape(shape, tile)]; a ragged edge sums fewer.

    `by` may be jnp.max instead, for x of 0 or more.

    Example:
      >>> import jax.numpy as jnp
      >>> pool(jnp.ones((5, 8)), (4, 4)).tolist()
      [[16.0, 16.0], [4.0, 4.0]]
    """
    whole = tuple(a for a, (n, t) in enumerate(zip(x.shape, tile, strict=True)) if 1 < n == t)
    x = by(x, axis=whole, keepdims=True) if whole else x
    partial = [a for a in range(x.ndim) if a not in whole and tile[a] > 1]
    if not partial:
        return x
    rest = tuple(1 if a in whole else t for a, t in enumerate(tile))
    return by(_apart(x, rest), axis=tuple(range(1, 2 * x.ndim, 2)))


def spread(units: Array, tile: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Give each weight the value of its unit: [grid_shape(shape, tile)] -> [shape]."""
    rest = tuple(t if t < n else 1 for t, n in zip(tile, shape, strict=True))
    if any(t > 1 for t in rest):
        pairs = [n for g, t in zip(units.shape, rest, strict=True) for n in (g, t)]
        each = jnp.broadcast_to(jnp.expand_dims(units, tuple(range(1, 2 * units.ndim, 2))), pairs)
        units = _together(each)
        units = lax.slice(units, (0,) * units.ndim, tuple(map(min, units.shape, shape)))
    return jnp.broadcast_to(units, shape)


def unit_sizes(shape: tuple[int, ...], tile: tuple[int, ...]) -> Array:
    """Number of weights in each unit; units at a ragged edge have fewer.

    The result has length 1 along each axis that the tiles divide evenly, and the length of the grid
    along the others.
    """
    counts = jnp.ones((1,) * len(shape), jnp.float32)
    for axis, (n, t, g) in enumerate(zip(shape, tile, grid_shape(shape, tile), strict=True)):
        g = 1 if n % t == 0 else g
        along = jnp.minimum(t, n - t * jnp.arange(g)).astype(jnp.float32)
        counts = counts * along.reshape([g if a == axis else 1 for a in range(len(shape))])
    return counts


def by_unit(x: Array, tile: tuple[int, ...]) -> Array:
    """The weights of each unit along the first axis: [shape] -> [unit size, grid], 0 past an edge.

    Example:
      >>> import jax.numpy as jnp
      >>> by_unit(jnp.arange(6.0).reshape(2, 3), (2, 1)).tolist()
      [[[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]]]
    """
    axes = (*range(1, 2 * x.ndim, 2), *range(0, 2 * x.ndim, 2))
    apart = _apart(x, tile).transpose(axes)
    spec = split_axes(apart)[x.ndim :]
    return reshaped(apart, (-1, *apart.shape[x.ndim :]), (None, *spec))


def from_units(units: Array, tile: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The inverse of `by_unit`: [unit size, grid] -> [shape]."""
    ndim = len(shape)
    apart = reshaped(units, (*tile, *units.shape[1:]), (*(None,) * ndim, *split_axes(units)[1:]))
    axes = [n for a in range(ndim) for n in (ndim + a, a)]
    return lax.slice(_together(apart.transpose(axes)), (0,) * ndim, shape)


def _apart(x: Array, tile: tuple[int, ...]) -> Array:
    """Split each axis into tiles: [shape] -> [grid, tile, grid, tile, ...], 0 past an edge.

    An axis that an Explicit mesh splits over devices stays split unless that would divide a tile.
    """
    grid = grid_shape(x.shape, tile)
    spec = split_axes(x)
    kept = tuple(
        name
        if t == 1 or (n == g * t and g % shards(name, jax.typeof(x).sharding.mesh) == 0)
        else None
        for n, g, t, name in zip(x.shape, grid, tile, spec, strict=True)
    )
    if kept != spec:
        x = jax.sharding.reshard(x, on_mesh_of(x, kept))
    x = jnp.pad(x, [(0, g * t - n) for n, g, t in zip(x.shape, grid, tile, strict=True)])
    pairs = tuple(n for g, t in zip(grid, tile, strict=True) for n in (g, t))
    return reshaped(x, pairs, tuple(n for name in kept for n in (name, None)))


def _together(apart: Array) -> Array:
    """The inverse of `_apart`: [grid, tile, ...] -> [shape], padding past an edge included."""
    shape = tuple(g * t for g, t in zip(apart.shape[::2], apart.shape[1::2], strict=True))
    return reshaped(apart, shape, split_axes(apart)[::2])
