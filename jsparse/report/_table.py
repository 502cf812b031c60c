"""A table as text: what every report prints."""

from collections.abc import Sequence


def table(
    head: Sequence[str], body: Sequence[Sequence[str]], total: Sequence[str], text: int
) -> str:
    """Lines with aligned columns, the total under a rule.

    Args:
      head: names of the columns.
      body: rows of cells.
      total: the last row.
      text: so many columns are text, to the left; the others are numbers, to the right.

    Returns:
      The lines, all of the same length.

    Example:
      >>> print(table(["layer", "kept"], [["first", "120"]], ["total", "120"], 1))
      layer  kept
      -----------
      first   120
      -----------
      total   120
    """
    rows = (head, *body, total)
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if n < text else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
