"""A tree in an npz file: its leaves by path, and notes about them; nothing is pickled.

    a/kernel.npy    a leaf, which `numpy.load` can read too
    notes.json      type and shape of each leaf, the facts given to `write`, their checksum

A typed key is stored as its key data; a type that numpy lacks, such as bfloat16, as unsigned
integers of the same size. The same tree gives the same bytes.

Example:
  >>> content = write({"a": np.ones(2), "n": 3}, {"step": 7})  # for `files.write_whole`
  >>> import tempfile
  >>> path = Path(tempfile.mkdtemp()) / "tree.npz"
  >>> _ = path.write_bytes(content)
  >>> stored = read(path)
  >>> stored.facts["step"], stored.leaves
  (7, {'a': 'float64[2]', 'n': 'int[]'})
  >>> fill({"a": np.zeros(2), "n": 0}, stored, path, "delete the file to start again")
  {'a': array([1., 1.]), 'n': 3}
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jsparse._paths import map_by_path, named
from jsparse._storage.checked_json import check_fields, parse
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain, storable

Tree = TypeVar("Tree")
NOTES = "notes.json"
FIELDS = {"sha256": str, "leaves": dict[str, str], "facts": dict[str, object]}


class Stored(NamedTuple):
    """A tree as a file holds it: its leaves by path, of types that numpy can store, and notes.

    `leaves` has the type and shape of each, as `leaves.describe` writes them; `sha256` is of
    everything else.
    """

    arrays: dict[str, np.ndarray]
    leaves: dict[str, str]
    facts: dict[str, Any]
    sha256: str


def snapshot(tree: Any, facts: Mapping[str, Any] | None = None) -> Stored:
    """What `write` stores; arguments and errors are the same."""
    found, noted = named(tree), dict(facts or {})
    arrays = {name: storable(np.asarray(plain(name, leaf))) for name, leaf in found.items()}
    leaves = {name: describe(leaf) for name, leaf in found.items()}
    return Stored(arrays, leaves, noted, _sum(arrays, leaves, noted))


def _sum(arrays: Mapping[str, np.ndarray], leaves: Any, facts: Any) -> str:
    total = hashlib.sha256(json.dumps([leaves, facts]).encode())
    for name, array in sorted(arrays.items()):
        total.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def write(tree: Any, facts: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file for a tree and notes about it; `files.write_whole` puts it on disk.

    Raises:
      TypeError: a leaf is something else, or JSON cannot hold a fact.
      ValueError: two leaves have the same path.
    """
    arrays, leaves, facts, total = snapshot(tree, facts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():  # a ZipInfo made like this does not note the time
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)
        notes = {"sha256": total, "leaves": leaves, "facts": facts}
        archive.writestr(zipfile.ZipInfo(NOTES), json.dumps(notes, indent=1))
    return buffer.getvalue()


def read(path: Path) -> Stored:
    """Read a file that `write` made, and compare its checksum.

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
    where = f"{path} is damaged: {NOTES}"
    found = parse(notes, where)
    check_fields(found, FIELDS, where)
    leaves, facts = found["leaves"], found["facts"]
    if found["sha256"] != _sum(arrays, leaves, facts):
        raise CorruptCheckpoint(f"{path} is damaged: its checksum is wrong")
    if arrays.keys() != leaves.keys():
        name = min(arrays.keys() ^ leaves.keys())
        raise CorruptCheckpoint(f"{where}: leaves and arrays differ in {name}")
    return Stored(arrays, leaves, facts, found["sha256"])


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as part:
        return np.lib.format.read_array(part, allow_pickle=False)


def fill(tree: Tree, stored: Stored, where: Path | str, advice: str) -> Tree:
    """A tree with its leaves replaced by stored ones, on the devices of the old ones.

    Raises:
      CorruptCheckpoint: an array is not what the notes say.
      ValueError: paths, shapes or types differ; the error lists which.
    """
    wanted = {name: describe(leaf) for name, leaf in named(tree).items()}
    check_fit(stored.leaves, wanted, where, advice)
    put = lambda name, leaf: filled(stored.arrays[name], leaf, f"{where}: {name}")
    return map_by_path(put, tree)
