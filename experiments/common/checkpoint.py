"""One pytree in one npz file, the leaves under their key paths; nothing is pickled."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOTES = "notes"
SHOWN = 8


class CorruptCheckpoint(RuntimeError):
    """A checkpoint file cannot be read back."""


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
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        if array.dtype.kind in "OUSM":
            raise TypeError(
                f"{name} is a {type(leaf).__name__}; arrays, typed keys and numbers can be saved: "
                "leave it out of the tree"
            )
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
    faults = []
    for name, leaf in leaves:
        if name not in stored.arrays:
            faults.append(f"{name}: not in the file")
            continue
        shape = stored.arrays[name].shape
        want = np.shape(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        got = f"{stored.dtypes[name]}{list(shape)}"
        if got != f"{_dtype(leaf)}{list(want)}":
            faults.append(f"{name}: {got} in the file, {_dtype(leaf)}{list(want)} wanted")
    wanted = {name for name, _ in leaves}
    faults += [f"{name}: in the file, not wanted" for name in stored.arrays if name not in wanted]
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise ValueError(
            "\n  ".join([f"{where} does not fit the model and optimizer:", *faults[:SHOWN], *more])
            + "\nuse the code that wrote it, choose another --out, or delete the run's folder"
        )
    filled = [_like(stored.arrays[name], leaf) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(tree), filled)


def _like(array: np.ndarray, leaf: Any) -> Any:
    if _is_key(leaf):
        key = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(key, leaf.sharding)
    if isinstance(leaf, bool | int | float | complex):
        return type(leaf)(array.item())
    dtype = np.dtype(leaf.dtype)
    array = array if dtype.isbuiltin == 1 else array.view(dtype)
    if not isinstance(leaf, jax.Array):
        return array
    if leaf.weak_type and leaf.ndim == 0:  # a Python number made an array promotes as a number
        return jax.device_put(jnp.asarray(array.item()), leaf.sharding)
    return jax.device_put(array, leaf.sharding)


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


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
