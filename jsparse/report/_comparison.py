"""Several runs on one page, with the frontier of accuracy and density."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jsparse.report._document import Cell, Chart, Section, Table, write_page
from jsparse.report._figures import Line, Point, axis_of, chart, density_axis
from jsparse.report._folder import read_folder
from jsparse.report._page import curve, last, over_time
from jsparse.report._run import Folder, Series
from jsparse.report._units import count_of, percent, seconds_of, written


class Entrant(NamedTuple):
    """The runs of a folder that have all but the seed in common.

    Attributes:
      name: of the folder, and of these runs where it has several kinds.
      run: the folder.
      label: of these runs in it.
      style: its colour and mark.
    """

    name: str
    run: Folder
    label: str
    style: int

    def series(self, name: str) -> Series | None:
        """A number of these runs over time; None where the log has none."""
        found = self.run.series(name)
        return found.get(self.label, found.get(""))


def compare(run_folders: Sequence[str | Path], out: str | Path = "compare.html") -> Path:
    """Write one HTML page about several runs, with the frontier of accuracy and density.

    The frontier joins the runs that no other one beats in both.

    Args:
      run_folders: one or more; see `save` for what they hold.
      out: the file.

    Returns:
      Its path.

    Raises:
      FileNotFoundError: a folder is not there, or there is nothing of a run in it.
      IsADirectoryError: `out` is a folder.
      ImportError: the extra `report` is not installed.
      TypeError: one folder in place of a list.
      ValueError: no folder, the same one twice, or a damaged file.
    """
    if isinstance(run_folders, str | Path):
        raise TypeError(f"got {run_folders!r}, pass a list of folders: [{run_folders!r}]")
    if Path(out).is_dir():
        raise IsADirectoryError(f"{out} is a folder; pass a file, such as {Path(out, 'out.html')}")
    paths = [Path(folder).resolve() for folder in run_folders]
    if not paths or len(set(paths)) < len(paths):
        raise ValueError(f"got folders {[str(p) for p in paths]}; pass one or more, each once")
    runs = [read_folder(path) for path in paths]
    entrants = _entrants(runs, _short(paths))
    title = f"{len(runs)} runs compared" if len(runs) > 1 else f"A run: {paths[0].name}"
    names = _short(paths)
    sections = [
        Section("Accuracy and density", [*_frontier(entrants), _table(entrants)]),
        Section("Over time", _curves(entrants)),
        Section("Settings that differ", tables=_differences(names, [r.settings for r in runs])),
        Section("Versions that differ", tables=_differences(names, [_newest(r) for r in runs])),
    ]
    write_page(Path(out), title, sections, missing=_missing(runs, names))
    return Path(out)


def _short(paths: Sequence[Path]) -> list[str]:
    """Names of the folders, with as much of what is above as tells them apart."""
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    common = common.parent if common in paths else common
    return [str(path.relative_to(common)) for path in paths]


def _entrants(runs: Sequence[Folder], names: Sequence[str]) -> list[Entrant]:
    found: list[tuple[str, Folder, str]] = []
    for run, name in zip(runs, names, strict=True):
        labels = dict.fromkeys(label for number in run.names for label in run.series(number))
        kinds = [label for label in labels if label] or [""]
        found += [(f"{name}, {label}" if label else name, run, label) for label in kinds]
    return [Entrant(*one, style) for style, one in enumerate(found)]


def _missing(runs: Sequence[Folder], names: Sequence[str]) -> list[str]:
    found = []
    for run, name in zip(runs, names, strict=True):
        lost = [what for what in ("accuracy", "density") if what not in run.names]
        if lost:
            found.append(f"{name}: its log has no {' and no '.join(lost)}")
    return found


def _points(entrants: Sequence[Entrant]) -> list[Point]:
    points = []
    for one in entrants:
        accuracy, density = one.series("accuracy"), one.series("density")
        if (
            accuracy
            and density
            and np.isfinite(accuracy.mean[-1])
            and np.isfinite(density.mean[-1])
        ):
            ends = (density, accuracy)
            spread = [s.spread[-1] if len(s.spread) else 0.0 for s in ends]
            x, y = (float(s.mean[-1]) for s in ends)
            bars = (float(spread[0]), float(spread[1]))
            points.append(Point(name=one.name, x=x, y=y, spread=bars, style=one.style))
    return points


def best(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats: none is sparser or more accurate, and as good in the other."""

    def beaten(one: Point) -> bool:
        return any(p.x <= one.x and p.y >= one.y and (p.x, p.y) != (one.x, one.y) for p in points)

    return sorted((p for p in points if not beaten(p)), key=lambda p: p.x)


def _frontier(entrants: Sequence[Entrant]) -> list[Chart]:
    points = _points(entrants)
    if not points:
        return []
    front = best(points)
    line = Line(name="frontier", x=[p.x for p in front], y=[p.y for p in front], style=11)
    heights = [y for p in points for y in (p.y - p.spread[1], p.y + p.spread[1])]
    horizontal = density_axis([p.x for p in points], "density at the end")
    lines = [line] if len(front) > 1 else []
    vertical = axis_of(heights, percent=True)
    return [chart("Accuracy at the end, by density", horizontal, vertical, lines, points)]


def _table(entrants: Sequence[Entrant]) -> Table:
    front = {point.name for point in best(_points(entrants))}
    body = []
    for one in entrants:
        accuracy, density = one.series("accuracy"), one.series("density")
        marks = [one.run.end, "on the frontier" if one.name in front else ""]
        body.append(
            (
                Cell(one.name, "\n".join(marks)),
                last(accuracy, True) if accuracy else "",
                last(density, True) if density else "",
                _flops(one.run.model),
                _latency(one.run.model),
            )
        )
    head = ("run", "accuracy", "density", "FLOPs", "fastest")
    known = [n for n in range(len(head)) if any(row[n] for row in body)]
    return Table([head[n] for n in known], [[row[n] for n in known] for row in body])


def _flops(model: dict[str, Any]) -> Cell | str:
    sums = model.get("costs", {}).get("total", {})
    if not sums.get("dense_flops"):
        return ""
    return Cell(count_of(sums["flops"]), percent(sums["flops"] / sums["dense_flops"]))


def _latency(model: dict[str, Any]) -> Cell | str:
    forms = model.get("forms", [])
    if not forms:
        return ""
    fastest = min(forms, key=lambda form: form["seconds"]["median"])
    return Cell(seconds_of(fastest["seconds"]["median"]), fastest["name"])


def _curves(entrants: Sequence[Entrant]) -> list[Chart]:
    figures = []
    names = dict.fromkeys(name for one in entrants for name in one.run.names)
    for name in names:
        found = [(one, one.series(name)) for one in entrants]
        lines = [curve(one.name, series, one.style) for one, series in found if series]
        units = {one.run.unit for one, series in found if series}
        words = ": mean ± 1 deviation" if any(len(line.spread) for line in lines) else ""
        figures.append(over_time(name, lines, " or ".join(sorted(units)), words))
    return figures


def _newest(run: Folder) -> dict[str, Any]:
    return run.versions[-1] if run.versions else {}


def _differences(names: Sequence[str], values: Sequence[dict[str, Any]]) -> list[Table]:
    keys = dict.fromkeys(key for one in values for key in one)
    body = [
        (key, *(written(one.get(key, "–")) for one in values))
        for key in keys
        if any(one.get(key, "–") != values[0].get(key, "–") for one in values)
    ]
    return [Table(("name", *names), body, text=True)] if body else []
