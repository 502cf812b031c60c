"""The public names of jsparse, found by looking."""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jsparse


def public() -> dict[str, dict[str, Any]]:
    """Room -> qualified name -> object; each object once, under its shortest name.

    The room of a name is the public module below `jsparse` that has it, or else the private one
    that defines it, without the underscore.
    """
    modules = dict(_modules(jsparse))
    exported = {id(value): room for room, m in modules.items() for value in _public(m).values()}
    rooms: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for place, module in {"": jsparse, **modules}.items():
        for name, value in _public(module).items():
            if id(value) in seen or isinstance(value, ModuleType | str):
                continue
            seen.add(id(value))
            room = exported.get(id(value)) or _home(value)
            rooms.setdefault(room, {})[".".join(filter(None, ("jsparse", place, name)))] = value
    return rooms


def _modules(module: ModuleType, above: str = "") -> Iterator[tuple[str, ModuleType]]:
    """Name -> public module below one, such as "prune.costs"; an outer one comes first."""
    for name, inner in _public(module).items():
        if isinstance(inner, ModuleType):
            yield above + name, inner
            yield from _modules(inner, f"{above}{name}.")


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name[0] != "_"}


def _home(value: Any) -> str:
    named = inspect.isroutine(value) or inspect.isclass(value)
    return (value if named else type(value)).__module__.split(".")[1].lstrip("_")


def first_line(value: Any) -> str:
    """The first sentence of a docstring; of an alias of a type what it stands for."""
    return f"`{value}`" if _is_alias(value) else (inspect.getdoc(value) or "").split("\n\n")[0]


def _is_alias(value: Any) -> bool:
    return not (inspect.isclass(value) or inspect.isroutine(value) or callable_object(value))


def callable_object(value: Any) -> bool:
    """Whether a value is an object of jsparse that is called like a function."""
    return type(value).__module__.startswith("jsparse.") and callable(value)
