"""Writes the repository's address where it must stand: python docs/address.py URL.

The one place for it is pyproject.toml. Notebooks are opened by themselves on Colab, so their badge
and their first cell say it too.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "pyproject.toml", ROOT / "README.md", *sorted(ROOT.glob("docs/notebooks/*.ipynb")))


def address() -> str:
    """The repository's address, from pyproject.toml."""
    return tomllib.loads(PLACES[0].read_text())["project"]["urls"]["Repository"]


def main(new: str) -> None:
    """Puts the new address in the place of the present one.

    Raises:
      SystemExit: it is no address of a GitHub repository, which Colab needs.
    """
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", new):
        raise SystemExit(f"got {new!r}; give an address such as https://github.com/me/jsparse")
    old, new = (f"/{url.removeprefix('https://github.com/')}" for url in (address(), new))
    for place in PLACES:
        place.write_text(place.read_text().replace(old, new))


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
