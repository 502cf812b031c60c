"""The directive {readme}: a part of README.md, marked `<!-- docs: name -->`, `<!-- end: name -->`."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

README = Path(__file__).parents[2] / "README.md"


def part(name: str) -> str:
    """The part of README.md under a name.

    Raises:
      ValueError: there is none.
    """
    _, start, rest = README.read_text().partition(f"<!-- docs: {name} -->")
    text, end, _ = rest.partition(f"<!-- end: {name} -->")
    if not start or not end:
        raise ValueError(f"README.md has no part marked <!-- docs: {name} --> ... <!-- end -->")
    return text.strip("\n")


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
