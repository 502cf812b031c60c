"""The Python of a Markdown page, run as pasted, from top to bottom."""

import re
from pathlib import Path
from typing import Any

from docs._ext.parts import part

CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"^```\{readme\} (.*)\n```$", re.MULTILINE)


def whole(page: Path) -> str:
    """A page with the parts of README.md that it shows."""
    return SHOWN.sub(lambda found: part(found.group(1)), page.read_text())


def run(page: Path) -> list[str]:
    """Run the snippets of a page, one after another, in one namespace; returns them."""
    text, names = whole(page), {}
    found = list(CODE.finditer(text))
    for snippet in found:
        before = "\n" * text.count("\n", 0, snippet.start(1))  # so that errors name the page's line
        exec(compile(before + snippet.group(1), str(page), "exec"), names)
    return [snippet.group(1) for snippet in found]


def own(page: Path) -> list[Any]:
    """The snippets that a page has beside those of README.md."""
    return CODE.findall(page.read_text())
