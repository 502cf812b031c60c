"""Charts as SVG, drawn with matplotlib in the colours of the page.

Charts are 360 units wide, so a unit is about a pixel on a phone. They are drawn in fixed colours,
each of which then becomes the page's: a line of colour 2 is `var(--c2)`, in light and dark mode.
"""

import dataclasses
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jsparse._checks import require
from jsparse.report._document import Chart, Key

WIDTH, HEIGHT = 360, 230
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8508f", "#222222", "#b97f00", "#2b9fd9")
TEXT, GRID, PAPER = "#010203", "#040506", "#fefdfc"
PAGE = {colour: f"var(--c{n})" for n, colour in enumerate(COLOURS)}
PAGE |= {TEXT: "currentColor", GRID: "var(--line)", PAPER: "var(--paper)"}
DASHES, SHOWN = ("solid", "dashed", "dotted", "dashdot"), ("solid", "dashed", "dotted", "double")
MARKS, SIGNS = "os^D", "●■▲◆"
LOG_BELOW = 0.05
"""A density below it makes the axis of densities logarithmic."""
LARGEST = 1e300
"""A larger number leaves no room for an axis around it."""
MOST = 1200
"""Points of a line that are drawn: about four for each unit of the plot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis from `low` to `high`, in percent, in whole numbers, or logarithmic."""

    low: float
    high: float
    log: bool = False
    percent: bool = False
    whole: bool = False
    label: str = ""

    def written(self, value: float) -> str:
        """A value as text."""
        value = 100 * value if self.percent else value
        short = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 8):g}"
        return f"{short}%" if self.percent else short


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A line of [n] points, with a band of half the height `spread`, [n] or empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    style: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A point, with bars of half the length `spread` along x and y."""

    name: str
    x: float
    y: float
    spread: tuple[float, float] = (0.0, 0.0)
    style: int = 0


def axis_of(values: Sequence[float] | np.ndarray, label: str = "", percent: bool = False) -> Axis:
    """A linear axis around some values, with a little room."""
    finite = np.asarray(values, float)
    finite = finite[np.abs(finite) < LARGEST]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room if low < 0 or low > room else 0.0, high + room
    return Axis(low=low, high=min(high, 1.0) if percent else high, percent=percent, label=label)


def density_axis(values: Sequence[float] | np.ndarray, label: str = "") -> Axis:
    """An axis of densities up to 100 %, logarithmic where they fall below 5 %."""
    finite = np.asarray(values, float)
    positive = finite[np.isfinite(finite) & (finite > 0)]
    least = float(positive.min()) if positive.size else 1.0
    if least >= LOG_BELOW:
        return Axis(low=0.0, high=1.0, percent=True, label=label)
    return Axis(low=least / 1.3, high=1.0, log=True, percent=True, label=label)


def step_axis(steps: Sequence[float], label: str) -> Axis:
    """An axis from the first step to the last; a lone one is in the middle."""
    low, high = (min(steps), max(steps)) if len(steps) else (0, 1)
    room = 1 if low == high else 0
    whole = all(step == int(step) for step in steps)
    return Axis(low=low - room, high=high + room, whole=whole, label=label)


def chart(
    title: str, x: Axis, y: Axis, lines: Sequence[Line], points: Sequence[Point] = ()
) -> Chart:
    """Lines and points on two axes.

    Raises:
      ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", what="pages")
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "font.size": 12, "path.simplify": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout=None)
        axes = figure.add_axes((48 / WIDTH, 40 / HEIGHT, 292 / WIDTH, 178 / HEIGHT))
        _frame(axes, x, y)
        for line in map(thinned, lines):
            _draw_line(axes, line, y)
        for point in points:
            _draw_point(axes, point)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    keys = [Key(o.name, o.style % 7, dash=_of(SHOWN, o.style)) for o in lines if o.name]
    keys += [Key(o.name, o.style % 7, mark=_of(SIGNS, o.style)) for o in points]
    return Chart(title, _inline(content.getvalue()), keys)


def _of(kinds: Sequence[str], style: int) -> str:
    """The dash or mark of a style: another one each time the colours are used up."""
    return kinds[style // len(COLOURS) % len(kinds)]


def _frame(axes: Any, x: Axis, y: Axis) -> None:
    from matplotlib import ticker

    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=TEXT, pad=6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(TEXT)
    axes.set_xlabel(x.label, color=TEXT)
    for one, shown in ((x, axes.xaxis), (y, axes.yaxis)):
        if one.log:
            decades = math.log10(one.high / one.low)
            parts = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
            (axes.set_xscale if one is x else axes.set_yscale)("log")
            shown.set_major_locator(ticker.LogLocator(subs=parts, numticks=20))
            shown.set_minor_locator(ticker.NullLocator())
        else:
            shown.set_major_locator(ticker.MaxNLocator(5, integer=one.whole, steps=[1, 2, 5, 10]))
        shown.set_major_formatter(ticker.FuncFormatter(lambda v, _, one=one: one.written(v)))
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)


def _draw_line(axes: Any, line: Line, y: Axis) -> None:
    colour, values = COLOURS[line.style % 7], np.asarray(line.y, float)
    inside = lambda v: np.clip(np.where(np.isfinite(v), v, np.nan), y.low, y.high)
    alone = "_" if len(values) == 1 else ""  # or nothing would be seen
    look = {"linestyle": _of(DASHES, line.style), "marker": alone, "linewidth": 1.8}
    axes.plot(line.x, inside(values), color=colour, clip_on=False, **look)
    if len(line.spread):
        spread = np.asarray(line.spread, float)
        edges = inside(values - spread), inside(values + spread)
        axes.fill_between(line.x, *edges, color=colour, alpha=0.2, linewidth=0, clip_on=False)


def _draw_point(axes: Any, point: Point) -> None:
    colour, mark = COLOURS[point.style % 7], _of(MARKS, point.style)
    length = {"xerr": point.spread[0], "yerr": point.spread[1]}
    bars = axes.errorbar(point.x, point.y, fmt=mark, color=colour, elinewidth=1.4, **length)
    bars[0].set(markersize=8, markeredgecolor=PAPER)
    for part in (bars[0], *bars[2]):
        part.set_clip_on(False)


def _inline(svg: str) -> str:
    """An SVG file as a part of a page: no header, no names that two charts would share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*_\d+"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"<!--.*?-->", "", svg)
    for colour, name in PAGE.items():
        svg = svg.replace(colour, name)
    svg = re.sub(r"(\d\.\d{1,2})\d+", r"\1", svg)  # of a unit, which is a pixel on a phone
    return re.sub(r"\s*\n\s*", " ", svg)


def thinned(line: Line) -> Line:
    """A line of at most `MOST` points that looks the same: of each piece the lowest and highest."""
    if len(line.x) <= MOST:
        return line
    y = np.asarray(line.y, float)
    pieces = np.array_split(np.arange(len(y)), MOST // 2)  # NaN counts as lowest, and stays
    kept = {int(piece[at(y[piece])]) for piece in pieces for at in (np.argmin, np.argmax)}
    take = lambda values: [values[n] for n in sorted(kept)] if len(values) else values
    return dataclasses.replace(line, x=take(line.x), y=take(line.y), spread=take(line.spread))
