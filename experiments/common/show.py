"""What a user sees: means over seeds, aligned tables, progress by epoch, and pictures of studies.

A single run is shown by its page (`jsparse.report.page`); `draw` is for what compares many.
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
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
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
    """A number of things that take an s.

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
      panels: curves by title; a name has the same colour in all panels.
      path: the file.
      x: label of the horizontal axes.
      y: label of the vertical axes.
      log: which axes are logarithmic: "", "x", "y" or "xy".
      level: drawn across all panels, dashed: that of the dense network.
      columns: panels side by side, at most.
    """
    from matplotlib.figure import Figure

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
                color=COLOURS[number % len(COLOURS)], markersize=4, marker="o" if few else "",
                linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
            )  # fmt: skip
        if level is not None:
            axes.axhline(level, color="0.4", linestyle="--", linewidth=1.2, label="dense")
        axes.set(title=title, xlabel=x, ylabel=y)
        if "x" in log:
            axes.set_xscale("log")
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


class Epochs:
    """Counts epochs `first + 1 .. last` and shows how they went.

    A bar (tqdm) where stderr is a terminal, else one line for each epoch.

    Args:
        first: Epochs already done, the step that `Run.load` returned.
        last: Epochs wanted.
        name: What is being trained, shown in front.
    """

    def __init__(self, first: int, last: int, name: str = "epoch"):
        self._first, self._last, self._name = first, last, name
        self._epoch, self._start = first, time.perf_counter()
        self._terminal = sys.stderr.isatty()

    def __iter__(self) -> Iterator[int]:
        numbers = range(self._first + 1, self._last + 1)
        if self._terminal:
            from tqdm.auto import tqdm

            self._bar = tqdm(numbers, desc=self._name, initial=self._first, total=self._last)
            numbers = self._bar
        for epoch in numbers:
            self._epoch, self._start = epoch, time.perf_counter()
            yield epoch

    def show(self, *, accuracy: float, density: float) -> float:
        """Shows the epoch in progress; returns the seconds it took so far."""
        seconds = time.perf_counter() - self._start
        text = (
            f"accuracy {float(accuracy):.2%}  density {float(density):.2%}  {seconds:.1f} s/epoch"
        )
        if self._terminal:
            self._bar.set_postfix_str(text)
        else:
            width = len(str(self._last))
            print(
                f"{self._name} {self._epoch:{width}d}/{self._last}  {text}",
                file=sys.stderr,
                flush=True,
            )
        return seconds
