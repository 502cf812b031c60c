"""The manifest of a folder: facts, the size and checksum of each file, and its own checksum."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsparse._paths import listed
from jsparse._storage.checked_json import check_fields, parse
from jsparse._storage.files import CorruptCheckpoint, write_whole

MANIFEST = "manifest.json"
FILES = {"files": dict[str, tuple[int, str]]}


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder once all its other files exist."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sum(path)] for path in files
    }
    write_whole(folder / MANIFEST, _sealed({**facts, "files": sums}))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=1)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), **content}).encode()


def read(folder: Path, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a folder, with the required facts in `fields`, as for `check_fields`.

    Raises:
      CorruptCheckpoint: the manifest is missing or damaged, or a field is not as expected.
    """
    where = f"{folder} is damaged: {MANIFEST}"
    try:
        found = _inside(folder, MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptCheckpoint(f"{where} is missing") from error
    content = parse(found, where)
    check_fields(content, {"sha256": str}, where)
    del content["sha256"]
    if _sealed(content) != found:
        raise CorruptCheckpoint(f"{where}: its checksum is wrong")
    check_fields(content, {**FILES, **(fields or {})}, where)
    return content


def check(folder: Path, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a folder, after comparing every file with it.

    Raises:
      CorruptCheckpoint: as for `read`; or a file is missing, changed, or outside the folder.
    """
    facts = read(folder, fields)
    faults = [_fault(folder, name, *noted) for name, noted in facts["files"].items()]
    if faults := [fault for fault in faults if fault]:
        raise CorruptCheckpoint(f"{folder} is damaged: {listed(faults)}")
    return facts


def _fault(folder: Path, name: str, size: int, total: str) -> str:
    file = _inside(folder, name)
    if not os.path.isfile(file):  # Path.is_file raises on names that are too long
        return f"{name:.200} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size} bytes, expected {size}"
    return "" if _sum(file) == total else f"the checksum of {name} is wrong"


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; neither its name nor a symbolic link may lead out of it."""
    try:
        file = folder / name
        if file.resolve().is_relative_to(folder.resolve()):
            return file
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a null character
        pass
    raise CorruptCheckpoint(f"{folder} is damaged: {name!r:.200} is outside the folder")
