"""Leaves of a tree as plain arrays that files can hold, and back again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsparse._storage.files import CorruptCheckpoint

SHOWN = 8  # faults in one error


def place_name(name: str) -> str:
    """The path of a leaf for an error, also where the tree is that leaf and the path is empty."""
    return name or "the tree itself"


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(name: str, leaf: Any) -> jax.Array | np.ndarray:
    """The array that a file stores for a leaf: an array, the data of a typed key, or a number.

    Raises:
      TypeError: the leaf is something else.
    """
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if is_key(leaf) else leaf
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSM":
        raise TypeError(
            f"{place_name(name)} is a {type(leaf).__name__}; arrays, typed keys and numbers can be "
            "saved: leave it out of the tree"
        )
    return array


def storable(array: np.ndarray) -> np.ndarray:
    """The same bits in a type that numpy itself has: bfloat16 becomes uint16."""
    return array.view(_stored_dtype(array.dtype))


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def describe(leaf: Any) -> str:
    """Type and shape (of a typed key, of its data): `float32[2, 3]`, `key<fry>[2]`, `int[]`."""
    kind = str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
    return f"{kind}{list(np.shape(jax.random.key_data(leaf) if is_key(leaf) else leaf))}"


def check_fit(
    stored: Mapping[str, str], wanted: Mapping[str, str], where: Path | str, advice: str
) -> None:
    """Compare stored leaves, by path as `describe` writes them, with those of the tree to fill.

    Raises:
      ValueError: paths, shapes or types differ; the error lists which, and ends with the advice.
    """
    faults = []
    for name, want in wanted.items():
        if name not in stored:
            faults.append(f"{place_name(name)}: missing")
        elif stored[name] != want:
            faults.append(f"{place_name(name)}: got {stored[name]}, expected {want}")
    faults += [f"{place_name(name)}: unexpected" for name in stored if name not in wanted]
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        lines = [f"{where} does not have the expected structure:", *faults[:SHOWN], *more]
        raise ValueError("\n  ".join(lines) + f"\n{advice}")


def filled(stored: jax.Array | np.ndarray, leaf: Any, where: str = "the file") -> Any:
    """A stored array as a leaf of the same kind, type and devices as another leaf.

    `stored` comes from `plain`, or from `storable` of that. The new leaf is committed to devices
    only if the other one is.

    Raises:
      CorruptCheckpoint: the array does not have the shape and type of `leaf`.
    """
    want = plain(where, leaf)
    count = describe(leaf) == "int[]" and stored.dtype.kind in "iu"  # of any size
    if stored.shape != want.shape or not (
        count or stored.dtype in (want.dtype, _stored_dtype(want.dtype))
    ):
        raise CorruptCheckpoint(
            f"{where} is damaged: it holds {describe(stored)}, expected {describe(want)}"
        )
    if is_key(leaf):
        keys = jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(leaf))
        return _placed(keys, leaf)
    if not count and stored.dtype != want.dtype:
        stored = np.asarray(stored).view(want.dtype)
    if isinstance(leaf, jax.Array):  # a weak type promotes as a Python number does
        return _placed(leaf.at[...].set(stored) if leaf.weak_type else stored, leaf)
    if isinstance(leaf, np.ndarray):
        return np.asarray(stored)
    number = np.asarray(stored)[()]
    return number if isinstance(leaf, np.generic) else type(leaf)(number)


def _placed(x: Any, leaf: jax.Array) -> jax.Array:
    return jax.device_put(x, leaf.sharding) if leaf.committed else jnp.array(x)
