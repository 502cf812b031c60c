"""A table as text, which every report prints, and as HTML for a notebook."""

from collections.abc import Sequence
from html import escape

from jsparse.report._units import percent


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


def html_table(head: Sequence[str], body: Sequence[Sequence[str | float]]) -> str:
    """A table as a notebook shows it; the last row is the total.

    Args:
      head: plain text.
      body: rows of plain text, or of a fraction, which is drawn as a bar too.
    """
    cell = '<td style="text-align:left{}">{}</td>'
    bar = (
        '<span style="display:block;width:80px;height:5px;background:rgba(128,128,128,.3)">'
        '<span style="display:block;height:5px;background:#2b7cd0;width:{:.2f}%"></span></span>'
    )
    lines = []
    for n, row in enumerate(body):
        last = ";border-top:1px solid;font-weight:bold" if n == len(body) - 1 else ""
        texts = [
            percent(one) + bar.format(100 * one) if isinstance(one, float) else escape(str(one))
            for one in row
        ]
        lines.append(f"<tr>{''.join(cell.format(last, text) for text in texts)}</tr>")
    names = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
