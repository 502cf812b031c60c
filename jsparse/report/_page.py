"""Pages of runs: one run (`page`), or several and the frontier of accuracy and density (`compare`).

Both are written by the template _page.html.j2, from what `_run` reads and `_figures` draws.
"""

import importlib.util
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jsparse._storage.files import write_whole
from jsparse.report import _units
from jsparse.report._figures import Figure, Line, chart, input_picture, mask_picture
from jsparse.report._run import FRACTIONS, Run, Series, read_run

MOST_LAYERS, MOST_MASKS = 28, 40
ABSENT = "–"


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
      ImportError: matplotlib or Jinja2 is not installed.
    """
    _check_libraries()
    run = read_run(run_folder)
    seeds = sum(one.values.shape[1] for n in run.names[:1] for one in run.series(n).values())
    about = [run.end, f"{seeds} runs" if seeds > 1 else ""]
    about += [str(run.settings.get(name, "")) for name in ("dataset", "network")]
    content = {
        "title": run.path.resolve().name,
        "about": " · ".join(word for word in about if word),
        "missing": run.missing,
        "run": run,
        "reached": [
            (_last(series), f"{name}, {label}" if label else name)
            for name in run.names
            if name in FRACTIONS
            for label, series in run.series(name).items()
        ],
        "curves": [_over_time(name, run.series(name), run.unit) for name in run.names],
        "layer_curves": _layer_curves(run),
        "pictures": _pictures(run),
        "settings": (("name", "value"), _written(run.settings)),
        "versions": (("name", "value"), _written(run.versions[-1] if run.versions else {})),
    }
    return _write(Path(run_folder) / "page.html", content)


def compare(run_folders: Sequence[str | Path], out: str | Path = "compare.html") -> Path:
    """Write one HTML page about several runs, with the frontier of accuracy and density.

    The frontier joins the runs that no other one beats in both.

    Args:
      run_folders: one or more; see `save` for what they hold.
      out: the file.

    Returns:
      Its path.

    Raises:
      FileNotFoundError: no folder, or nothing of a run in it.
      IsADirectoryError: `out` is a folder.
      ImportError: matplotlib or Jinja2 is not installed.
      TypeError: one folder in place of a list.
      ValueError: no folder, one given twice, or one that holds a damaged file.
    """
    _check_libraries()
    if isinstance(run_folders, str | Path):
        raise TypeError(f"got {run_folders!r}; give a list of folders: [{str(run_folders)!r}]")
    if Path(out).is_dir():
        raise IsADirectoryError(f"{out} is a folder; give a file, such as {Path(out, 'out.html')}")
    paths = [Path(folder).resolve() for folder in run_folders]
    if not paths or len(set(paths)) < len(paths):
        raise ValueError(f"got the folders {[str(p) for p in paths]}; give one or more, each once")
    runs = dict(zip(_short(paths), map(read_run, paths), strict=True))
    rivals = _rivals(runs)
    points = [rival.point for rival in rivals if rival.point]
    front = [p.name for p in best(points)]
    names = dict.fromkeys(name for run in runs.values() for name in run.names)
    newest = [run.versions[-1] if run.versions else {} for run in runs.values()]
    count = len(runs)
    content = {
        "title": f"{count} runs compared" if count > 1 else f"A run: {next(iter(runs))}",
        "missing": [
            f"{name}: its log has no {' and no '.join(lost)}"
            for name, run in runs.items()
            if (lost := [what for what in FRACTIONS if what not in run.names])
        ],
        "frontier": _frontier(points),
        "rivals": [(rival, rival.name in front) for rival in rivals],
        "curves": [_compared(name, rivals) for name in names],
        "settings": _differences(list(runs), [run.settings for run in runs.values()]),
        "versions": _differences(list(runs), newest),
    }
    return _write(Path(out), content)


def _check_libraries() -> None:
    missing = [name for name in ("jinja2", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"pages need {' and '.join(missing)}, not installed: pip install \"jsparse[report]\""
        )


def _write(path: Path, content: dict[str, Any]) -> Path:
    """Fill in the template, which escapes all texts."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (_units.percent, _units.bytes_of, _units.count_of, _units.seconds_of)
    environment.filters.update({one.__name__: one for one in filters})
    environment.filters["times"] = lambda shape: "×".join(map(str, shape))
    template = environment.get_template("_page.html.j2")
    text = template.render(content, most_layers=MOST_LAYERS, most_masks=MOST_MASKS)
    write_whole(path, text.encode(errors="replace"))  # half a character, as a file's name may have
    return path


class Rival(NamedTuple):
    """The runs of a folder that have all but the seed in common.

    Attributes:
      name: of the folder, and of these runs where it has several kinds.
      run: the folder.
      label: of these runs in it.
      style: its colour and mark.
    """

    name: str
    run: Run
    label: str
    style: int

    def series(self, name: str) -> Series | None:
        """A number of these runs over time; None where the log has none."""
        found = self.run.series(name)
        return found.get(self.label, found.get(""))

    def last(self, name: str) -> tuple[str, str]:
        """Where a fraction ends, as text; empty where the log has none."""
        series = self.series(name)
        return _last(series) if series else ("", "")

    @property
    def point(self) -> Line | None:
        """Where it ends: x is the density, y the accuracy."""
        ends = [self.series("density"), self.series("accuracy")]
        if not all(one and np.isfinite(one.mean[-1]) for one in ends):
            return None
        x, y = (one.mean[-1:] for one in ends if one)
        spread = np.array([0.0 if one.spread is None else one.spread[-1] for one in ends if one])
        return Line(self.name, x, y, spread, self.style, point=True)


def _rivals(runs: dict[str, Run]) -> list[Rival]:
    found: list[tuple[str, Run, str]] = []
    for name, run in runs.items():
        labels = dict.fromkeys(label for number in run.names for label in run.series(number))
        kinds = [label for label in labels if label] or [""]
        found += [(f"{name}, {label}" if label else name, run, label) for label in kinds]
    return [Rival(*one, style) for style, one in enumerate(found)]


def best(points: Sequence[Line]) -> list[Line]:
    """Those that no other beats: none is sparser or more accurate, and as good in the other."""
    at = lambda point: (float(point.x[0]), float(point.y[0]))

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in map(at, points))

    return sorted((point for point in points if not beaten(*at(point))), key=at)


def _frontier(points: Sequence[Line]) -> Figure | None:
    if not points:
        return None
    front = best(points)
    x, y = (np.concatenate([getattr(p, name) for p in front]) for name in "xy")
    lines = [Line("frontier", x, y, style=11)] if len(front) > 1 else []
    title, label = "Accuracy at the end, by density", "density at the end"
    return chart(title, [*lines, *points], label, densities="x", fractions="y")


def _last(series: Series) -> tuple[str, str]:
    """The last value in percent, and the sample standard deviation over the seeds."""
    mean = f"{100 * series.mean[-1]:.2f}%"
    return mean, "" if series.spread is None else f"± {100 * series.spread[-1]:.2f}"


def _line(name: str, series: Series, style: int) -> Line:
    return Line(name, series.steps, series.mean, series.spread, style)


def _over_time(name: str, series: dict[str, Series], unit: str) -> Figure:
    """A number of a run over the steps of its log."""
    most = max(one.values.shape[1] for one in series.values())
    words = f": mean ± 1 deviation of {most} runs" if most > 1 else ""
    lines = [_line(label, one, n) for n, (label, one) in enumerate(series.items())]
    return _curves(name, words, lines, unit)


def _compared(name: str, rivals: Sequence[Rival]) -> Figure:
    """A number of all runs over the steps of their logs."""
    found = [(rival, one) for rival in rivals if (one := rival.series(name))]
    lines = [_line(rival.name, one, rival.style) for rival, one in found]
    words = ": mean ± 1 deviation" if any(one.spread is not None for _, one in found) else ""
    return _curves(name, words, lines, " or ".join(sorted({rival.run.unit for rival, _ in found})))


def _curves(name: str, words: str, lines: Sequence[Line], unit: str) -> Figure:
    title = f"{name[:1].upper()}{name[1:].replace('_', ' ')}{words}"
    densities, fractions = ("y" if name == kind else "" for kind in ("density", "accuracy"))
    return chart(title, lines, unit, densities=densities, fractions=fractions)


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
    return chart(f"Density of each layer{kind}{more}", lines, unit, densities="y")


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
    """Names of the folders, with as much of what is above as tells them apart."""
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    common = common.parent if common in paths else common
    return [str(path.relative_to(common)) for path in paths]


Table = tuple[Iterable[str], list[list[str]]]


def _differences(names: list[str], values: Sequence[dict[str, Any]]) -> Table:
    """A row for each setting that is not the same in all runs."""
    keys = dict.fromkeys(key for one in values for key in one)
    rows = [[key, *(_write_value(one.get(key, ABSENT)) for one in values)] for key in keys]
    return ("name", *names), [row for row in rows if len(set(row[1:])) > 1]


def _written(values: dict[str, Any]) -> list[list[str]]:
    return [[name, _write_value(value)] for name, value in values.items()]


def _write_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_write_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
