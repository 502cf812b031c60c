"""The directive {readme}: what README.md has from `<!-- docs: name -->` to `<!-- end: name -->`."""

from typing import Any

from docutils import nodes
from parts import README, part
from sphinx.util.docutils import SphinxDirective


class Readme(SphinxDirective):
    """A part of README.md, so that nothing is written twice."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(README))
        return self.parse_text_to_nodes(part(self.arguments[0]))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("readme", Readme)
    return {"parallel_read_safe": True}
