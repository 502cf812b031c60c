"""Accuracy of pruning methods round by round."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.plots import COLOURS, figure_of, save


class Curve(NamedTuple):
    """A method's accuracy in each round.

    Attributes:
      panel: the column of the picture.
      method: what it is called there.
      left: fraction left in each round, [rounds].
      accuracies: [rounds, seeds].
      note: of a line drawn beside the method's own, such as "published"; it is dashed.
    """

    panel: str
    method: str
    left: Sequence[float]
    accuracies: Sequence[Sequence[float]]
    note: str = ""


def plot_rounds(
    curves: Sequence[Curve],
    label: str,
    path: str | Path,
    columns: int = 2,
    floor: float = 0.0,
) -> None:
    """A line with a band of one deviation for each method, in a panel each.

    What is left falls to the right, on a logarithmic axis.

    Args:
      curves: a method has the same colour in all panels, or, if there are too many methods for
        that, in its own.
      label: of the horizontal axis.
      path: the PNG file.
      columns: panels side by side.
      floor: accuracy at the lower edge; what is below leaves the picture. 0 to show all.
    """
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    rows = -(-len(panels) // columns)
    figure = figure_of(4.2 * columns + 0.6, 3.8 * rows + 0.4)
    share = "row" if rows == 1 else "col"
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    for axes, panel in zip(grid.flat, panels, strict=False):
        mine = [curve for curve in curves if curve.panel == panel]
        named = mine if len({curve.method for curve in curves}) > len(COLOURS) else curves
        colours = dict(zip(dict.fromkeys(curve.method for curve in named), COLOURS, strict=False))
        for curve in mine:
            _line(axes, curve, colours[curve.method])
        _axis(axes, [100 * one for curve in mine for one in curve.left if not curve.note])
        axes.set_title(panel, fontsize=11)
        axes.grid(color="0.9")
        if floor:
            axes.set_ylim(bottom=100 * floor)
        axes.legend(fontsize=8.5, loc="lower left")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy [%]")
    save(figure, path)


def _line(axes, curve: Curve, colour: str) -> None:
    accuracies = 100 * np.asarray(curve.accuracies)
    left, mean = 100 * np.asarray(curve.left), accuracies.mean(axis=1)
    style = {"linestyle": "--", "linewidth": 1.1} if curve.note else {"marker": "o"}
    name = f"{curve.method}, {curve.note}" if curve.note else curve.method
    axes.plot(left, mean, color=colour, markersize=3.5, label=name, **style)
    if accuracies.shape[1] > 1:
        spread = accuracies.std(axis=1, ddof=1)
        axes.fill_between(left, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)


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
