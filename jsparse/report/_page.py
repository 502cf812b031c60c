"""Pages of runs: one run (`page`), or several and the frontier of accuracy and density (`compare`).

Both are written by the template _page.html.j2, from what `_run` reads and `_figures` draws.
"""

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jsparse._checks import require
from jsparse._storage.files import write_whole
from jsparse._values import check_path, shown
from jsparse.report import _units
from jsparse.report._figures import Figure, Line, chart, data_uri, input_picture, mask_picture
from jsparse.report._folder import read_run
from jsparse.report._run import FRACTIONS, Run, Series

MOST_LAYERS, MOST_MASKS = 28, 40
ABSENT = "–"


def page(run_folder: str | Path) -> Path:
    """Write one HTML page about a run: page.html in its folder.

    The page needs no network. It shows what it finds: accuracy, density and other numbers over
    time, density by layer, masks, size and operations before and after, measured latency, tables
    and pictures of the run, settings and versions. It names what is missing. See `save` for what a
    folder holds.

    Args:
      run_folder: of the run, at any time of its training.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: no folder, or nothing of a run in it.
      ValueError: a file in it is damaged.
      ImportError: matplotlib or Jinja2 is not installed.
    """
    require("jinja2 matplotlib", "report", "a page")
    check_path(run_folder=run_folder)
    run = read_run(run_folder)
    groups = _seed_groups({"": run})
    seeds = sum(one.values.shape[1] for n in run.names[:1] for one in run.series(n).values())
    about = [run.end, f"{seeds} runs" if seeds > 1 else ""]
    about += [str(run.settings.get(name, "")) for name in ("dataset", "network")]
    content = {
        "title": run.path.resolve().name,
        "about": " · ".join(word for word in about if word),
        "missing": [*run.missing, *run.diverged()],
        "run": run,
        "reached": [
            (group.last(name), f"{name}, {group.label}" if group.label else name)
            for name in FRACTIONS
            if name in run.names
            for group in groups
        ],
        "curves": [_curves(name, groups) for name in run.names],
        "layer_curves": _layer_curves(run),
        "pictures": _pictures(run),
        "drawn": [
            (name.replace("_", " "), data_uri(content)) for name, content in run.pictures.items()
        ],
        "settings": (("name", "value"), _named(run.settings)),
        "versions": (("name", "value"), _named(_newest(run))),
    }
    return write_page(Path(run_folder) / "page.html", content)


def compare(run_folders: Sequence[str | Path], out: str | Path = "compare.html") -> Path:
    """Write one HTML page about several runs, with the frontier of accuracy and density.

    The frontier joins the runs that no other beats in both.

    Args:
      run_folders: one or more; see `save` for what they hold.
      out: the file.

    Returns:
      Its path.

    Raises:
      FileNotFoundError: no folder, or nothing of a run in it.
      IsADirectoryError: `out` is a folder.
      ImportError: matplotlib or Jinja2 is not installed.
      TypeError: one folder instead of a list.
      ValueError: no folder, one given twice, or one with a damaged file.
    """
    require("jinja2 matplotlib", "report", "a page")
    if isinstance(run_folders, str | Path) or not isinstance(run_folders, Sequence):
        raise TypeError(
            f"run_folders must be a list of folders, such as ['runs/a']; got {shown(run_folders)}"
        )
    for folder in run_folders:
        check_path(run_folders=folder)
    check_html_path(out, "out.html")
    paths = [Path(folder).resolve() for folder in run_folders]
    if not paths or len(set(paths)) < len(paths):
        given = [str(path) for path in paths]
        raise ValueError(f"run_folders: got the folders {given}; pass one or more, each once")
    runs = dict(zip(_short(paths), map(read_run, paths), strict=True))
    groups = _seed_groups(runs)
    points = [point for group in groups if (point := _end(group))]
    front = [point.name for point in best(points)]
    names = dict.fromkeys(name for run in runs.values() for name in run.names)
    head, count = ("name", *runs), len(runs)
    content = {
        "title": f"{count} runs compared" if count > 1 else f"A run: {paths[0].name}",
        "missing": [
            f"{name}: its log has no {' and no '.join(lost)}"
            for name, run in runs.items()
            if (lost := [what for what in FRACTIONS if what not in run.names])
        ],
        "frontier": _frontier(points),
        "seed_groups": groups,
        "front": front,
        "curves": [_curves(name, groups) for name in names],
        "settings": (head, _differences([run.settings for run in runs.values()])),
        "versions": (head, _differences([_newest(run) for run in runs.values()])),
    }
    return write_page(Path(out), content)


def check_html_path(out: str | Path, example: str) -> None:
    """Refuse anything but the path of a file."""
    check_path(out=out)
    if Path(out).is_dir():
        raise IsADirectoryError(f"{out} is a folder; pass a file, such as {Path(out, example)}")


def write_page(path: Path, content: dict[str, Any]) -> Path:
    """Fill in the template, which escapes all texts."""
    text = _template().render(content, most_layers=MOST_LAYERS, most_masks=MOST_MASKS)
    write_whole(path, text.encode(errors="replace"))  # half a character, as a file's name may have
    return path


@cache
def _template() -> Any:
    """Jinja2's template, read once."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (_units.times, _units.percent, _units.bytes_of, _units.count_of, _units.seconds_of)
    environment.filters.update({one.__name__: one for one in filters})
    return environment.get_template("_page.html.j2")


class SeedGroup(NamedTuple):
    """The runs of a folder that have all but the seed in common."""

    folder: str
    label: str  # of these runs in it, such as "alpha 0.001"; "" for all
    run: Run
    style: int  # color, and dash or mark

    @property
    def name(self) -> str:
        """What legends call these runs."""
        return ", ".join(filter(None, (self.folder, self.label)))

    def series(self, name: str) -> Series | None:
        """A number of these runs over time; None where the log has none."""
        found = self.run.series(name)
        return found.get(self.label, found.get(""))

    def last(self, name: str) -> tuple[str, str]:
        """Where a fraction ends, in percent, and the sample standard deviation over the seeds."""
        series = self.series(name)
        if series is None:
            return "", ""
        spread = "" if series.spread is None else f"± {100 * series.spread[-1]:.2f}"
        return f"{100 * series.mean[-1]:.2f}%", spread


def _seed_groups(runs: dict[str, Run]) -> list[SeedGroup]:
    found: list[tuple[str, str, Run]] = []
    for name, run in runs.items():
        labels = dict.fromkeys(label for number in run.names for label in run.series(number))
        found += [(name, label, run) for label in [one for one in labels if one] or [""]]
    return [SeedGroup(*one, style) for style, one in enumerate(found)]


def _end(group: SeedGroup) -> Line | None:
    """The point where these runs end: x is the density, y the accuracy."""
    ends = [one for name in ("density", "accuracy") if (one := group.series(name))]
    if len(ends) < 2 or not all(np.isfinite(one.mean[-1]) for one in ends):
        return None
    spread = np.array([0.0 if one.spread is None else one.spread[-1] for one in ends])
    x, y = (one.mean[-1:] for one in ends)
    return Line(group.name, x, y, spread, group.style, point=True)


def best(points: Sequence[Line]) -> list[Line]:
    """Those that no other beats, being better in one of the two and as good in the other."""
    at = lambda point: (float(point.x[0]), float(point.y[0]))

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in map(at, points))

    return sorted((point for point in points if not beaten(*at(point))), key=at)


def _frontier(points: Sequence[Line]) -> Figure | None:
    if not points:
        return None
    front = best(points)
    x, y = (np.concatenate([getattr(point, name) for point in front]) for name in "xy")
    lines = [Line("frontier", x, y, style=11)] if len(front) > 1 else []
    title = "Accuracy at the end, by density"
    return chart(title, [*lines, *points], "density at the end", "density", "accuracy")


def _curves(name: str, groups: Sequence[SeedGroup]) -> Figure:
    """A number of all runs over the steps of their logs."""
    found: dict[str, tuple[SeedGroup, Series]] = {}
    for group in groups:
        series = group.run.series(name)
        if group.label not in series:  # a number of all its runs
            group = group._replace(label="")
        if group.label in series:
            found.setdefault(group.name, (group, series[group.label]))
    lines = [_line(label, one, group.style) for label, (group, one) in found.items()]
    seeds = {one.values.shape[1] for _, one in found.values()}
    many = ": mean ± 1 deviation" if max(seeds) > 1 else ""
    count = f" of {max(seeds)} runs" if many and len(seeds) == 1 else ""
    title = f"{name[:1].upper()}{name[1:].replace('_', ' ')}{many}{count}"
    units = sorted({group.run.unit for group, _ in found.values()})
    return chart(title, lines, " or ".join(units), y=name)


def _line(name: str, series: Series, style: int) -> Line:
    return Line(name, series.steps, series.mean, series.spread, style)


def _layer_curves(run: Run) -> Figure | None:
    layers, fine = run.layers()
    if not layers:
        return None
    shown = list(layers.items())[:MOST_LAYERS]
    lines = [_line(path, series, n) for n, (path, series) in enumerate(shown)]
    many = sum(series.values.shape[1] for series in run.series("density").values()) > 1
    kind = ", the first run" if fine and many else ", mean of the runs" if many else ""
    more = f", the first {len(shown)} of {len(layers)}" if len(shown) < len(layers) else ""
    unit = "step" if fine else run.unit
    return chart(f"Density of each layer{kind}{more}", lines, unit, y="density")


def _pictures(run: Run) -> list[Figure]:
    """Of each mask, and for the first what it reads of an image."""
    figures = []
    shape = next((one["shape"] for one in run.model.get("inputs", ())), [])
    image = shape[1:] if len(shape) in (3, 4) else []  # without the batch
    for n, (path, mask) in enumerate(list(run.masks.items())[:MOST_MASKS]):
        axes = run.model["layers"][path]["axes"]
        inputs = math.prod(mask.shape[axis] for axis in axes["inputs"])
        if n == 0 and image and inputs == math.prod(image):
            figures.append(input_picture(f"{path}: what it looks at", mask, axes, image))
        figures.append(mask_picture(path, mask, axes))
    return figures


def _short(paths: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many parents as are needed to distinguish them."""
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    common = common.parent if common in paths else common
    return [str(path.relative_to(common)) for path in paths]


def _newest(run: Run) -> dict[str, Any]:
    return run.versions[-1] if run.versions else {}


def _differences(values: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row for each setting that is not the same in all: its name and its values."""
    keys = dict.fromkeys(key for one in values for key in one)
    rows = {key: [one.get(key, ABSENT) for one in values] for key in keys}
    return [
        [k, *map(_units.written, row)] for k, row in rows.items() if any(v != row[0] for v in row)
    ]


def _named(values: dict[str, Any]) -> list[list[str]]:
    return [[name, _units.written(value)] for name, value in values.items()]
