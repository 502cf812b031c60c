"""JSON from files, checked field by field, with errors that name the file and the field."""

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin

from jsparse._storage.files import CorruptCheckpoint


def parse(content: bytes, where: str) -> Any:
    """The JSON value in a file; errors begin with `where`: "runs/a is damaged: settings.json".

    Raises:
      CorruptCheckpoint: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{where}: not JSON: {error}") from error


def check_fields(content: Any, fields: Mapping[str, Any], where: str) -> None:
    """Refuse what is not an object, or has a required field missing or of another kind.

    A kind is a type such as `int | float`, `dict[str, kind]` for an object with any names,
    `list[kind]`, or `tuple[kind, kind]` for a list of that length.
    """
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{where}: it holds {content!r:.80}, expected an object")
    for name, kind in fields.items():
        if name not in content:
            raise CorruptCheckpoint(f"{where}: the field {name:.80} is missing")
        if not _is(content[name], kind):
            shown = kind.__name__ if type(kind) is type else str(kind)
            got = f"{name:.80} is {content[name]!r:.80}"
            raise CorruptCheckpoint(f"{where}: {got}, expected {shown}")


def _is(value: Any, kind: Any) -> bool:
    whole, kinds = get_origin(kind), get_args(kind)
    if whole is dict:
        return isinstance(value, dict) and all(_is(one, kinds[1]) for one in value.values())
    if whole is list:
        return isinstance(value, list) and all(_is(one, kinds[0]) for one in value)
    if whole is tuple:
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if isinstance(kind, UnionType):
        return any(_is(value, one) for one in kinds)
    return isinstance(value, kind) and (not isinstance(value, bool) or kind in (bool, object))
