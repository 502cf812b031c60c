"""One tree in one npz file: its leaves by path, and notes about them; nothing is pickled.

The file is a zip archive, so each part has a check sum (CRC-32), which `read` compares:

    a/kernel.npy    a leaf, which `numpy.load` can read too
    notes.json      the type and shape of each leaf, and the facts given to `write`

A typed key is stored as its key data; a type that numpy lacks, such as bfloat16, as unsigned
integers of the same size. The same tree gives the same bytes.

Example:
  >>> import tempfile
  >>> content = write({"a": np.ones(2), "n": 3}, {"step": 7})
  >>> path = Path(tempfile.mkdtemp()) / "tree.npz"
  >>> _ = path.write_bytes(content)  # or jsparse._storage.files.write_whole
  >>> stored = read(path)
  >>> stored.facts["step"], stored.leaves
  (7, {'a': 'float64[2]', 'n': 'int[]'})
  >>> fill({"a": np.zeros(2), "n": 0}, stored, path, "train again")
  {'a': array([1., 1.]), 'n': 3}
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jsparse._paths import named
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain, storable
from jsparse._storage.sealed_json import check_fields, parse

Tree = TypeVar("Tree")
NOTES = "notes.json"
FIELDS = {"leaves": dict[str, str], "facts": dict[str, object]}


class Stored(NamedTuple):
    """The leaves of a tree as a file holds them.

    Attributes:
      arrays: by path, of types that numpy can store.
      leaves: by path, the type and shape of each leaf, as `leaves.describe` writes them.
      facts: what was noted beside the tree.
    """

    arrays: dict[str, np.ndarray]
    leaves: dict[str, str]
    facts: dict[str, Any]


def take(tree: Any, facts: Mapping[str, Any] | None = None) -> Stored:
    """The leaves of a tree as `write` stores them.

    Raises:
      TypeError: a leaf is not an array, a typed key or a number.
      ValueError: two leaves have the same path.
    """
    leaves = named(tree)
    arrays = {name: storable(np.asarray(plain(name, leaf))) for name, leaf in leaves.items()}
    kinds = {name: describe(leaf) for name, leaf in leaves.items()}
    return Stored(arrays, kinds, dict(facts or {}))


def write(tree: Any, facts: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file for a tree; `files.write_whole` puts it on disk.

    Args:
      tree: arrays, typed keys and numbers, such as `nnx.state(model)`.
      facts: to note beside the tree; anything that JSON can hold.

    Raises:
      TypeError: a leaf is something else, or JSON cannot hold a fact.
      ValueError: two leaves have the same path.
    """
    stored = take(tree, facts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in stored.arrays.items():  # ZipInfo: without the time of day
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)
        notes = {"leaves": stored.leaves, "facts": stored.facts}
        archive.writestr(zipfile.ZipInfo(NOTES), json.dumps(notes))
    return buffer.getvalue()


def read(path: Path) -> Stored:
    """Read a file that `write` made, after comparing every check sum.

    Raises:
      CorruptCheckpoint: the file is damaged, or is not of this format.
      OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            notes = archive.read(NOTES)
            names = [name for name in archive.namelist() if name != NOTES]
            arrays = {name.removesuffix(".npy"): _array(archive, name) for name in names}
    except Exception as error:  # a flipped byte makes zipfile and numpy raise nearly anything
        raise CorruptCheckpoint(f"{path} is damaged ({size} bytes; {error})") from error
    found = parse(notes, f"{path} is damaged: {NOTES}")
    check_fields(found, FIELDS, f"{path} is damaged: {NOTES}")
    if arrays.keys() != found["leaves"].keys():
        name = min(arrays.keys() ^ found["leaves"].keys())
        raise CorruptCheckpoint(f"{path} is damaged: {name} is only in its arrays or in its notes")
    return Stored(arrays, found["leaves"], found["facts"])


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as part:
        array = np.lib.format.read_array(part, allow_pickle=False)
        if part.read(1):  # only at its end does zipfile compare the check sum
            raise ValueError(f"{name} is longer than its array")
    return array


def fill(tree: Tree, stored: Stored, where: Path | str, advice: str) -> Tree:
    """A tree with its leaves replaced by stored ones, on the devices of the old ones.

    Args:
      tree: gives structure, kinds of leaves, shapes, types and devices.
      stored: from `read` or `take`.
      where: the file, for errors.
      advice: what the user can do if the two do not match.

    Raises:
      CorruptCheckpoint: an array is not what the notes say.
      ValueError: paths, shapes or types differ; the error lists which.
    """
    leaves = named(tree)
    check_fit(stored.leaves, {name: describe(leaf) for name, leaf in leaves.items()}, where, advice)
    new = [filled(stored.arrays[name], leaf, f"{where}: {name}") for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(tree), new)
