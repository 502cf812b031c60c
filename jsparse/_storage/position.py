"""Data-iterator position: one file for each process."""

import json
from pathlib import Path
from typing import Any

import jax

from jsparse._storage.files import CorruptCheckpoint


def encode(data: Any) -> tuple[str, bytes]:
    """Name and content of this process's file.

    Raises:
      TypeError: JSON would change it.
    """
    if isinstance(data, bytes):
        return f"{jax.process_index()}.bin", data
    _check_json(data, "data")
    return f"{jax.process_index()}.json", json.dumps(data).encode()


def _check_json(value: Any, name: str) -> None:
    """Refuse what JSON would change."""
    if type(value) is list:
        for n, one in enumerate(value):
            _check_json(one, f"{name}[{n}]")
    elif type(value) is dict and all(type(key) is str for key in value):
        for key, one in value.items():
            _check_json(one, f"{name}[{key!r}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{name} is a {type(value).__name__}: {value!r}; pass bytes, or None, bool, int, "
            "float, str, lists, and dicts with str keys"
        )


def read(folder: Path, processes: int) -> Any:
    """This process's position; one that all processes have in common fits any number of them.

    Raises:
      CorruptCheckpoint: the position is missing, or is not JSON.
      ValueError: there are several, of another number of processes.
    """
    found = [path for path in folder.glob("[0-9]*") if path.stem.isdecimal()]
    files = {int(path.stem): path for path in found}  # not what systems add
    mine = files.get(jax.process_index(), files.get(0))
    if mine is None:
        raise CorruptCheckpoint(f"{folder} is damaged: the data position 0 is missing")
    if processes != jax.process_count() and len({p.read_bytes() for p in files.values()}) > 1:
        raise ValueError(
            f"{folder} has a data position for each of {processes} processes and now there are "
            f"{jax.process_count()}; continue with {processes}, or save a position that all share, "
            "such as the number of samples read"
        )
    if mine.suffix == ".bin":
        return mine.read_bytes()
    try:
        return json.loads(mine.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{mine} is damaged: {error}") from error
