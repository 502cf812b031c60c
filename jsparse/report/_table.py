"""A table as text: what every report prints."""

from collections.abc import Sequence
from typing import Any


def cells(formats: str, *values: Any) -> list[str]:
    """Values as text, each in its format.

    Example:
      >>> cells("s , .1%", "first", 1200, 0.5)
      ['first', '1,200', '50.0%']
    """
    return [format(value, one) for value, one in zip(values, formats.split(), strict=True)]


def table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    total: Sequence[str] = (),
    text: int | None = None,
) -> str:
    """Lines with aligned columns, the total under a rule; without a total there are no rules.

    The first `text` columns, or all, hold text, aligned to the left; the others hold numbers,
    aligned to the right.

    Example:
      >>> print(table(["layer", "kept"], [["first", "120"]], ["total", "120"], 1))
      layer  kept
      -----------
      first   120
      -----------
      total   120
    """
    rows = [row for row in (head, *body, total) if row]
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    count = len(head) if text is None else text
    lines = [
        "  ".join(
            cell.ljust(width) if n < count else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if not total:
        return "\n".join(line.rstrip() for line in lines)
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
