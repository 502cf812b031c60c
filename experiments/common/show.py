"""What a user sees: means over seeds, aligned tables, progress by epoch, and pictures of studies.

A single run is shown by its page (`jsparse.report.page`); `draw` is for comparisons of many.
"""

import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._storage.files import write_whole

# Okabe and Ito (2008), without the yellow, which is too light for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
Curves = Mapping[str, tuple[Sequence[Any], Any]]
"""By name: x [n], numbers or words, and y, [n] or [n, seeds]."""


def mean_std(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample standard deviation (divisor n - 1) over seeds.

    >>> mean_std([98.1, 98.3, 98.2])
    '98.20 ± 0.10'
    >>> mean_std([98.1])
    '98.10 (one seed)'

    Raises:
        ValueError: There are no values.
    """
    numbers = np.asarray(values, float).reshape(-1)
    if numbers.size == 0:
        raise ValueError("got no values; give one number for each seed")
    if numbers.size == 1:
        return f"{numbers[0]:.{digits}f} (one seed)"
    return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}"


def percent(values: Sequence[float]) -> str:
    """Mean and deviation of fractions, in percent."""
    return mean_std([100 * value for value in values])


def counted(number: int, noun: str) -> str:
    """A count with its noun, in the plural if needed.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lines with aligned columns: the first to the left, the others to the right.

    >>> print(table(["layer", "kept"], [["first", 120], ["second", 7]]))
    layer   kept
    ------  ----
    first    120
    second     7

    Raises:
        ValueError: A row has more or fewer cells than the header.
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    for index, row in enumerate(cells[1:]):
        if len(row) != len(header):
            raise ValueError(
                f"row {index} has {len(row)} cells, the header has {len(header)}; make them equal"
            )
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    lines = []
    for first, *others in cells:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def draw(
    panels: Mapping[str, Curves],
    path: str | Path,
    x: str,
    y: str,
    *,
    log: str = "",
    level: float | None = None,
    columns: int = 3,
) -> None:
    """Curves with a bar of one deviation over the seeds, a panel for each title; a PNG file.

    Args:
      panels: curves by title; a name has the same color in all panels.
      path: the file.
      x: label of the horizontal axes.
      y: label of the vertical axes.
      log: which axes are logarithmic: "", "x", "y" or "xy".
      level: drawn across all panels, dashed: that of the dense network.
      columns: panels side by side, at most.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.8, 3.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for name, (places, values) in curves.items():
            values = np.asarray(values, float).reshape(len(places), -1)
            spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
            number, few = names.index(name), len(places) < 30
            axes.errorbar(
                places, values.mean(axis=1), spread, label=name, capsize=2, linewidth=1.5,
                color=COLORS[number % len(COLORS)], markersize=4, marker="o" if few else "",
                linestyle=("-", "--", ":")[number // len(COLORS) % 3],
            )  # fmt: skip
        if level is not None:
            axes.axhline(level, color="0.4", linestyle="--", linewidth=1.2, label="dense")
        axes.set(title=title, xlabel=x, ylabel=y)
        if isinstance(axes.xaxis.get_major_locator(), MaxNLocator):  # numbers, not names
            axes.locator_params(axis="x", nbins=6)  # those such as -1.425 are wide
        if "x" in log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        if "y" in log:
            axes.set_yscale("log")
        axes.grid(color="0.9")
        axes.legend(fontsize=8, frameon=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    save(figure, path)


def save(figure: Any, path: str | Path) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(Path(path), content.getvalue())


def header(folder: Path, what: str, runs: int, length: str) -> None:
    """Print on stderr what is trained, how many runs at once, and for how long."""
    print(f"{folder}: {what}, {counted(runs, 'run')} at once, {length}", file=sys.stderr)


def duration(seconds: float) -> str:
    """Roughly how long.

    >>> duration(4), duration(200), duration(9000)
    ('4 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Epochs:
    """Counts epochs `first + 1 .. last` and shows their progress.

    A bar (tqdm) where stderr is a terminal, else one line for each epoch. As soon as something is
    measured, a line estimates the time that is left. `name` is shown in front, `unit` is the name
    of an epoch.
    """

    def __init__(self, first: int, last: int, name: str = "epoch", unit: str = "epoch"):
        self._first, self._last, self._name, self._unit = first, last, name, unit
        self._epoch, self._start = first + 1, time.perf_counter()
        self._mark: tuple[float, float] | None = None
        self._told = False
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm.auto import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.3g}/{total} [{elapsed}{postfix}]"
            self._bar = tqdm(desc=name, initial=first, total=last, bar_format=form)

    def __iter__(self) -> Iterator[int]:
        for epoch in range(self._first + 1, self._last + 1):
            self._epoch, self._start = epoch, time.perf_counter()
            yield epoch
        if self._bar is not None:
            self._bar.close()

    def within(self, done: int, steps: int) -> None:
        """Show that some of the steps of the epoch in progress are done."""
        now, place = time.perf_counter(), self._epoch - 1 + done / steps
        if self._bar is not None:
            self._bar.n = place
            self._bar.refresh()
        if self._mark is None:
            self._mark = now, place  # what came before included compiling
        elif not self._told and place > self._mark[1]:
            self._told = True
            left = (now - self._mark[0]) / (place - self._mark[1]) * (self._last - place)
            if left >= 1:
                self._say(f"{self._name}: about {duration(left)} left")

    def show(self, **numbers: Any) -> float:
        """Show numbers of the epoch in progress, fractions in percent; the seconds it took so far.

        `accuracy` and `density` are fractions.
        """
        seconds = time.perf_counter() - self._start
        self.within(1, 1)
        forms = {"accuracy": ".2%", "density": ".2%"}
        shown = [f"{name} {float(one):{forms.get(name, '.3f')}}" for name, one in numbers.items()]
        text = "  ".join([*shown, f"{seconds:.1f} s/{self._unit}"])
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            width = len(str(self._last))
            self._say(f"{self._name} {self._epoch:{width}d}/{self._last}  {text}")
        return seconds

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
