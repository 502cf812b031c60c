"""Many sparse networks beside each other: same network, data and seeds, one run folder each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax
from flax import nnx

import jsparse
from experiments.common.plots import COLOURS, figure_of, save
from experiments.common.run import open_run
from experiments.common.show import mean_std
from experiments.common.sources import Images
from experiments.common.study import TrainSettings
from experiments.common.sweep import PIXELS, Inputs, Sweep, turns_on_cpu
from experiments.common.training import results, train
from jsparse.optim import Control
from jsparse.slots import sparse_parts


class Contestant(NamedTuple):
    """A network to train.

    Attributes:
      make: builds it.
      alpha: of its learned thresholds, if it has some.
      controls: at most one control, of what changes while training.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    alpha: float = 0.0
    controls: tuple[Control, ...] = ()


Results = dict[str, dict[str, list[float]]]


def compare(
    settings: TrainSettings,
    contestants: Mapping[str, Contestant],
    tx: optax.GradientTransformation,
    images: Images,
    inputs: Inputs = PIXELS,
) -> Results:
    """Train each contestant over all seeds, unless its run folder says that it is done.

    Args:
      settings: of the training; `out` is the folder of all runs.
      contestants: by name.
      tx: optax transform.
      images: data.
      inputs: how images are prepared.

    Returns:
      For each name, over the seeds: accuracy and density of the last epoch, the best accuracy, and
      the fraction of the channels that are left.
    """
    settings.check_batch(images)
    found: Results = {}
    for name, contestant in contestants.items():
        run = open_run(Path(settings.out) / name, settings, dataset=images.name, contestant=name)
        if not run.complete:
            make, controls = contestant.make, contestant.controls
            sweep = Sweep(make, tx, settings.batch, turns_on_cpu(), controls, inputs)
            seeds = range(1, settings.seeds + 1)
            alphas = [contestant.alpha] * settings.seeds
            state = train(run, sweep, images, seeds=seeds, alphas=alphas, epochs=settings.epochs)
            numbers = results(run, range(settings.seeds))
            models = [sweep.model(state, n) for n in range(settings.seeds)]
            (run.folder / "report.txt").write_text(f"{jsparse.report(models[0])}\n")
            run.finish(**numbers, channels=[channels_left(model) for model in models])
        found[name] = run.final()
    return found


def channels_left(model: nnx.Module) -> float:
    """Fraction of the inputs and outputs of the sparse weights that have a weight left.

    Only these need be computed with; a channel counts once as an output of its own layer and once
    as an input of the next.
    """
    left = total = 0
    for part in sparse_parts(model).values():
        mask = np.asarray(part.read_final_mask())
        role = part.rule.role
        for axes in (role.output_axes(mask.ndim), role.input_axes(mask.ndim)):
            alive = mask.any(axis=tuple(a for a in range(mask.ndim) if a not in axes))
            left, total = left + int(alive.sum()), total + alive.size
    return left / total if total else 1.0


def percent(values: Sequence[float]) -> str:
    """Mean and deviation of fractions, in percent."""
    return mean_std([100 * value for value in values])


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


class Point(NamedTuple):
    """A contestant in a picture.

    Attributes:
      method: what is compared; a colour each.
      panel: the column it belongs to.
      numbers: its results.
    """

    method: str
    panel: str
    numbers: dict[str, list[float]]


def plot_tradeoff(
    points: Sequence[Point],
    dense: Sequence[float],
    rows: Mapping[str, str],
    path: str | Path,
) -> None:
    """Accuracy against what is left: a column for each panel, a row for each way of counting.

    Args:
      points: with the results of each contestant.
      dense: accuracy of the dense network, [seeds].
      rows: label of the horizontal axis by the key of the results that it shows.
      path: the PNG file.
    """
    panels = list(dict.fromkeys(point.panel for point in points))
    methods = list(dict.fromkeys(point.method for point in points))
    figure = figure_of(2.8 * len(panels) + 0.6, 2.6 * len(rows) + 0.7)
    grid = figure.subplots(len(rows), len(panels), squeeze=False, sharey=True, sharex="row")
    lowest = min(100 * np.mean(p.numbers["accuracy"]) for p in points)
    top = 100 * max([np.mean(dense), *(np.mean(p.numbers["accuracy"]) for p in points)])
    for row, (key, label) in zip(grid, rows.items(), strict=True):
        for axes, panel in zip(row, panels, strict=True):
            axes.axhline(100 * np.mean(dense), color="0.4", linestyle="--", linewidth=1.2)
            for colour, method in zip(COLOURS, methods, strict=False):
                mine = [p.numbers for p in points if (p.method, p.panel) == (method, panel)]
                mine.sort(key=lambda n: np.mean(n[key]))
                if not mine:
                    continue
                axes.errorbar(
                    [100 * np.mean(n[key]) for n in mine],
                    [100 * np.mean(n["accuracy"]) for n in mine],
                    yerr=[100 * deviation(n["accuracy"]) for n in mine],
                    color=colour,
                    marker="o",
                    markersize=4,
                    linewidth=1.5,
                    capsize=2,
                )
            axes.set_xlim(0, 104)
            axes.set_xlabel(label)
            axes.set_ylim(lowest - 0.05 * (top - lowest) - 0.1, top + 0.05 * (top - lowest) + 0.1)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("test accuracy [%]")
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set_title(panel, fontsize=11)
    handles = [_line(colour, "-", method) for colour, method in zip(COLOURS, methods, strict=False)]
    handles.append(_line("0.4", "--", f"dense, {100 * np.mean(dense):.2f} %"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    save(figure, path)


def _line(colour: str, style: str, label: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=label)


def first_samples(images: Images, samples: int) -> Images:
    """The images with at most so many to train on, the first ones; named accordingly."""
    if samples >= len(images.train_x):
        return images
    return dataclasses.replace(
        images,
        train_x=images.train_x[:samples],
        train_y=images.train_y[:samples],
        name=f"{images.name}, first {samples} training images",
    )


def plot_ranks(
    marks: Mapping[tuple[str, str], Sequence[float]], dense: Sequence[float], path: str | Path
) -> None:
    """Accuracy of methods (colours) in groups (columns): each seed a dot, their mean a bar.

    Args:
      marks: accuracies over the seeds, by method and group.
      dense: those of the dense network.
      path: the PNG file.
    """
    methods = list(dict.fromkeys(method for method, _ in marks))
    groups = list(dict.fromkeys(group for _, group in marks))
    figure = figure_of(1.6 * len(groups) + 2.0, 3.6)
    axes = figure.add_subplot()
    axes.axhline(100 * np.mean(dense), color="0.4", linestyle="--", linewidth=1.2)
    for n, method in enumerate(methods):
        for place, group in enumerate(groups):
            values = 100 * np.asarray(marks.get((method, group), ()))
            if not values.size:
                continue
            x = place + 0.22 * (n - (len(methods) - 1) / 2)
            axes.plot(np.full(values.shape, x), values, "o", color=COLOURS[n], markersize=4)
            axes.hlines(values.mean(), x - 0.09, x + 0.09, color=COLOURS[n], linewidth=2.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylabel("test accuracy [%]")
    axes.grid(axis="y", alpha=0.3)
    handles = [_line(colour, "-", name) for colour, name in zip(COLOURS, methods, strict=False)]
    handles.append(_line("0.4", "--", f"dense, {100 * np.mean(dense):.2f} %"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    save(figure, path)
