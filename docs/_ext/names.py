"""The public names of jsparse, found by looking."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import jsparse


def public() -> dict[str, dict[str, Any]]:
    """Room -> qualified name -> object; each object once, under its shortest name.

    Public is what `jsparse` has, what the packages in it have, and what is defined in the modules
    that `jsparse` has.
    """
    rooms: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    packages = {
        module.name: importlib.import_module(f"jsparse.{module.name}")
        for module in pkgutil.iter_modules(jsparse.__path__)
        if module.ispkg
    }
    exported = {id(value): name for name, package in packages.items() for value in _names(package)}

    def add(name: str, value: Any, found: str) -> None:
        if id(value) not in seen:
            seen.add(id(value))
            home = exported.get(id(value)) or _home(value, found)
            rooms.setdefault(home, {})[name] = value

    for name, value in _named(jsparse).items():
        add(f"jsparse.{name}", value, "")
    for room, package in packages.items():
        for name, value in _named(package).items():
            add(f"jsparse.{room}.{name}", value, room)
    source = inspect.getsource(jsparse)
    for room, module in vars(jsparse).items():
        meant = f"from jsparse import {room} as {room}\n" in source  # not only imported on the way
        if meant and isinstance(module, ModuleType) and room not in packages:
            for name, value in _named(module).items():
                if _made_in(value) == module.__name__:
                    add(f"jsparse.{room}.{name}", value, room)
    return rooms


def _named(module: ModuleType) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and not isinstance(value, ModuleType)
    }


def _names(module: ModuleType) -> list[Any]:
    return list(_named(module).values())


def _made_in(value: Any) -> str:
    named = inspect.isroutine(value) or inspect.isclass(value)
    return (value if named else type(value)).__module__ or ""


def _home(value: Any, found: str) -> str:
    made = _made_in(value)
    return made.split(".")[1] if made.startswith("jsparse.") else found


def first_line(value: Any) -> str:
    """The first sentence of a docstring; of an alias of a type what it stands for."""
    return f"`{value}`" if _is_alias(value) else (inspect.getdoc(value) or "").split("\n\n")[0]


def _is_alias(value: Any) -> bool:
    return not (inspect.isclass(value) or inspect.isroutine(value) or callable_object(value))


def callable_object(value: Any) -> bool:
    """Whether a value is an object of jsparse that is called like a function."""
    return type(value).__module__.startswith("jsparse.") and callable(value)
