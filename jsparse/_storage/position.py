"""Data-iterator positions in a checkpoint: one file for each process."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jsparse._storage.checked_json import parse
from jsparse._storage.files import CorruptCheckpoint

NAME = re.compile(r"data/([0-9]{1,9})\.(bin|json)")


def encode(data: Any) -> tuple[str, bytes]:
    """Name and content of the file of this process.

    Raises:
      TypeError: JSON would change the position.
    """
    if isinstance(data, bytes):
        return f"data/{jax.process_index()}.bin", data
    _check_json(data, "data")
    return f"data/{jax.process_index()}.json", json.dumps(data).encode()


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


def read(folder: Path, files: Mapping[str, Any], processes: int) -> Any:
    """The position of this process; one that all processes share suits any number of them.

    Raises:
      CorruptCheckpoint: the position of a process is missing, or is not JSON.
      ValueError: positions differ between processes, and their number is another one now.
    """
    names = {int(found[1]): name for name in files if (found := NAME.fullmatch(name))}
    if len(names) != processes or sorted(names) != list(range(processes)):
        raise CorruptCheckpoint(
            f"{folder} is damaged: manifest.json: files has data positions of the processes "
            f"{sorted(names)}, expected {processes}, numbered from 0"
        )
    contents = {process: (folder / name).read_bytes() for process, name in names.items()}
    if processes != jax.process_count() and len(set(contents.values())) > 1:
        raise ValueError(
            f"{folder} has a data position for each of {processes} processes and now there are "
            f"{jax.process_count()}; resume with {processes}, or save a position that is the same "
            "for all, such as the number of samples read"
        )
    mine = jax.process_index() if jax.process_index() in names else 0
    if names[mine].endswith(".bin"):
        return contents[mine]
    return parse(contents[mine], f"{folder} is damaged: {names[mine]}")
