"""Writes the repository's address where it must stand, once it is known.

    python docs/address.py https://github.com/NAME/jsparse

pyproject.toml keeps it, and the site reads it there. Notebooks are opened by themselves on Colab:
their first cell gets a badge, and their second one installs from the address, not from an uploaded
wheel. Called again with another address, it writes that one.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
COLAB = "https://colab.research.google.com"
UPLOAD = """To run it in Colab, choose *File > Upload notebook*, and upload with it the wheel that
`pip wheel --no-deps .` makes in a checkout of jsparse."""


def address() -> str:
    """The repository's address, from pyproject.toml; empty while it is not known."""
    urls = tomllib.loads(PROJECT.read_text())["project"].get("urls", {})
    return urls.get("Repository", "")


def badge(url: str, notebook: str) -> str:
    """The link that opens a notebook in Colab."""
    place = url.removeprefix("https://github.com/")
    target = f"{COLAB}/github/{place}/blob/main/docs/notebooks/{notebook}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({target})"


def with_address(text: str, url: str, notebook: str) -> str:
    """The text of a notebook that is opened and installed from an address."""
    book = json.loads(text)
    first, second = ("".join(cell["source"]) for cell in book["cells"][:2])
    first = re.sub(r"\A\[!\[Open in Colab\].*\n\n", "", first).replace(f"\n\n{UPLOAD}", "")
    first = f"{badge(url, notebook)}\n\n{first}"
    second = re.sub(r"(%pip install -q) .*", rf'\1 "jsparse[export] @ git+{url}"', second)
    for cell, source in zip(book["cells"], (first, second), strict=False):
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def main(url: str) -> None:
    """Write the address.

    Raises:
      SystemExit: it is not the address of a GitHub repository, which Colab needs.
    """
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", url):
        raise SystemExit(f"got {url!r}; give an address such as https://github.com/me/jsparse")
    text = re.sub(r"\[project\.urls\]\n.*\n\n", "", PROJECT.read_text())
    urls = f'[project.urls]\nRepository = "{url}"\n\n[project.optional-dependencies]\n'
    PROJECT.write_text(text.replace("[project.optional-dependencies]\n", urls))
    for path in NOTEBOOKS:
        path.write_text(with_address(path.read_text(), url, path.name))


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
