"""Many sparse networks beside each other: same network, data and seeds, one run folder each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments.common.plots import COLOURS, figure_of, save
from experiments.common.run import Run, open_run
from experiments.common.show import mean_std
from experiments.common.sources import Images
from experiments.common.study import TrainSettings
from experiments.common.sweep import Inputs, Runs, Sweep, in_turn
from experiments.common.training import results, train
from jsparse._slots import sparse_parts
from jsparse._sparse import Learned
from jsparse.optim import Control

Begin = Callable[[nnx.Module, nnx.Module, int], nnx.Module]
"""From a new model, the one that `after` trained (else the new one), and the seed: the start."""


class Contestant(NamedTuple):
    """A network to train.

    Attributes:
      make: builds it.
      alpha: of its learned thresholds, if it has some.
      controls: at most one control, of what changes while training.
      revisions: of its stored masks while training, pairs of a pattern and a revision.
      begin: makes the model that is trained from the one that is built.
      after: name of an earlier contestant, whose trained models `begin` is given.
      rate: factor of its learning rate; 0 leaves it as `begin` made it.
      learned_rate: one more factor, of the rate of what its rules learn: gates, scores, thresholds.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    alpha: float = 0.0
    controls: tuple[Control, ...] = ()
    revisions: tuple[tuple[str, jsparse.Revision], ...] = ()
    begin: Begin = lambda new, earlier, seed: new
    after: str = ""
    rate: float = 1.0
    learned_rate: float = 1.0


Results = dict[str, dict[str, list[float]]]


def compare(
    settings: TrainSettings,
    contestants: Mapping[str, Contestant],
    tx: optax.GradientTransformation,
    images: Images,
    inputs: Inputs,
    over: Callable[[Callable], Callable],
) -> Results:
    """Train each contestant over all seeds, unless its run folder says that it is done.

    Args:
      settings: of the training; `out` is the folder of all runs.
      contestants: by name.
      tx: optax transform.
      images: data.
      inputs: how images are prepared.
      over: how the seeds share a program, `side_by_side` or `in_turn`.

    Returns:
      For each name, over the seeds: accuracy and density of the last epoch, the best accuracy, and
      the fraction of the channels that are left.
    """
    settings.check_batch(images)
    race = _Race(settings, contestants, tx, images, inputs, over)
    return {name: race.run(name) for name in contestants}


class _Race(NamedTuple):
    """All that the contestants have in common."""

    settings: TrainSettings
    contestants: Mapping[str, Contestant]
    tx: optax.GradientTransformation
    images: Images
    inputs: Inputs
    over: Callable[[Callable], Callable]

    def run(self, name: str) -> dict[str, list[float]]:
        """Train one, unless that is done; its results."""
        contestant, seeds = self.contestants[name], self.settings.seeds
        folder = Path(self.settings.out) / name
        run = open_run(folder, self.settings, dataset=self.images.name, contestant=name)
        if run.complete:
            return run.final()
        earlier = self.trained(contestant.after) if contestant.after else []

        def begin(new: nnx.Module, n: int) -> nnx.Module:
            return contestant.begin(new, earlier[n] if earlier else new, n + 1)

        sweep, start = self.sweep(name)
        epochs = self.settings.epochs
        state = train(run, sweep, self.images, start=start, epochs=epochs, begin=begin)
        models = [sweep.model(state, n) for n in range(seeds)]
        (run.folder / "report.txt").write_text(f"{jsparse.summary(models[0])}\n")
        channels = [channels_left(model) for model in models]
        run.finish(**results(run, range(seeds)), channels=channels)
        return run.final()

    def trained(self, name: str) -> list[nnx.Module]:
        """The models of a contestant that has been trained."""
        sweep, start = self.sweep(name)
        _, state = Run(folder=Path(self.settings.out) / name).load(start())
        return [sweep.model(state, n) for n in range(self.settings.seeds)]

    def sweep(self, name: str) -> tuple[Sweep, Callable[[], Runs]]:
        """Its runs, and what makes their start."""
        one, settings, tx, wrt = self.contestants[name], self.settings, self.tx, nnx.Param
        if one.rate != 1:
            tx = optax.chain(tx, optax.scale(one.rate))
        if one.learned_rate != 1:
            tx = optax.chain(tx, optax.masked(optax.scale(one.learned_rate), _is_learned))
        if one.revisions:
            roles = jsparse.roles(one.make(nnx.Rngs(0)))
            tx, wrt = jsparse.revise(tx, *one.revisions, roles=roles), (nnx.Param, jsparse.Mask)
        # side by side, a branch that moves masks now and then would be taken at every step
        over = in_turn if one.revisions else self.over
        sweep = Sweep(one.make, tx, settings.batch, over, one.controls, self.inputs, wrt)
        seeds = range(1, settings.seeds + 1)
        return sweep, lambda: sweep.start(seeds, [one.alpha] * settings.seeds)


def _is_learned(params: Any) -> Any:
    """True at what rules learn, a tree."""
    variable = lambda leaf: isinstance(leaf, nnx.Variable)
    return jax.tree.map(lambda leaf: isinstance(leaf, Learned), params, is_leaf=variable)


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
        widest = max(100 * np.mean(p.numbers[key]) for p in points)
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
            axes.set_xlim(0, 104 if widest > 50 else 1.1 * widest)
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


def plot_league(
    families: Mapping[str, Mapping[str, Sequence[dict[str, list[float]]]]],
    dense: Sequence[float],
    path: str | Path,
    worst: float = 0.15,
) -> None:
    """Accuracy of many methods, a line each, best of a family on top; the colour is the density.

    Args:
      families: results of each method, one for each density, by family and method.
      dense: accuracies of the dense network.
      path: the PNG file.
      worst: loss of accuracy beyond which a mark is put at the edge, as an arrow.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    families = {family: methods for family, methods in families.items() if methods}
    every = [n for methods in families.values() for marks in methods.values() for n in marks]
    densities = [100 * np.mean(n["density"]) for n in every]
    colours = LogNorm(max(0.1, min(densities)), max(densities))
    lines = sum(map(len, families.values())) + len(families)
    figure = figure_of(8.0, 0.27 * lines + 1.3)
    axes, bar = figure.subplots(1, 2, width_ratios=(30, 1))
    full = 100 * float(np.mean(dense))
    lowest = min(100 * np.mean(n["accuracy"]) for n in every)
    edge = max(full - 100 * worst, lowest - 0.2)
    place, labels = 0, {}
    for family, methods in families.items():
        axes.text(0.01, place, family, transform=axes.get_yaxis_transform(), style="italic",
                  va="center", color="0.35")  # fmt: skip
        place += 1
        last = lambda marks: min((np.mean(n["density"]), np.mean(n["accuracy"])) for n in marks)[1]
        for name in sorted(methods, key=lambda name: last(methods[name]), reverse=True):
            marks = sorted(methods[name], key=lambda n: np.mean(n["density"]))
            x = np.array([100 * np.mean(n["accuracy"]) for n in marks])
            spread = [100 * deviation(n["accuracy"]) for n in marks]
            axes.plot(np.clip(x, edge, None), np.full(len(x), place), color="0.8", zorder=1)
            for value, width, n in zip(x, spread, marks, strict=True):
                colour = _density_colour(colours, 100 * np.mean(n["density"]))
                if value < edge:
                    axes.plot(edge, place, marker="<", color=colour, markersize=7, zorder=2)
                else:
                    axes.errorbar(value, place, xerr=width, fmt="o", color=colour, capsize=2,
                                  markersize=6, linewidth=1.2, zorder=2)  # fmt: skip
            labels[place] = name
            place += 1
    axes.axvline(full, color="0.4", linestyle="--", linewidth=1.2)
    axes.set_yticks(list(labels), list(labels.values()))
    axes.set_ylim(place - 0.4, -0.7)
    axes.set_xlabel(f"test accuracy [%]; dense (dashed) {full:.2f}")
    axes.grid(axis="x", alpha=0.3)
    scale = ScalarMappable(colours, "viridis_r")
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if colours.vmin <= t <= colours.vmax]
    drawn = figure.colorbar(scale, cax=bar, label="weights left [%]", ticks=ticks)
    drawn.ax.set_yticklabels([f"{t:g}" for t in ticks])
    drawn.ax.minorticks_off()
    save(figure, path)


def _density_colour(scale: Any, density: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"](scale(density))


def _line(colour: str, style: str, label: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=label)


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
