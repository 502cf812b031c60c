"""The directive {readme}: what README.md has from `<!-- docs: name -->` to `<!-- end: name -->`."""

import re
from typing import Any

from docutils import nodes
from parts import README, part
from sphinx.util.docutils import SphinxDirective


def whole_cells(text: str) -> str:
    """The text with the numbers of its tables unbreakable: 97.92 ± 0.06, 2.35 %."""
    row = lambda found: re.sub(r" (?=[±%])|(?<=±) ", "\u00a0", found.group())
    return re.sub(r"^\|.*$", row, text, flags=re.MULTILINE)


class Readme(SphinxDirective):
    """A part of README.md, so that nothing is written twice."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(README))
        return self.parse_text_to_nodes(whole_cells(part(self.arguments[0])))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("readme", Readme)
    return {"parallel_read_safe": True}
