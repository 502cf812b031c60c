"""Charts as inline SVG: lines with bands, points with bars, linear and logarithmic axes.

Drawn 360 units wide, so that on a phone a unit is about a pixel. Colours are those of the page.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 340, 12, 190  # edges of the plot
COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3")
LOG_BELOW = 0.05
"""A density below it makes the axis of densities logarithmic."""
LARGEST = 1e300
"""What is larger leaves no room for an axis around it."""
MOST = 1200
"""Points of a line that are drawn: four for each unit of the plot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
      low: its lower end.
      high: its upper end.
      log: whether it is logarithmic.
      percent: whether values are fractions, to be written in percent.
      whole: whether values are whole numbers.
      label: written below a horizontal axis.
    """

    low: float
    high: float
    log: bool = False
    percent: bool = False
    whole: bool = False
    label: str = ""

    def place(self, value: float) -> float:
        """Where a value is: 0 at the lower end, 1 at the upper; the ends catch what is outside."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Three to seven round values."""
        scale = 100 if self.percent else 1
        low, high = scale * self.low, scale * self.high
        found = _log_ticks(low, high) if self.log else []
        return [tick / scale for tick in found or _linear_ticks(low, high, self.whole)]

    def write(self, value: float) -> str:
        """A value as text."""
        value = 100 * value if self.percent else value
        short = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 8):g}"
        return f"{short}%" if self.percent else short


def _linear_ticks(low: float, high: float, whole: bool) -> list[float]:
    rough = max((high - low) / 5, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-6)
    return [n * step for n in range(first, math.floor(high / step + 1e-6) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 or 3 between where there is room; nothing if they are few."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for between in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**p for p in powers for m in between]
        found = [tick for tick in found if 0.999 * low <= tick <= 1.001 * high]
        if len(found) <= 7:
            break
    return found if len(found) >= 3 else []


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
    """An axis from the first step to the last; a lone one stands in the middle."""
    low, high = (min(steps), max(steps)) if len(steps) else (0, 1)
    room = 1 if low == high else 0
    whole = all(step == int(step) for step in steps)
    return Axis(low=low - room, high=high + room, whole=whole, label=label)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A line, with a band where there are several runs.

    Attributes:
      name: for the legend; none without.
      x: [n].
      y: [n].
      spread: half the height of the band, [n]; empty for none.
      style: which colour and dash.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    style: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A point, with bars where there are several runs.

    Attributes:
      name: for the legend.
      x: where it is.
      y: where it is.
      spread: half the length of the bars along x and y.
      style: which colour and mark.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float] = (0.0, 0.0)
    style: int = 0


def chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], points: Sequence[Point] = ()) -> str:
    """A figure with its title and legend, as HTML."""
    lines = [thinned(line) for line in lines]
    across = lambda value: round(LEFT + (RIGHT - LEFT) * x.place(value), 1)
    up = lambda value: round(BOTTOM - (BOTTOM - TOP) * y.place(value), 1)
    parts = [*_grid(x, y, across, up)]
    parts += [_band(line, across, up) for line in lines if len(line.spread)]
    parts += [_path(line, across, up) for line in lines]
    parts += [_mark(point, across, up, x, y) for point in points]
    named = [(line.name, _sample(line)) for line in lines if line.name]
    named += [(point.name, _shape(11, 7, point.style)) for point in points]
    legend = "".join(
        f'<span class="key"><svg width="22" height="14" aria-hidden="true">{sample}</svg> '
        f"{escape(name)}</span>"
        for name, sample in named
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
        + (f'<p class="keys">{legend}</p>' if legend else "")
        + "</figure>"
    )


def thinned(line: Line) -> Line:
    """A line of at most `MOST` points that looks the same: of each piece the lowest and highest."""
    if len(line.x) <= MOST:
        return line
    y = np.asarray(line.y, float)
    pieces = np.array_split(np.arange(len(y)), MOST // 2)  # what is no number is lowest, and stays
    kept = {int(piece[at(y[piece])]) for piece in pieces for at in (np.argmin, np.argmax)}
    take = lambda values: [values[n] for n in sorted(kept)] if len(values) else values
    return dataclasses.replace(line, x=take(line.x), y=take(line.y), spread=take(line.spread))


Place = Callable[[float], float]


def _grid(x: Axis, y: Axis, across: Place, up: Place) -> list[str]:
    parts = []
    for tick in y.ticks():
        at = up(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" class="end">{y.write(tick)}</text>')
    last = -math.inf
    for tick in x.ticks():
        at, text = across(tick), x.write(tick)
        parts.append(f'<path class="grid" d="M{at} {TOP}V{BOTTOM}"/>')
        if at - last > 7 * len(text) + 8:  # no text over another
            parts.append(f'<text x="{at}" y="{BOTTOM + 16}" class="middle">{text}</text>')
            last = at
    middle = (LEFT + RIGHT) / 2
    label = f'<text x="{middle}" y="{BOTTOM + 34}" class="middle">{escape(x.label)}</text>'
    return [*parts, f'<path class="frame" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>', label]


def _style(style: int) -> str:
    dash = DASHES[style // COLOURS % len(DASHES)]
    return f"stroke:var(--c{style % COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")


def _sample(line: Line) -> str:
    return f'<path class="line" style="{_style(line.style)}" d="M1 7H21"/>'


def _path(line: Line, across: Place, up: Place) -> str:
    """The line, broken where a value is no number; a lone value is a dash."""
    pieces: list[list[str]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            pieces[-1].append(f"{across(x)} {up(y)}")
        elif pieces[-1]:
            pieces.append([])
    d = "".join(f"M{'L'.join(p)}" if len(p) > 1 else f"M{p[0]}m-3 0h6" for p in pieces if p)
    title = f"<title>{escape(line.name)}</title>" if line.name else ""
    return f'<path class="line" style="{_style(line.style)}" d="{d}">{title}</path>'


def _band(line: Line, across: Place, up: Place) -> str:
    rows = zip(line.x, line.y, line.spread, strict=True)
    rows = [(x, y, s) for x, y, s in rows if math.isfinite(y) and math.isfinite(s)]
    above = [f"{across(x)} {up(y + s)}" for x, y, s in rows]
    below = [f"{across(x)} {up(y - s)}" for x, y, s in reversed(rows)]
    colour = f"fill:var(--c{line.style % COLOURS})"
    return f'<path class="band" style="{colour}" d="M{"L".join(above + below)}Z"/>' if rows else ""


def _mark(point: Point, across: Place, up: Place, x: Axis, y: Axis) -> str:
    at = across(point.x), up(point.y)
    wide, tall = point.spread
    bars = (
        f"M{across(point.x - wide)} {at[1]}H{across(point.x + wide)}"
        f"M{at[0]} {up(point.y - tall)}V{up(point.y + tall)}"
    )
    colour = f"stroke:var(--c{point.style % COLOURS})"
    title = f"{point.name}: {x.write(round(point.x, 6))}, {y.write(round(point.y, 6))}"
    return (
        f'<path class="bar" style="{colour}" d="{bars}"/>'
        f"<g><title>{escape(title)}</title>{_shape(*at, point.style)}</g>"
    )


def _shape(x: float, y: float, style: int) -> str:
    """A mark of the colour and, the next time round, of another shape."""
    corners = (
        "",
        "M{l} {t}H{r}V{b}H{l}Z",
        "M{x} {t}L{r} {b}H{l}Z",
        "M{x} {t}L{r} {y}L{x} {b}L{l} {y}Z",
    )[style // COLOURS % 4]
    fill = f'class="mark" style="fill:var(--c{style % COLOURS})"'
    if not corners:
        return f'<circle {fill} cx="{x}" cy="{y}" r="5"/>'
    d = corners.format(x=x, y=y, l=x - 5, r=x + 5, t=y - 5, b=y + 5)
    return f'<path {fill} d="{d}"/>'
