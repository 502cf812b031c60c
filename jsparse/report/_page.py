"""One page about one run: what it reached, how it got there, what is left of the model."""

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._storage.files import write_whole
from jsparse.report._chart import Line, axis_of, chart, density_axis, step_axis
from jsparse.report._document import (
    bytes_of,
    cards,
    count_of,
    document,
    fill,
    folded,
    named,
    note,
    percent,
    rows,
    seconds_of,
    section,
    side_by_side,
)
from jsparse.report._folder import read_folder
from jsparse.report._picture import Axes, Picture, draw_inputs, draw_mask
from jsparse.report._run import FRACTIONS, Folder, Series

MOST_LAYERS, MOST_MASKS = 28, 40


def page(run_folder: str | Path) -> Path:
    """Write one HTML page about a run: page.html in its folder.

    The page needs no network. It shows what it finds of accuracy, density and other numbers over
    time, density by layer, masks, size and operations before and after, measured latency, settings
    and versions, and names what is missing. See `save` for what a folder holds.

    Args:
      run_folder: of the run, at any time of its training.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: no folder, or nothing of a run in it.
      ValueError: a file in it is damaged.
    """
    run = read_folder(run_folder)
    title = run.path.resolve().name
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(describe(run))}</p>',
        note("Not on this page", run.missing),
        cards(_headline(run)),
        section("Over time", side_by_side(_curves(run))),
        section("Density of the layers", side_by_side([*_layer_curve(run), *_layer_table(run)])),
        section("Masks", side_by_side(_masks(run)), _left_out(run)),
        section("Before and after", _forms(run)),
        section("Settings", named(run.settings)),
        section("Versions", _versions(run)),
        "<footer>Made by jsparse.</footer>",
    ]
    path = Path(run_folder) / "page.html"
    write_whole(path, document(title, parts))
    return path


def describe(run: Folder) -> str:
    """How long it trained and with how many runs, on what."""
    seeds = [
        series.values.shape[1] for name in run.names[:1] for series in run.series(name).values()
    ]
    words = [run.end] if run.rows else []
    words += [f"{sum(seeds)} runs"] if sum(seeds) > 1 else []
    words += [str(run.settings[name]) for name in ("dataset", "network") if name in run.settings]
    return " · ".join(words)


def last(series: Series, fraction: bool) -> str:
    """The last value as HTML: mean and sample standard deviation over the seeds."""
    scale, digits = (100, ".2f") if fraction else (1, ".4g")
    mean, unit = f"{scale * series.mean[-1]:{digits}}", "%" if fraction else ""
    if not len(series.spread):
        return mean + unit
    return f"{mean}{unit} <small>± {scale * series.spread[-1]:.2{'f' if fraction else 'g'}}</small>"


def _headline(run: Folder) -> list[tuple[str, str]]:
    found = []
    for name in [n for n in run.names if n in FRACTIONS]:
        for label, series in run.series(name).items():
            found.append((last(series, True), f"{name}, {label}" if label else name))
    total = run.model.get("total", {})
    if total.get("size"):
        found.append((f"{total['kept']:,}", f"weights kept of {total['size']:,}"))
    sums = run.model.get("costs", {}).get("total", {})
    if sums.get("dense_flops"):
        found.append((percent(sums["flops"] / sums["dense_flops"]), "of the dense FLOPs"))
    forms = run.model.get("forms", [])
    if len(forms) > 1:
        best = min(forms, key=lambda form: form["seconds"]["median"])
        ratio = forms[0]["seconds"]["median"] / best["seconds"]["median"]
        if best is not forms[0]:
            found.append(
                (f"{ratio:.2f}×", f"speed, {best['name']} to {forms[0]['name']}, measured")
            )
    return found


def _curves(run: Folder) -> list[str]:
    figures = []
    for name in run.names:
        series = run.series(name)
        lines = [curve(label, one, n) for n, (label, one) in enumerate(series.items())]
        figures.append(over_time(name, lines, run.unit, _seeds(list(series.values()))))
    return figures


def curve(label: str, series: Series, style: int) -> Line:
    """The mean of a series, with a band of one deviation."""
    return Line(
        name=label,
        x=series.steps.tolist(),
        y=series.mean.tolist(),
        spread=series.spread.tolist(),
        style=style,
    )


def over_time(name: str, lines: list[Line], unit: str, words: str) -> str:
    """A chart of one number over the steps of the log."""
    values = np.concatenate(
        [np.asarray(e) for line in lines for e in _edges(line)] or [np.zeros(0)]
    )
    vertical = (
        density_axis(values) if name == "density" else axis_of(values, percent=name in FRACTIONS)
    )
    steps = [step for line in lines for step in line.x]
    title = f"{name[:1].upper()}{name[1:].replace('_', ' ')}{words}"
    return chart(title, step_axis(steps, unit), vertical, lines)


def _edges(line: Line) -> list[np.ndarray]:
    y = np.asarray(line.y)
    return [y - np.asarray(line.spread), y + np.asarray(line.spread)] if len(line.spread) else [y]


def _seeds(series: list[Series]) -> str:
    most = max(one.values.shape[1] for one in series)
    return f": mean ± 1 deviation of {most} runs" if most > 1 else ""


def _layer_curve(run: Folder) -> list[str]:
    steps, layers, fine = run.layers()
    if not layers:
        return []
    shown = list(layers.items())[:MOST_LAYERS]
    lines = [
        Line(name=name, x=steps.tolist(), y=values.tolist(), style=n)
        for n, (name, values) in enumerate(shown)
    ]
    every = np.concatenate([values for _, values in shown])
    many = sum(series.values.shape[1] for series in run.series("density").values()) > 1
    kind = ", the first run" if fine and many else ", mean of the runs" if many else ""
    more = f", the first {len(shown)} of {len(layers)}" if len(shown) < len(layers) else ""
    return [
        chart(
            f"Density of each layer{kind}{more}",
            step_axis(steps.tolist(), "step" if fine else run.unit),
            density_axis(every),
            lines,
        )
    ]


def _layer_table(run: Folder) -> list[str]:
    layers = run.model.get("layers", {})
    if not layers:
        return []
    body = [
        (
            f"{escape(path)}<small>{_times(row['shape'])}, {escape(row['rule'])}</small>",
            f"{percent(row['density'])}{fill(row['density'])}",
            f"{row['kept']:,}<small>of {row['size']:,}</small>",
        )
        for path, row in layers.items()
    ]
    total = run.model["total"]
    whole = (
        f"all<small>and {run.model['dense']:,} parameters without a rule</small>",
        f"{percent(total['density'])}{fill(total['density'])}",
        f"{total['kept']:,}<small>of {total['size']:,}</small>",
    )
    head = ("layer, at the end", "density", "kept")
    parts = [rows(head, [*body[:MOST_LAYERS], whole], total=True)]
    if more := body[MOST_LAYERS:]:
        parts.append(folded(f"and {len(more)} more layers", rows(head, more)))
    return [f"<div>{''.join(parts)}</div>"]


def _times(shape: Sequence[int]) -> str:
    """A shape as text, 3×3×16."""
    return "×".join(map(str, shape))


def _masks(run: Folder) -> list[str]:
    figures = []
    image = _image(run)
    for n, (path, mask) in enumerate(list(run.masks.items())[:MOST_MASKS]):
        axes = Axes(**run.model["layers"][path]["axes"])
        inputs = math.prod(mask.shape[axis] for axis in axes.inputs)
        if n == 0 and image and inputs == math.prod(image):
            figures.append(_figure(f"{path}: what it looks at", draw_inputs(mask, axes, image)))
        figures.append(_figure(path, draw_mask(mask, axes)))
    return figures


def _left_out(run: Folder) -> str:
    more = len(run.masks) - MOST_MASKS
    return f'<p class="soft">and {more} more masks</p>' if more > 0 else ""


def _image(run: Folder) -> list[int]:
    """Shape of an input without its batch, if it is an image."""
    shape = next((one["shape"] for one in run.model.get("inputs", ())), [])
    return shape[1:] if len(shape) in (3, 4) else []


def _figure(title: str, picture: Picture) -> str:
    width, height = picture.size
    ratio = min(max(width / height, 0.3), 8.0)  # a picture a pixel high would not be seen
    style = f"aspect-ratio:{ratio:.3f};max-width:{420 * ratio:.0f}px"
    return (
        f"<figure><figcaption>{escape(title)}<small>{escape(picture.words)}</small></figcaption>"
        f'<img class="mask" style="{style}" src="{picture.uri}" '
        f'alt="{escape(title)}: {escape(picture.words)}"></figure>'
    )


def _forms(run: Folder) -> str:
    sums, forms = run.model.get("costs", {}).get("total"), run.model.get("forms", [])
    parts = []
    if sums:
        shown: list[tuple[str, str, Callable[[float], str]]] = [
            ("multiplications and additions (FLOPs) of a call", "flops", count_of),
            ("size, masked weights as a bitmap", "bytes", bytes_of),
        ]
        body = [
            (
                what,
                write(sums[f"dense_{name}"]),
                write(sums[name]),
                percent(sums[name] / sums[f"dense_{name}"] if sums[f"dense_{name}"] else 1.0),
            )
            for what, name, write in shown
        ]
        parts.append(rows(("counted", "dense", "sparse", "left"), body))
    if forms:
        first = forms[0]["seconds"]["median"]
        body = [_form(form, first) for form in forms]
        head = ("plain model", "parameters", "FLOPs", "latency", "speed")
        parts.append(f"<p>Measured{escape(_conditions(run, forms))}:</p>")
        parts.append(rows(head, body))
    return "\n".join(parts)


def _form(form: dict[str, Any], first: float) -> tuple[str, ...]:
    seconds = form["seconds"]
    return (
        escape(form["name"]),
        f"{form['parameters']:,}<small>{bytes_of(form['bytes'])}</small>",
        count_of(form["flops"]),
        f"{seconds_of(seconds['median'])}<small>{seconds_of(seconds['low'])} to "
        f"{seconds_of(seconds['high'])}</small>",
        f"{first / seconds['median']:.2f}×",
    )


def _conditions(run: Folder, forms: list[dict[str, Any]]) -> str:
    shapes = ", ".join(_times(one["shape"]) for one in run.model["inputs"])
    device, rounds = run.model["versions"]["device"], forms[0]["seconds"]["rounds"]
    return f" on {device}, inputs {shapes}, median and quartiles of {rounds} calls"


def _versions(run: Folder) -> str:
    if not run.versions:
        return ""
    words = "<p>Begun with other versions; these are the last:</p>" if run.versions[1:] else ""
    return words + named(run.versions[-1])
