"""The public names of jsparse, found by looking, and the directive that documents them.

`.. public:: surgery sparse` documents every public name whose home is one of these rooms, with a
table of them first. A name whose home no page asks for fails the build, so that a new name or room
cannot be forgotten.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from docstrings import readable, sentence
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import jsparse

log = logging.getLogger(__name__)


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
    """The first sentence of a docstring; empty for an alias of a type."""
    return "" if _is_alias(value) else (inspect.getdoc(value) or "").split("\n\n")[0]


def _is_alias(value: Any) -> bool:
    return not (inspect.isclass(value) or inspect.isroutine(value) or callable_object(value))


def callable_object(value: Any) -> bool:
    """Whether a value is an object of jsparse that is called like a function."""
    return type(value).__module__.startswith("jsparse.") and callable(value)


class Names(SphinxDirective):
    """`.. names:: room...`: a table of the public names of some rooms, each a link."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        names = self.asked()
        made = nodes.table(classes=["names"])
        group = nodes.tgroup(cols=2)
        made += group
        group += [nodes.colspec(colwidth=width) for width in (1, 2)]
        body = nodes.tbody()
        group += body
        for name, value in names.items():
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refwarn=True
            )
            link += nodes.literal(name, name)
            cells = nodes.paragraph("", "", link), sentence(first_line(value))
            body += nodes.row("", *(nodes.entry("", cell) for cell in cells))
        return [made]

    def asked(self) -> dict[str, Any]:
        """The public names of the rooms that the directive names, in order."""
        rooms = public()
        names: dict[str, Any] = {}
        for room in self.arguments[0].split():
            if room not in rooms:
                raise self.error(f"{room} has no public names; rooms are {', '.join(rooms)}")
            names |= rooms[room]
        return dict(sorted(names.items(), key=lambda item: (item[0].count("."), item[0].lower())))


class Public(Names):
    """`.. public:: room...`: the table, then each name with its docstring."""

    def run(self) -> list[nodes.Node]:
        names = self.asked()
        rooms = self.env.metadata[self.env.docname].setdefault("rooms", [])
        rooms.extend(self.arguments[0].split())
        lines = [line for name, value in names.items() for line in _entry(name, value)]
        return [*super().run(), *self.parse_text_to_nodes("\n".join(lines))]


def _entry(name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        inherited = issubclass(value, Exception)
        members = [] if inherited else ["   :members:"]
        return ["", f".. autoclass:: {name}", *members, ""]
    if inspect.isroutine(value):
        return ["", f".. autofunction:: {name}", ""]
    if callable_object(value):
        doc = (inspect.getdoc(type(value)) or "").splitlines()
        signature = str(inspect.signature(value))
        head = ["", f".. py:function:: {name}{signature}", ""]
        return [*head, *(f"   {line}" for line in readable(doc)), ""]
    return ["", f".. py:data:: {name}", "", f"   ``{value}``", ""]


def check_all_asked_for(app: Any, env: Any) -> None:
    """Every room is on a page, or the build warns."""
    asked = {room for meta in env.metadata.values() for room in meta.get("rooms", [])}
    for room, names in public().items():
        if room not in asked:
            log.warning(
                "the public names of jsparse.%s are on no page (%s); add `.. public:: %s` in "
                "docs/api",
                room,
                ", ".join(names),
                room,
            )


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("names", Names)
    app.add_directive("public", Public)
    app.connect("env-check-consistency", check_all_asked_for)
    return {"parallel_read_safe": True}
