"""The Python of a Markdown page, run as pasted, from top to bottom."""

import re
from pathlib import Path

CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(page: Path) -> list[str]:
    """Run the snippets of a page, one after another, in one namespace; returns them."""
    text, names = page.read_text(), {}
    found = list(CODE.finditer(text))
    for snippet in found:
        before = "\n" * text.count("\n", 0, snippet.start(1))  # errors name the line of the page
        exec(compile(before + snippet.group(1), str(page), "exec"), names)
    return [snippet.group(1) for snippet in found]
