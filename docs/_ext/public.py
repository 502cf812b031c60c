"""The directives that list and document public names.

`.. public:: surgery sparse` documents every public name whose home is one of these rooms, with a
table of them first; `{names} export` is the table alone. A name whose home no page asks for fails
the build, so that a new name or room cannot be forgotten.
"""

import inspect
from typing import Any

from docstrings import readable, sentence
from docutils import nodes
from names import callable_object, first_line, public
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)


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
    return ["", f".. py:data:: {name}", "", f"   Stands for ``{value}``.", ""]


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
