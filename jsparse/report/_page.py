"""One page about one run: what it reached, how it got there, what is left of the model."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jsparse.report._document import Cell, Chart, Picture, Section, Table, named, write_page
from jsparse.report._figures import Line, axis_of, chart, density_axis, step_axis
from jsparse.report._folder import read_folder
from jsparse.report._picture import Axes, draw_inputs, draw_mask
from jsparse.report._run import FRACTIONS, Folder, Series
from jsparse.report._units import bytes_of, count_of, percent, seconds_of, times

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
      ImportError: the extra `report` is not installed.
      ValueError: a file in it is damaged.
    """
    run = read_folder(run_folder)
    sections = [
        Section("Over time", _curves(run)),
        Section("Density of the layers", [*_layer_curve(run), *_layer_table(run)]),
        Section("Masks", *_masks(run)),
        Section("Before and after", tables=[*_counted(run), *_measured(run)]),
        Section("Settings", tables=named(run.settings)),
        Section("Versions", tables=_versions(run)),
    ]
    path, title = Path(run_folder) / "page.html", run.path.resolve().name
    write_page(
        path, title, sections, lead=_described(run), missing=run.missing, cards=_headline(run)
    )
    return path


def last(series: Series, fraction: bool) -> Cell:
    """The last value: mean and sample standard deviation over the seeds."""
    scale, digits, unit = (100, ".2f", "%") if fraction else (1, ".4g", "")
    mean = f"{scale * series.mean[-1]:{digits}}{unit}"
    if not len(series.spread):
        return Cell(mean)
    return Cell(mean, small=f"± {scale * series.spread[-1]:.2{'f' if fraction else 'g'}}")


def curve(label: str, series: Series, style: int) -> Line:
    """The mean of a series, with a band of one deviation."""
    steps, mean, spread = (x.tolist() for x in (series.steps, series.mean, series.spread))
    return Line(name=label, x=steps, y=mean, spread=spread, style=style)


def over_time(name: str, lines: Sequence[Line], unit: str, words: str) -> Chart:
    """A chart of one number over the steps of the log."""
    values = np.concatenate([edge for line in lines for edge in _edges(line)] or [np.zeros(0)])
    vertical = (
        density_axis(values) if name == "density" else axis_of(values, percent=name in FRACTIONS)
    )
    steps = [step for line in lines for step in line.x]
    title = f"{name[:1].upper()}{name[1:].replace('_', ' ')}{words}"
    return chart(title, step_axis(steps, unit), vertical, lines)


def _edges(line: Line) -> list[np.ndarray]:
    y, spread = np.asarray(line.y, float), np.asarray(line.spread, float)
    return [y - spread, y + spread] if len(spread) else [y]


def _described(run: Folder) -> str:
    """How long it trained and with how many runs, on what."""
    seeds = [one.values.shape[1] for name in run.names[:1] for one in run.series(name).values()]
    words = [run.end] if run.rows else []
    words += [f"{sum(seeds)} runs"] if sum(seeds) > 1 else []
    words += [str(run.settings[name]) for name in ("dataset", "network") if name in run.settings]
    return " · ".join(words)


def _headline(run: Folder) -> list[tuple[Cell, str]]:
    found = []
    for name in [n for n in run.names if n in FRACTIONS]:
        for label, series in run.series(name).items():
            found.append((last(series, True), f"{name}, {label}" if label else name))
    total, sums = run.model.get("total", {}), run.model.get("costs", {}).get("total", {})
    if total.get("size"):
        found.append((Cell(f"{total['kept']:,}"), f"weights kept of {total['size']:,}"))
    if sums.get("dense_flops"):
        found.append((Cell(percent(sums["flops"] / sums["dense_flops"])), "of the dense FLOPs"))
    forms = run.model.get("forms", [])
    best = min(forms, key=lambda form: form["seconds"]["median"], default=None)
    if best and best is not forms[0]:
        ratio = forms[0]["seconds"]["median"] / best["seconds"]["median"]
        words = f"speed, {best['name']} to {forms[0]['name']}, measured"
        found.append((Cell(f"{ratio:.2f}×"), words))
    return found


def _curves(run: Folder) -> list[Chart]:
    figures = []
    for name in run.names:
        series = run.series(name)
        lines = [curve(label, one, n) for n, (label, one) in enumerate(series.items())]
        most = max(one.values.shape[1] for one in series.values())
        words = f": mean ± 1 deviation of {most} runs" if most > 1 else ""
        figures.append(over_time(name, lines, run.unit, words))
    return figures


def _layer_curve(run: Folder) -> list[Chart]:
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
    across = step_axis(steps.tolist(), "step" if fine else run.unit)
    return [chart(f"Density of each layer{kind}{more}", across, density_axis(every), lines)]


def _layer_table(run: Folder) -> list[Table]:
    layers = run.model.get("layers", {})
    if not layers:
        return []
    total = run.model["total"]
    row = lambda name, small, one: (
        Cell(name, small),
        Cell(percent(one["density"]), bar=one["density"]),
        Cell(f"{one['kept']:,}", f"of {one['size']:,}"),
    )
    body = [row(path, f"{times(o['shape'])}, {o['rule']}", o) for path, o in layers.items()]
    whole = row("all", f"and {run.model['dense']:,} parameters without a rule", total)
    head = ("layer, at the end", "density", "kept")
    tables = [Table(head, [*body[:MOST_LAYERS], whole], total=True)]
    if more := body[MOST_LAYERS:]:
        tables.append(Table(head, more, title=f"and {len(more)} more layers", folded=True))
    return tables


def _masks(run: Folder) -> tuple[list[Picture], list[Table]]:
    figures = []
    image = _image(run)
    for n, (path, mask) in enumerate(list(run.masks.items())[:MOST_MASKS]):
        axes = Axes(**run.model["layers"][path]["axes"])
        inputs = math.prod(mask.shape[axis] for axis in axes.inputs)
        if n == 0 and image and inputs == math.prod(image):
            figures.append(draw_inputs(f"{path}: what it reads", mask, axes, image))
        figures.append(draw_mask(path, mask, axes))
    more = [(path,) for path in list(run.masks)[MOST_MASKS:]]
    title = f"and {len(more)} more masks"
    return figures, [Table(("mask",), more, text=True, title=title, folded=True)] if more else []


def _image(run: Folder) -> list[int]:
    """Shape of an input without its batch, if it is an image."""
    shape = next((one["shape"] for one in run.model.get("inputs", ())), [])
    return shape[1:] if len(shape) in (3, 4) else []


def _counted(run: Folder) -> list[Table]:
    sums = run.model.get("costs", {}).get("total")
    if not sums:
        return []
    shown = [
        ("multiplications and additions (FLOPs) of a call", "flops", count_of),
        ("size, masked weights as a bitmap", "bytes", bytes_of),
    ]
    body = []
    for what, name, write in shown:
        dense, sparse = sums[f"dense_{name}"], sums[name]
        body.append((what, write(dense), write(sparse), percent(sparse / dense if dense else 1.0)))
    return [Table(("counted", "dense", "sparse", "left"), body)]


def _measured(run: Folder) -> list[Table]:
    forms = run.model.get("forms", [])
    if not forms:
        return []
    first, shapes = forms[0]["seconds"], [times(one["shape"]) for one in run.model["inputs"]]
    body = []
    for form in forms:
        seconds = form["seconds"]
        spread = f"{seconds_of(seconds['low'])} to {seconds_of(seconds['high'])}"
        body.append(
            (
                form["name"],
                Cell(f"{form['parameters']:,}", bytes_of(form["bytes"])),
                count_of(form["flops"]),
                Cell(seconds_of(seconds["median"]), spread),
                f"{first['median'] / seconds['median']:.2f}×",
            )
        )
    title = (
        f"Measured on {run.model['versions']['device']}, inputs {', '.join(shapes)}, median and "
        f"quartiles of {first['rounds']} calls:"
    )
    head = ("plain model", "parameters", "FLOPs", "latency", "speed")
    return [Table(head, body, title=title)]


def _versions(run: Folder) -> list[Table]:
    if not run.versions:
        return []
    several = "The run began with other versions; these are the last:" if run.versions[1:] else ""
    return named(run.versions[-1], several)
