"""The manifest of a folder: its files with sizes and check sums, and facts about the folder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsparse._storage import sealed_json
from jsparse._storage.files import CorruptCheckpoint, inside

MANIFEST = "manifest.json"
FILES = {"files": dict[str, tuple[int, str]]}
SHOWN = 8  # files in one error


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder once all its other files are there."""
    sealed_json.write(folder / MANIFEST, {**facts, "files": _sums(folder)})


def _sums(folder: Path) -> dict[str, list]:
    """Size and check sum of each file in a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sum(path)] for path in files
    }


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a folder.

    Args:
      folder: with a manifest.
      fields: the kinds of its facts, as for `sealed_json.check_fields`.

    Raises:
      CorruptCheckpoint: the manifest is missing or damaged, or a field is not as expected.
    """
    return sealed_json.read(folder, MANIFEST, {**FILES, **(fields or {})})


def check(folder: Path, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a folder, after comparing every file with it.

    Raises:
      CorruptCheckpoint: as for `read`; or a file is missing, changed, or not in the folder.
    """
    facts = read(folder, fields)
    faults = [_fault(folder, name, *noted) for name, noted in facts["files"].items()]
    faults = [fault for fault in faults if fault]
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise CorruptCheckpoint(f"{folder} is damaged: {', '.join([*faults[:SHOWN], *more])}")
    return facts


def _fault(folder: Path, name: str, size: int, total: str) -> str:
    file = inside(folder, name)
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size} bytes, expected {size}"
    return "" if _sum(file) == total else f"the check sum of {name} is wrong"
