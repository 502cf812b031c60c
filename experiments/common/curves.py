"""Accuracy of pruning methods round by round."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.plots import COLOURS, STYLES, figure_of, save


class Curve(NamedTuple):
    """A method's accuracy in each round.

    Attributes:
      panel: the column of the picture.
      method: what it is called there.
      left: fraction left in each round, [rounds].
      accuracies: [rounds, seeds].
    """

    panel: str
    method: str
    left: Sequence[float]
    accuracies: Sequence[Sequence[float]]


def plot_rounds(curves: Sequence[Curve], label: str, path: str | Path) -> None:
    """A column for each panel, a line with a band of one deviation for each method.

    What is left falls to the right, on a logarithmic axis.

    Args:
      curves: in order; the first of a panel has the first colour.
      label: of the horizontal axis.
      path: the PNG file.
    """
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    figure = figure_of(4.2 * len(panels) + 0.6, 4.2)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel in zip(grid, panels, strict=True):
        mine = [curve for curve in curves if curve.panel == panel]
        for n, curve in enumerate(mine):
            accuracies = 100 * np.asarray(curve.accuracies)
            left, mean = 100 * np.asarray(curve.left), accuracies.mean(axis=1)
            colour, style = COLOURS[n % len(COLOURS)], STYLES[n // len(COLOURS)]
            axes.plot(
                left, mean, style, color=colour, marker="o", markersize=3.5, label=curve.method
            )
            if accuracies.shape[1] > 1:
                spread = accuracies.std(axis=1, ddof=1)
                low, high = mean - spread, mean + spread
                axes.fill_between(left, low, high, color=colour, alpha=0.15, lw=0)
        _axis(axes, [100 * one for curve in mine for one in curve.left])
        axes.set_title(panel, fontsize=11)
        axes.set_xlabel(label)
        axes.grid(color="0.9")
        axes.legend(fontsize=9, loc="lower left")
    grid[0].set_ylabel("test accuracy [%]")
    save(figure, path)


def _axis(axes, left: Sequence[float]) -> None:
    """A logarithmic axis from most to least, with a mark at each round or each other one."""
    from matplotlib.ticker import NullFormatter, NullLocator

    marks = sorted({round(one, 2) for one in left}, reverse=True)
    every = -(-len(marks) // 7)
    axes.set_xscale("log")
    axes.set_xlim(max(left) * 1.05, min(left) / 1.05)
    axes.set_xticks(marks[::every], [f"{one:.3g}" for one in marks[::every]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
