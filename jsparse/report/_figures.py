"""Charts and pictures of masks for the pages, drawn by matplotlib and Pillow.

A chart is SVG with the colors of the page's style sheet, so it follows dark mode and print. It is
360 units wide: about one pixel each on a phone.
"""

import base64
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from jsparse.report._units import percent

COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8508f", "#222222", "#b97f00", "#2b9fd9")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKS, SIGNS = "os^D", "●■▲◆"
LIGHT = ("#010101", "#020202")  # stand for the colors of text and grid of the style sheet
STYLE = {
    "axes.edgecolor": LIGHT[0],
    "axes.labelcolor": LIGHT[0],
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "grid.color": LIGHT[1],
    "lines.dash_capstyle": "round",
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "jsparse",
    "text.color": LIGHT[0],
    "xtick.bottom": False,
    "xtick.color": LIGHT[0],
    "ytick.color": LIGHT[0],
    "ytick.left": False,
}
LOG_BELOW = 0.05  # a density below it makes the axis of densities logarithmic
LARGEST = 1e300  # values beyond leave no room for an axis around them
MOST = 1200  # points drawn per line, about four for each unit of the width
WIDEST, TALLEST = 720, 480  # of a picture, in pixels
INK, GAP = (43, 124, 208), 255  # seen on white and on black; between the windows of a convolution


@dataclasses.dataclass(frozen=True)
class Line:
    """A line, a point with error bars, or a cloud of points, of a chart."""

    name: str  # for the legend; "" for none
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    spread: np.ndarray | None = None  # half the band, [n]; of a point half its bars, x and y, [2]
    style: int = 0  # which color and dash or mark
    point: bool = False  # or n of them without bars

    @property
    def key(self) -> dict[str, Any]:
        """Its entry in the legend: name, color, and dash or sign."""
        turn, color = divmod(self.style, len(COLORS))
        sign = SIGNS[turn % len(SIGNS)] if self.point else ""
        dash = DASHES[turn % len(DASHES)]
        return {"name": self.name, "color": color, "dash": dash, "sign": sign}


Figure = dict[str, Any]
"""What the template shows: a title with svg and legend, or with uri, size and words."""


def chart(title: str, lines: Sequence[Line], label: str, x: str = "step", y: str = "") -> Figure:
    """Draw one line or more; what is on an axis, such as "step" or "density", sets its ticks."""
    import matplotlib.figure
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        figure = matplotlib.figure.Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(label)
        axes.grid(clip_on=False)
        _scale(axes.xaxis, x, np.concatenate([line.x for line in lines]))
        _scale(axes.yaxis, y, np.concatenate([edge for line in lines for edge in _edges(line)]))
        for n, line in enumerate(lines):
            _draw(axes, thinned(line), f"line{n}")
        content = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    keys = [line.key for line in lines if line.name]
    return {"title": title, "svg": _svg(content.getvalue(), title, lines), "legend": keys}


def thinned(line: Line) -> Line:
    """A line of at most `MOST` points that looks the same: of each piece the lowest and highest."""
    if len(line.x) <= MOST:
        return line
    pieces = np.array_split(np.arange(len(line.y)), MOST // 2)  # NaN counts as lowest, and stays
    kept = sorted({int(p[at(line.y[p])]) for p in pieces for at in (np.argmin, np.argmax)})
    spread = None if line.spread is None else line.spread[kept]
    return dataclasses.replace(line, x=line.x[kept], y=line.y[kept], spread=spread)


def _edges(line: Line) -> list[np.ndarray]:
    if line.spread is None:
        return [line.y]
    half = line.spread[1] if line.point else line.spread
    return [line.y - half, line.y + half]


def _draw(axes: Any, line: Line, name: str) -> None:
    """A point with bars, or a line with a band: both broken where a value is not a number."""
    turn, n = divmod(line.style, len(COLORS))
    free = {"color": COLORS[n], "clip_on": False, "zorder": 3}  # not cut off at the plot's edge
    inside = [
        lambda values, ends=ends: np.clip(values, *ends)
        for ends in (axes.get_xlim(), axes.get_ylim())
    ]
    y = inside[1](np.where(np.abs(line.y) < LARGEST, line.y, np.nan))
    if line.point:
        if line.spread is not None:
            across, up = (np.array([-bar, bar]) for bar in line.spread)
            axes.plot(inside[0](line.x + across), [*y, *y], linewidth=1.4, **free)
            axes.plot([*line.x, *line.x], inside[1](line.y + up), linewidth=1.4, **free)
        mark, size = MARKS[turn % len(MARKS)], 8 if len(y) == 1 else 3
        axes.plot(inside[0](line.x), y, mark, markersize=size, gid=name, **free)
        return
    if line.spread is not None:
        half = np.where(line.spread < LARGEST, line.spread, np.nan)
        low, high = inside[1](y - half), inside[1](y + half)
        axes.fill_between(line.x, low, high, alpha=0.2, linewidth=0, **free)
    dash = DASHES[turn % len(DASHES)]
    pattern = (0, tuple(float(d) / 1.8 for d in dash.split())) if dash else "-"
    axes.plot(line.x, y, linestyle=pattern, gid=name, **free)
    seen = np.pad(np.isfinite(y), 1)
    alone = seen[1:-1] & ~seen[:-2] & ~seen[2:]  # a line of one point would not be seen
    axes.plot(line.x[alone], y[alone], "_", markersize=7, **free)


def _scale(axis: Any, kind: str, values: np.ndarray) -> None:
    """Limits and ticks of one axis."""
    from matplotlib import ticker

    values = values[np.abs(values) < LARGEST]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    least = min(values[values > 0], default=1.0)
    scale = "log" if kind == "density" and least < LOG_BELOW else "linear"
    whole = kind == "step" and bool((values == values.round()).all())
    locator: ticker.Locator = ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole)
    if kind == "density":
        low, high = least / 1.3 if scale == "log" else 0.0, 1.0
    elif kind == "step":
        low, high = (low - 1, high + 1) if low == high else (low, high)
    else:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        low, high = low - room if low < 0 or low > room else 0.0, high + room
        high = min(high, 1.0) if kind == "accuracy" else high
    if scale == "log":
        span = -math.log10(low)
        locator = ticker.LogLocator(
            subs=(1, 2, 5) if span < 2.2 else (1, 3) if span < 3.2 else (1,)
        )
    name = axis.axis_name
    axis.axes.set(**{f"{name}scale": scale, f"{name}lim": (low, high)})
    axis.set_major_locator(locator)
    axis.set_minor_locator(ticker.NullLocator())
    formatter = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    formatter.format_ticks = lambda values: _tick_texts(values, kind in ("accuracy", "density"))
    axis.set_major_formatter(formatter)


def _tick_texts(values: Sequence[float], in_percent: bool) -> list[str]:
    """Ticks in one unit, with as few digits as give each its own value."""
    largest = max(map(abs, values), default=0.0)
    units = (("M", 1e6), ("k", 1e3))
    unit, size = next((u for u in units if 10 * u[1] <= largest < 1e9), ("", 1.0))
    unit, size = ("%", 0.01) if in_percent else (unit, size)
    gap = min(np.diff(np.unique(values)), default=largest)
    texts: list[str] = []
    for digits in range(3, 16):
        texts = [_rounded(value / size, digits) for value in values]
        off = [abs(float(text) * size - v) for text, v in zip(texts, values, strict=True)]
        if max(off, default=0.0) <= 1e-3 * gap:
            break
    return [text if text == "0" and not in_percent else text + unit for text in texts]


def _rounded(value: float, digits: int) -> str:
    """A number with this many digits; 1000, not 1e+03."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def _svg(text: str, title: str, lines: Sequence[Line]) -> str:
    """What matplotlib wrote, ready for the page: its colors, and names that show on hovering."""
    text = text[text.index(">", text.index("<svg")) + 1 :]
    short = lambda found: re.sub(r"(\.\d\d)\d+|\s*\n", lambda m: m[1] or "", found[0])
    text = re.sub(r' d="[^"]*"', short, text)
    for n, color in enumerate(COLORS):
        text = text.replace(color, f"var(--c{n})")
    text = text.replace(LIGHT[0], "currentColor").replace(LIGHT[1], "var(--line)")
    for n, line in enumerate(lines):  # texts of the run come last, so that none is changed
        ends = line.point and line.spread is not None  # of a run: accuracy and density
        place = f": {percent(line.x[0])}, {percent(line.y[0])}" if ends else ""
        words = f"<title>{escape(line.name + place)}</title>" if line.name else ""
        text = text.replace(f'<g id="line{n}">', f"<g>{words}")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # they would be on the page several times
    return f'<svg viewBox="0 0 360 230.4" role="img" aria-label="{escape(title)}">{text}'


def mask_picture(title: str, mask: np.ndarray, axes: dict[str, Any]) -> Figure:
    """A mask, bool [...], with a row for each output and a column for each input.

    Of its axes, the first "stack" count layers, "inputs" are summed over, "outputs" stay, and the
    others are the window of a convolution.
    """
    whole, window = _by_output(mask, axes)
    rows, columns, height, width = whole.shape
    counts = [f"{n:,} {what}{'s' * (n != 1)}" for n, what in ((rows, "output"), (columns, "input"))]
    if not window:
        words = f"{counts[0]} (rows), {counts[1]} (columns)"
        return _picture(title, whole[:, :, 0, 0], words)
    side = 1  # few inputs: the outputs are laid out in several columns
    while rows * height > side * side * columns * width and side < rows:
        side += 1
    beside = f", {side} side by side" if side > 1 else ""
    words = f"{counts[0]} (rows{beside}), {counts[1]} (columns)"
    words += f", a {'×'.join(map(str, window))} window each"
    blocks = -(-rows // side)
    gap = blocks * (height + 1) - 1 <= TALLEST and side * columns * (width + 1) - 1 <= WIDEST
    padded = np.full((blocks * side, columns, height + gap, width + gap), np.nan)
    padded[:rows, :, :height, :width] = whole
    sheet = padded.reshape(blocks, side * columns, height + gap, width + gap)
    flat = sheet.transpose(0, 2, 1, 3).reshape(blocks * (height + gap), -1)
    flat = flat[:-1, :-1] if gap else np.nan_to_num(flat)
    return _picture(title, flat, words)


def input_picture(title: str, mask: np.ndarray, axes: dict[str, Any], image: list[int]) -> Figure:
    """How many weights of a layer that reads a whole image read each pixel; the darkest has most.

    `image` is its height, width and, if there are any, channels.
    """
    whole, _ = _by_output(mask, axes)
    counts = whole.sum(axis=(0, 2, 3)).reshape(*image[:2], -1).sum(axis=-1)
    words = (
        f"weights kept for each of {image[0]}×{image[1]} pixels: {counts.min():.0f} to "
        f"{counts.max():.0f} of {whole.size // math.prod(image[:2]):,}"
    )
    return _picture(title, counts / max(1, counts.max()), words)


def _by_output(mask: np.ndarray, axes: dict[str, Any]) -> tuple[np.ndarray, tuple[int, ...]]:
    """[outputs, inputs, window height, window width], and the window's shape."""
    first = (*range(axes["stack"]), *axes["outputs"])
    ins = tuple(axes["inputs"])
    rest = tuple(a for a in range(mask.ndim) if a not in first + ins)
    window = tuple(mask.shape[a] for a in rest)
    size = lambda of: math.prod(mask.shape[a] for a in of)
    shape = (size(first), size(ins), math.prod(window[:-1]), math.prod(window[-1:]))
    return mask.transpose(first + ins + rest).reshape(shape).astype(np.float32), window


def _picture(title: str, values: np.ndarray, words: str) -> Figure:
    """A PNG of fractions [height, width], NaN for a gap: one color, as opaque as the fraction."""
    from PIL import Image

    size = (min(values.shape[1], WIDEST), min(values.shape[0], TALLEST))
    if size != values.shape[::-1]:  # means over cells
        image = Image.fromarray(values.astype(np.float32))
        values = np.asarray(image.resize(size, Image.Resampling.BOX))
    levels = np.where(np.isnan(values), GAP, np.round(254 * np.nan_to_num(values)))
    image = Image.fromarray(levels.astype(np.uint8))
    image.putpalette(bytes(INK) * GAP + bytes((128, 128, 128)))
    opacity = bytes(round(255 * level / 254) for level in range(GAP)) + bytes((70,))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True, transparency=opacity)
    return {"title": title, "uri": data_uri(content.getvalue()), "size": image.size, "words": words}


def data_uri(png: bytes) -> str:
    """A PNG file as a URI that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
