"""JSON files with a check sum of their own, and errors that name the file and the field."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from jsparse._storage.files import CorruptCheckpoint, inside, write_whole

SEAL = "sha256"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, with its check sum as the first field."""
    write_whole(path, _sealed(content))


def _sealed(content: Mapping[str, Any]) -> bytes:
    total = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({SEAL: total, **content}, indent=1).encode()


def read(folder: Path, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The object that `write` wrote, without its check sum.

    Args:
      folder: where the file is.
      name: of the file.
      fields: as for `check_fields`.

    Raises:
      CorruptCheckpoint: the file is missing or damaged, or a field is not as expected.
    """
    content = read_object(folder, name)
    where = f"{folder} is damaged: {name}"
    if content.pop(SEAL, None) is None:
        raise CorruptCheckpoint(f"{where}: its check sum, the field {SEAL}, is missing")
    if _sealed(content) != (folder / name).read_bytes():
        raise CorruptCheckpoint(f"{where}: its check sum is wrong")
    check_fields(content, fields, where)
    return content


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file without a check sum.

    Raises:
      CorruptCheckpoint: the file is missing, leads out of the folder, or holds something else.
    """
    where = f"{folder} is damaged: {name}"
    try:
        content = inside(folder, name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptCheckpoint(f"{where} is missing") from error
    found = parse(content, where)
    check_fields(found, {}, where)
    return found


def parse(content: bytes, where: str) -> Any:
    """The JSON value in the content of a file; `where` begins the error.

    Raises:
      CorruptCheckpoint: it is not JSON, or is nested too deep.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{where}: not JSON: {error}") from error


def check_fields(content: Any, fields: Mapping[str, Any], where: str) -> None:
    """Refuse what is not an object, or lacks a field, or has one of another kind.

    Args:
      content: parsed JSON.
      fields: the kind of each required field: a type such as `int` or `int | float`,
        `dict[str, kind]` for an object with any names, `tuple[kind, kind]` for a list of that
        length.
      where: begins the error, such as "runs/a is damaged: settings.json".

    Raises:
      CorruptCheckpoint: it names the first such field.
    """
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CorruptCheckpoint(f"{where}: it holds a {kind}, expected an object")
    for name, kind in fields.items():
        if name not in content:
            raise CorruptCheckpoint(f"{where}: the field {name} is missing")
        if not _is(content[name], kind):
            shown = kind.__name__ if type(kind) is type else str(kind)
            raise CorruptCheckpoint(f"{where}: {name} is {content[name]!r:.80}, expected {shown}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return isinstance(value, dict) and all(_is(one, inner) for one in value.values())
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_is, value, kinds))
    return isinstance(value, kind) and (not isinstance(value, bool) or kind in (bool, object))
