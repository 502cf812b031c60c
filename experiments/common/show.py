"""Numbers in text: means over seeds, aligned tables, progress by epoch."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


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
