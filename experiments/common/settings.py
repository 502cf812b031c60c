"""Settings as plain JSON values, and where a run was made."""

import dataclasses
import enum
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsparse.report import versions


def plain(value: Any, name: str) -> Any:
    """`value` as JSON can hold it; what comes back from a file equals it.

    Raises:
        TypeError: It holds something that is no number, text, array, path, class or function.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **plain(fields, name)}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(
        f"{name} is a {type(value).__name__}; allowed are numbers, texts, arrays, paths, lists, "
        "mappings, dataclasses, classes and functions: turn it into one of these"
    )


def flatten(settings: Any, prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings by dotted name: those held to, and those marked `metadata={"free": True}`.

    A dataclass inside is opened, its class counting as a setting of its own.

    Raises:
        TypeError: `settings` is not an instance of a dataclass.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings is a {type(settings).__name__}; give an instance of a dataclass")
    held: dict[str, Any] = {}
    free: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner, loose = flatten(value, name + ".")
            inner = {name: type(value).__qualname__, **inner}
        else:
            inner, loose = {name: plain(value, name)}, {}
        if field.metadata.get("free", False):
            free |= {**inner, **loose}
        else:
            held |= inner
            free |= loose
    return held, free


def environment() -> dict[str, Any]:
    """Versions, devices and the commit that a run is made with."""
    return {
        **versions(),
        "devices": jax.device_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of this checkout, with `-dirty` where files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
