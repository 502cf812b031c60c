"""One pytree in one npz file, the leaves under their key paths; nothing is pickled."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import check_fit, describe, filled, plain

NOTES = "notes"
ADVICE = "use the code that wrote it, choose another --out, or delete the run's folder"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """What a checkpoint file holds: each leaf as a plain array, with the dtype it had."""

    step: int
    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]


def pack(step: int, tree: Any) -> bytes:
    """The npz content of a pytree of arrays, typed keys and numbers.

    A typed key is stored as its key data; a dtype that numpy does not know (bfloat16) as unsigned
    integers of the same size.

    Raises:
        TypeError: A leaf is neither an array nor a number.
    """
    arrays, dtypes = {}, {}
    for name, leaf in _named(tree):
        dtypes[name] = _dtype(leaf)
        array = np.asarray(plain(name, leaf))
        if array.dtype.isbuiltin != 1:
            array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
        arrays[name] = array
    notes = json.dumps({"step": int(step), "dtypes": dtypes})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{NOTES: np.frombuffer(notes.encode(), np.uint8)})
    return buffer.getvalue()


def read(path: Path) -> Stored:
    """Reads a checkpoint file whole.

    Raises:
        CorruptCheckpoint: The file is cut off or damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()  # checks every sum; numpy alone may stop before the end
        if bad:
            raise ValueError(f"the check sum of {bad} is wrong")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        notes = json.loads(arrays.pop(NOTES).tobytes())
        return Stored(step=notes["step"], arrays=arrays, dtypes=notes["dtypes"])
    except Exception as error:  # a flipped byte makes zipfile raise nearly anything
        raise CorruptCheckpoint(
            f"{path} is damaged ({path.stat().st_size} bytes; {error})"
        ) from error


def fill(tree: Any, stored: Stored, where: Path) -> Any:
    """`tree` with its leaves replaced by the stored ones; devices and kinds of leaf stay.

    Raises:
        ValueError: Paths, shapes or dtypes differ.
    """
    leaves = _named(tree)
    kinds = {
        name: f"{stored.dtypes[name]}{list(array.shape)}" for name, array in stored.arrays.items()
    }
    check_fit(kinds, {name: describe(leaf) for name, leaf in leaves}, where, ADVICE)
    new = [filled(stored.arrays[name], leaf) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(tree), new)


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves with their key paths, as in `tree['a'][0]`."""
    leaves = [
        ("tree" + jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    names = [name for name, _ in leaves]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two leaves have the path {twice[0]}; give each leaf a path of its own")
    return leaves


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
