"""JSON files that carry a check sum of their own, and checks of what any JSON file holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from jsparse._storage.files import CorruptCheckpoint, write_whole


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of JSON, whole or not at all, with its check sum as the first field."""
    write_whole(path, _sealed(content))


def _sealed(content: Mapping[str, Any]) -> bytes:
    total = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({"sha256": total, **content}, indent=1).encode()


def read(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The object that `write` wrote, without its check sum.

    Args:
      path: the file.
      fields: as for `check_fields`.

    Raises:
      CorruptCheckpoint: the file is missing or damaged, or a field is not as expected.
    """
    content = read_object(path)
    if "sha256" not in content:
        raise CorruptCheckpoint(f"{path} is damaged: it lacks its check sum, sha256")
    del content["sha256"]
    if _sealed(content) != path.read_bytes():
        raise CorruptCheckpoint(f"{path} is damaged: its check sum is wrong")
    check_fields(content, fields, path)
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The object in any JSON file.

    Raises:
      CorruptCheckpoint: the file is missing, or does not hold a JSON object.
    """
    try:
        found = parse(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptCheckpoint(f"{path} is missing") from error
    check_fields(found, {}, path)
    return found


def parse(content: bytes, path: Path | str) -> Any:
    """The JSON value in the content of a file.

    Raises:
      CorruptCheckpoint: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} is damaged: it is not JSON ({error})") from error


def check_fields(content: Any, fields: Mapping[str, Any], where: Path | str) -> None:
    """Refuse an object whose fields are missing or of the wrong kind; others are not looked at.

    Args:
      content: from JSON.
      fields: the kind of each field: a type such as `int` or `int | float`, `dict[str, kind]` for
        an object with any names, `list[kind, kind]` for a list of that length.
      where: the file, for errors.

    Raises:
      CorruptCheckpoint: one error that names the file and the field.
    """
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CorruptCheckpoint(f"{where} is damaged: it holds a {kind}, expected an object")
    for name, kind in fields.items():
        if name not in content:
            raise CorruptCheckpoint(f"{where} is damaged: the field {name} is missing")
        if not _is(content[name], kind):
            shown = kind.__name__ if type(kind) is type else str(kind)
            raise CorruptCheckpoint(
                f"{where} is damaged: {name} is {content[name]!r:.80}, expected {shown}"
            )


def _is(value: Any, kind: Any) -> bool:
    origin = getattr(kind, "__origin__", None)
    if origin is dict:
        inside = get_args(kind)[1]
        return isinstance(value, dict) and all(_is(one, inside) for one in value.values())
    if origin is list:
        kinds = get_args(kind)
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_is, value, kinds))
    return isinstance(value, kind) and (not isinstance(value, bool) or kind in (bool, object))
