"""Where the data goes on: one file for each process."""

import json
from pathlib import Path
from typing import Any

import jax


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
            f"{name} is a {type(value).__name__}: {value!r}; give bytes, or None, bool, int, "
            "float, str, lists, and dicts with str keys"
        )


def read(folder: Path, processes: int) -> Any:
    """This process's position; one that all processes have in common fits any number of them.

    Raises:
      ValueError: there are several, of another number of processes.
    """
    files = {int(path.stem): path for path in folder.glob("[0-9]*")}  # not what systems add
    mine = files.get(jax.process_index(), files[0])
    if processes != jax.process_count() and len({p.read_bytes() for p in files.values()}) > 1:
        raise ValueError(
            f"{folder} has a data position for each of {processes} processes and now there are "
            f"{jax.process_count()}; go on with {processes}, or save a position that is the same "
            "for all, such as the number of samples read"
        )
    return mine.read_bytes() if mine.suffix == ".bin" else json.loads(mine.read_bytes())
