"""JSON from files, checked field by field, with errors that name the file and the field."""

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin

from jsparse._storage.files import CorruptCheckpoint


def parse(content: bytes, where: str) -> Any:
    """The JSON value in the content of a file.

    Args:
      content: of the file.
      where: begins every error, such as "runs/a is damaged: settings.json".

    Raises:
      CorruptCheckpoint: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{where}: not JSON: {error}") from error


def check_fields(content: Any, fields: Mapping[str, Any], where: str) -> None:
    """Refuse what is not an object, or has a required field missing or of another kind.

    Args:
      content: from `parse`.
      fields: the kind of each: a type such as `int | float`, `dict[str, kind]` for an object with
        any names, `list[kind]`, `tuple[kind, kind]` for a list of that length.
      where: as for `parse`.
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
    if get_origin(kind) is list:
        inner = get_args(kind)[0]
        return isinstance(value, list) and all(_is(one, inner) for one in value)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if isinstance(kind, UnionType):
        return any(_is(value, one) for one in get_args(kind))
    return isinstance(value, kind) and (not isinstance(value, bool) or kind in (bool, object))
