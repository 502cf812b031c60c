"""Docstrings as this project writes them, made readable for Sphinx.

Equations stand indented, without a marker; bars and stars are those of mathematics. So outside of
the sections (Args, Returns, ...) an indented block becomes a literal one, and what RST would take
for markup is escaped. `.. steps:: jsparse.rules._threshold` (or ```{steps} in Markdown) shows the
numbered steps at the head of a file.
"""

import importlib
import re
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import jsparse

SECTION = re.compile(r"(Args|Attributes|Example|Examples|Raises|Returns|Yields):$")


def escape(text: str) -> str:
    """The text with what RST would take for markup escaped, but for what stands in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*|])|(?<=\w)(_)(?=\W|$)", _slashed, part) for part in parts[::2]]
    return "".join(parts)


def _slashed(match: re.Match) -> str:
    return f"\\{match.group()}"


def readable(lines: list[str]) -> list[str]:
    """The lines of a docstring as RST; sections are left to napoleon but for the escapes."""
    out: list[str] = []
    section = block = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and not indent:
            section, block = bool(SECTION.match(line)), False
        if not section and indent >= 4 and line.strip():
            if not block:
                out += ["", ".. code-block:: none", ""]
            block = True
            out.append(line)
        else:
            plain = block or (section and line.lstrip().startswith((">>>", "...")))
            out.append(line if plain else escape(line))
    return out


def on_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon sees it."""
    lines[:] = readable(lines)


def on_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str
) -> tuple[str | None, str]:
    """The default role as it is written, not field by field."""
    return signature and signature.replace(repr(jsparse.Role()), "Role()"), returns


def find_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """What stands in backticks is a link where it is a public name, in whatever room."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not re.fullmatch(r"[A-Za-z_][\w.]*", target):
        return None
    domain = env.get_domain("py")
    rooms = {"jsparse"} | {name.rpartition(".")[0] for name in domain.objects}
    tries = [f"{room}.{target}" for room in sorted(rooms, key=lambda r: (r.count("."), r))]
    names = [name for name in tries if name.startswith("jsparse") and name in domain.objects]
    if not names or (len(names) > 1 and names[0].count(".") > 1):
        return None
    found = domain.objects[names[0]]
    refdoc, builder = node["refdoc"], app.builder
    return make_refnode(builder, refdoc, found.docname, found.node_id, contnode, names[0])


class Steps(SphinxDirective):
    """The numbered steps and equations at the head of a method's file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(module.__file__ or "")
        _, _, text = (module.__doc__ or "").partition("\n\n")
        box = nodes.container(classes=["steps"])
        box += blocks(text.splitlines())
        return [box]


def blocks(lines: list[str]) -> list[nodes.Node]:
    """Paragraphs, numbered lists and indented equations as nodes."""
    made: list[nodes.Node] = []
    items: nodes.enumerated_list | None = None
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        numbered = re.match(r"(\d+)\. +", line)
        stop = at + 1
        if numbered:
            width = len(numbered.group())
            while stop < len(lines) and (not lines[stop].strip() or lines[stop].startswith("  ")):
                stop += 1
            if items is None:
                items = nodes.enumerated_list(enumtype="arabic", start=int(numbered.group(1)))
                items["prefix"], items["suffix"] = "", "."
                made.append(items)
            body = [
                line[width:],
                *(rest[width:] if rest.strip() else "" for rest in lines[at + 1 : stop]),
            ]
            items += nodes.list_item("", *blocks(body))
        elif line.startswith("  "):
            while stop < len(lines) and (not lines[stop].strip() or lines[stop].startswith("  ")):
                stop += 1
            cut = min(len(rest) - len(rest.lstrip()) for rest in lines[at:stop] if rest.strip())
            text = "\n".join(rest[cut:] for rest in lines[at:stop]).strip("\n")
            made.append(nodes.literal_block(text, text, language="none"))
        else:
            while stop < len(lines) and re.match(r"(?!\d+\. )\S", lines[stop]):
                stop += 1
            made.append(sentence(" ".join(part.strip() for part in lines[at:stop])))
            items = None
        at = stop
    return made


def sentence(text: str) -> nodes.paragraph:
    """Text in which backticks mark code."""
    node = nodes.paragraph()
    for n, part in enumerate(" ".join(text.split()).split("`")):
        if part:
            node += nodes.literal(part, part) if n % 2 else nodes.Text(part)
    return node


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("steps", Steps)
    app.connect("autodoc-process-docstring", on_docstring, priority=400)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("missing-reference", find_public)
    return {"parallel_read_safe": True}
