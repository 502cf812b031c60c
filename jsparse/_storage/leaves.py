"""Leaves of any tree by path, as plain arrays that files can hold, and back in their places."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SHOWN = 8  # faults in one error


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(name: str, leaf: Any) -> jax.Array | np.ndarray:
    """The array that stands for a leaf in a file: of a typed key its data.

    Args:
      name: the path, for errors.
      leaf: an array, a typed key or a number.

    Raises:
      TypeError: the leaf is something else.
    """
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if is_key(leaf) else leaf
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSM":
        raise TypeError(
            f"{name} is a {type(leaf).__name__}; arrays, typed keys and numbers can be saved: "
            "leave it out of the tree"
        )
    return array


def describe(leaf: Any) -> str:
    """Type and shape, of a typed key those of its data: `float32[2, 3]`, `key<fry>[2]`, `int[]`."""
    kind = str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
    return f"{kind}{list(np.shape(jax.random.key_data(leaf) if is_key(leaf) else leaf))}"


def check_fit(
    stored: Mapping[str, str], wanted: Mapping[str, str], where: Path, advice: str
) -> None:
    """Compare the leaves in a file with those that are to be filled.

    Args:
      stored: by path, as `describe` has them.
      wanted: the same of the tree to fill.
      where: the file.
      advice: what to do about it.

    Raises:
      ValueError: paths, shapes or types differ; the error lists which.
    """
    faults = []
    for name, want in wanted.items():
        if name not in stored:
            faults.append(f"{name}: not in the file")
        elif stored[name] != want:
            faults.append(f"{name}: {stored[name]} in the file, {want} wanted")
    faults += [f"{name}: in the file, not wanted" for name in stored if name not in wanted]
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        lines = [f"{where} does not fit what is to be filled:", *faults[:SHOWN], *more]
        raise ValueError("\n  ".join(lines) + f"\n{advice}")


def filled(stored: jax.Array | np.ndarray, leaf: Any) -> Any:
    """What a file holds, as a leaf of the kind, type and place of another.

    Args:
      stored: from `plain`, with the shape of `leaf`; an unsigned integer of the same size may stand
        for a type that numpy lacks.
      leaf: gives the rest.

    Returns:
      The leaf. An array that was on no device by choice still is not.
    """
    if is_key(leaf):
        keys = jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(leaf))
        return _placed(keys, leaf)
    if isinstance(leaf, jax.Array | np.ndarray | np.generic) and stored.dtype != leaf.dtype:
        stored = np.asarray(stored).view(leaf.dtype)
    if isinstance(leaf, jax.Array):  # a weak type promotes as a Python number does
        return _placed(leaf.at[...].set(stored) if leaf.weak_type else stored, leaf)
    if isinstance(leaf, np.ndarray):
        return np.asarray(stored)
    number = np.asarray(stored)[()]
    return number if isinstance(leaf, np.generic) else type(leaf)(number)


def _placed(x: Any, leaf: jax.Array) -> jax.Array:
    return jax.device_put(x, leaf.sharding) if leaf.committed else jnp.array(x)
