"""A page about the groups of a model: a line for each group, with a mark at each of its layers.

Layers are rows, in the order in which the model reads them. The line of a group goes from the first
of its layers to the last; lines that do not meet share a column.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from jsparse._checks import require
from jsparse._versions import versions
from jsparse.export._shrinking.uses import UnitGroup, Use
from jsparse.report._page import check_html_path, write_page

ROW, COLUMN, LETTER, TOP = 20, 26, 7.5, 26
"""Pixels: of a row, a column, a letter, and above the first row."""
COLORS = 7
"""Of the style sheet."""


def write_groups(groups: Sequence[UnitGroup], order: Sequence[str], out: str | Path) -> Path:
    """Write the page of `UnitGroups.page`; `order` is that in which the model reads weights."""
    require("jinja2", "report", "a page")
    check_html_path(out, "groups.html")
    free = [group for group in groups if not group.held]
    head = ("", "group", "units", "parameters", "")
    rows = [
        (n, group.name, group.width, f"{group.parameters:,}", "; ".join(noted(group)))
        for n, group in enumerate(groups, 1)
    ]
    content = {
        "title": "Units that shrink together",
        "reached": [
            ((f"{len(free)}", ""), "groups that can shrink"),
            ((f"{sum(group.width for group in free):,}", ""), "units in them"),
            ((f"{len(groups) - len(free)}", ""), "that cannot"),
        ],
        "units": {"svg": drawn(groups, order), "table": (head, rows)},
        "settings": ((), ()),
        "versions": (("name", "value"), [[name, str(one)] for name, one in versions().items()]),
    }
    return write_page(Path(out), content)


def noted(group: UnitGroup) -> list[str]:
    """The description of a group."""
    notes = [f"a sum over it at {group.means}"] if group.means else []
    return notes + ([f"stays: {group.held}"] if group.held else [])


def drawn(groups: Sequence[UnitGroup], order: Sequence[str]) -> str:
    """The picture, SVG in the colors of the page's style sheet."""
    layers = list(dict.fromkeys(_layer(path) for path in order))
    spans = [_span(group, layers) for group in groups]
    used = sorted({row for span in spans for row in span})
    layers, place = [layers[row] for row in used], {row: n for n, row in enumerate(used)}
    spans = [{place[row]: use for row, use in span.items()} for span in spans]
    columns = _columns(spans)
    left = 12 + round(LETTER * max(map(len, layers), default=0))
    wide, high = left + COLUMN * (1 + max(columns, default=0)) + 8, TOP + ROW * len(layers)
    parts = [
        f'<text x="0" y="{TOP + ROW * n + 14}" fill="var(--ink)">{escape(layer)}</text>'
        f'<path d="M{left - 6} {TOP + ROW * n + 10}H{wide}" stroke="var(--line)"/>'
        for n, layer in enumerate(layers)
    ]
    for n, (group, span, column) in enumerate(zip(groups, spans, columns, strict=True)):
        parts.append(_line(n, group, span, left + COLUMN * column + COLUMN // 2))
    style = f'width="{wide}" height="{high}" font-size="12" font-family="monospace"'
    return (
        f'<svg viewBox="0 0 {wide} {high}" {style} role="img" '
        f'aria-label="groups of units and their layers">{"".join(parts)}</svg>'
    )


def _layer(path: str) -> str:
    """Of a weight."""
    return path.rpartition("/")[0] or path


def _span(group: UnitGroup, layers: Sequence[str]) -> dict[int, Use]:
    """What the layers of a group do with its units, by row."""
    found: dict[int, Use] = {}
    for member in group.members:
        row = layers.index(_layer(member.path))
        found[row] = found.get(row, Use(0)) | member.use
    return found


def _columns(spans: Sequence[dict[int, Use]]) -> list[int]:
    """A column for each line: the first in which no other one has a row of it.

    Example:
      >>> _columns([{0: Use.MAKES, 4: Use.READS}, {1: Use.MAKES}, {2: Use.MAKES}, {4: Use.MAKES}])
      [0, 1, 1, 1]
    """
    taken: list[list[tuple[int, int]]] = []
    found = []
    for span in spans:
        first, last = min(span), max(span)
        apart = [all(last < a or b < first for a, b in column) for column in [*taken, []]]
        found.append(apart.index(True))
        taken += [[]] if found[-1] == len(taken) else []
        taken[found[-1]].append((first, last))
    return found


def _line(n: int, group: UnitGroup, span: dict[int, Use], x: int) -> str:
    """The line of a group, with its number and a mark for each layer.

    A mark is filled where the layer makes units, hollow where it only reads them, and small where
    it scales or shifts them.
    """
    color = "var(--soft)" if group.held else f"var(--c{n % COLORS})"
    at = lambda row: TOP + ROW * row + 10
    first, last = min(span), max(span)
    dash = ' stroke-dasharray="2 3"' if group.held else ""
    parts = [
        f"<g><title>{escape(group.name)}: {group.width} units</title>",
        f'<path d="M{x} {at(first)}V{at(last)}" stroke="{color}" stroke-width="2"{dash}/>',
        f'<text x="{x + 6}" y="{at(first) - 3}" font-size="9" fill="{color}">{n + 1}</text>',
    ]
    for row, use in span.items():
        fill = "var(--paper)" if not use & Use.MAKES and use & Use.READS else color
        size = 5 if use & (Use.MAKES | Use.READS) else 2.5
        parts.append(
            f'<circle cx="{x}" cy="{at(row)}" r="{size}" fill="{fill}" stroke="{color}" '
            'stroke-width="2"/>'
        )
    return "".join([*parts, "</g>"])
