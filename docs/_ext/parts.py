"""The parts of README.md that pages show."""

from pathlib import Path

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
