"""The page of a search: score by cost, and the densities along the front."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from jsparse._checks import require
from jsparse._values import shown
from jsparse.report._figures import Line, chart
from jsparse.report._page import MOST_LAYERS, check_html_path, write_page
from jsparse.report._units import percent

MOST_ROWS = 60


@runtime_checkable
class Searched(Protocol):
    """What `jsparse.prune.search` tried; see `jsparse.prune.Tried`."""

    layers: tuple[str, ...]
    densities: np.ndarray
    score: np.ndarray
    cost: np.ndarray
    by: tuple[str, ...]
    budget: float

    def front(self) -> np.ndarray: ...


def front(tried: Searched, out: str | Path = "front.html") -> Path:
    """Write one HTML page about a search: every candidate by score and cost, and the front.

    The front joins the candidates that no other beats; a second chart shows the density of each
    layer along it. The page needs no network.

    Args:
      tried: `tried` of what `jsparse.prune.search` found, or of its error.
      out: the file.

    Returns:
      The path of the page.

    Raises:
      TypeError: tried is something else.
      ValueError: nothing was tried.
      ImportError: matplotlib or Jinja2 is not installed.
    """
    require("jinja2 matplotlib", "report", "a page")
    check_html_path(out, "out.html")
    if isinstance(tried, type) or not isinstance(tried, Searched):
        raise TypeError(
            "tried must be `tried` of what jsparse.prune.search found, such as found.tried; "
            f"got {shown(tried)}"
        )
    if not len(tried.score):
        raise ValueError("tried has no candidate that was scored; nothing can be drawn")
    rows = tried.front()
    count = len(tried.score)
    content = {
        "title": "A search within a budget",
        "about": f"{count} candidates, {len(tried.layers)} layers, budget {tried.budget:g}",
        "search": {"charts": _charts(tried, rows), "front": _table(tried, rows)},
    }
    return write_page(Path(out), content)


def _charts(tried: Searched, rows: np.ndarray) -> list:
    """Score by cost, and density by cost along the front."""
    points, by = [], np.array(tried.by)
    for n, name in enumerate(dict.fromkeys(tried.by)):
        own = by == name
        style = n + (7 if own.sum() == 1 else 0)
        points.append(Line(name, tried.cost[own], tried.score[own], style=style, point=True))
    ends = np.array([tried.score.min(), tried.score.max()])
    limit = Line("budget", np.full(2, tried.budget), ends, style=11)
    joined = [Line("front", tried.cost[rows], tried.score[rows], style=4)] if len(rows) > 1 else []
    charts = [chart("Score by cost", [*points, *joined, limit], "cost", "cost", "score")]
    if len(rows) > 1:
        lines = [
            Line(path, tried.cost[rows], tried.densities[rows, n], style=n)
            for n, path in enumerate(tried.layers[:MOST_LAYERS])
        ]
        more = len(tried.layers) - len(lines)
        title = "Density of each layer along the front" + (f", the first {len(lines)}" * bool(more))
        charts.append(chart(title, lines, "cost", "cost", "density"))
    return charts


def _table(tried: Searched, rows: np.ndarray) -> tuple[tuple[str, ...], list[list[str]]]:
    """The front, from the lowest cost on."""
    layers = tried.layers[:MOST_LAYERS]
    body = [
        [f"{tried.cost[n]:,.6g}", f"{tried.score[n]:.5g}", tried.by[n]]
        + [percent(float(density)) for density in tried.densities[n, : len(layers)]]
        for n in rows[-MOST_ROWS:]
    ]
    return ("cost", "score", "by", *layers), body
