"""A weight as a grid of tiles, one per unit: from weights to units, and back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._pattern import Role, Unit
from jsparse._sharding import on_mesh_of, reshaped, shards, split_axes


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
