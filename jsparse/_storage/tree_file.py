"""A tree of arrays in one npz file, its leaves under their paths; nothing is pickled."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jsparse._paths import named
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain

NOTES = "notes"


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    Attributes:
      arrays: by path, as NumPy stores them.
      kinds: type and shape of each leaf, by path, as `describe` has them.
      notes: what was noted beside them.
    """

    arrays: dict[str, np.ndarray]
    kinds: dict[str, str]
    notes: dict[str, Any]


def content(tree: Any, notes: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """The file of a tree of arrays, typed keys and numbers.

    Typed keys are stored as their data, and types that NumPy lacks, such as bfloat16, as unsigned
    integers of the same size.

    Args:
      tree: any pytree; see `named` for paths.
      notes: JSON to keep beside it.

    Raises:
      TypeError: a leaf is neither an array nor a number.
      ValueError: two leaves have the same path.
    """
    arrays, kinds = {}, {}
    for name, leaf in named(tree).items():
        array = np.asarray(plain(name, leaf))
        known = array.dtype.isbuiltin == 1
        arrays[name] = array if known else array.view(f"u{array.dtype.itemsize}")
        kinds[name] = describe(leaf)
    text = json.dumps({"kinds": kinds, "notes": dict(notes)})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{NOTES: np.frombuffer(text.encode(), np.uint8)})  # type: ignore[arg-type]
    return buffer.getvalue()


def read(path: Path) -> Stored:
    """A file, read whole.

    Raises:
      CorruptCheckpoint: it is cut off or damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()  # checks every sum; NumPy alone may stop before the end
        if bad:
            raise ValueError(f"the checksum of {bad} is wrong")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = json.loads(arrays.pop(NOTES).tobytes())
        kinds, notes = dict(text["kinds"]), dict(text["notes"])
        if kinds.keys() != arrays.keys():
            raise ValueError("its notes name other arrays")
        return Stored(arrays, kinds, notes)
    except Exception as error:  # a flipped byte makes zipfile raise nearly anything
        size = f"{path.stat().st_size} bytes" if path.exists() else "no file"
        raise CorruptCheckpoint(f"{path} is damaged ({size}; {error})") from error


def fill(tree: Any, stored: Stored, where: Path, advice: str) -> Any:
    """`tree` with its leaves replaced by the stored ones; devices and kinds of leaf stay.

    Args:
      tree: of the structure that was stored.
      stored: from `read`.
      where: the file, for errors.
      advice: what to do if it does not fit.

    Raises:
      ValueError: paths, shapes or types differ.
    """
    leaves = named(tree)
    check_fit(stored.kinds, {n: describe(leaf) for n, leaf in leaves.items()}, where, advice)
    new = [filled(stored.arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(tree), new)
