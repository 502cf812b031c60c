"""The list of a folder's files, with sizes and checksums, and a checksum of its own.

The checksum finds damage; it is not a signature. So what is read here is checked as well: every
field has its type, and every file is inside the folder.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jsparse._paths import listed
from jsparse._storage.files import CorruptCheckpoint, write_whole

MANIFEST = "manifest.json"
Kind = TypeVar("Kind")


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, whose other files are all there: facts, and the files."""
    write_whole(folder / MANIFEST, _sealed({**facts, "files": _sums(folder)}))


def _sums(folder: Path) -> dict[str, list]:
    """Size and checksum of each file in a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sum(path) for path in files}


def _sum(path: Path) -> list:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=1)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), **content}).encode()


def read(path: Path) -> dict[str, Any]:
    """What is noted of a checkpoint.

    Raises:
      CorruptCheckpoint: the note is missing or damaged.
    """
    try:
        found = (path / MANIFEST).read_bytes()
        content = json.loads(found)
        del content["sha256"]
        if _sealed(content) != found:
            raise ValueError("its checksum is wrong")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptCheckpoint(f"{path} is damaged: {MANIFEST} is missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} is damaged: {MANIFEST}: {error}") from error
    files = field(path, content, "files", dict)
    for name, entry in files.items():
        facts = field(path, files, name, list)
        if [type(fact) for fact in facts] != [int, str]:
            raise _wrong(path, name, entry, "a size and a checksum")
    return content


def field(path: Path, content: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    """An entry of a manifest, which must be there and of a type.

    Args:
      path: the folder, for errors.
      content: from `read`, or an object inside.
      name: of the entry.
      kind: the type; a bool is not an int.

    Raises:
      CorruptCheckpoint: it is missing or of another type.
    """
    value = content.get(name)
    if type(value) is not kind:
        raise _wrong(path, name, value, {int: "an integer", str: "a text"}.get(kind, kind.__name__))
    return value


def _wrong(path: Path, name: str, value: Any, wanted: str) -> CorruptCheckpoint:
    shown = repr(value)[:60]
    return CorruptCheckpoint(f"{path} is damaged: {MANIFEST}: {name} is {shown}, not {wanted}")


def check(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after a look at every file."""
    manifest = read(path)
    faults = []
    for name, (size, total) in manifest["files"].items():
        file = path / name
        if "\0" in name or not file.resolve().is_relative_to(path.resolve()):
            faults.append(f"{name!r} is outside the folder")
        elif not file.is_file():
            faults.append(f"{name} is missing")
        elif file.stat().st_size != size:
            faults.append(f"{name} has {file.stat().st_size} bytes of {size}")
        elif _sum(file)[1] != total:
            faults.append(f"the checksum of {name} is wrong")
    if faults:
        raise CorruptCheckpoint(f"{path} is damaged: {listed(faults)}")
    return manifest
