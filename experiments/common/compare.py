"""Many sparse networks compared: same network, data and seeds, one run folder each."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments.common import record
from experiments.common.run import Run, open_run
from experiments.common.settings import TrainSettings
from experiments.common.show import draw
from experiments.common.sweep import Inputs, Runs, Sweep, in_turn
from experiments.common.train import results, train
from experiments.datasets.sources import Images
from jsparse._slots import sparse_parts
from jsparse._sparse import Learned
from jsparse._storage.files import write_whole
from jsparse.optim import Control

Begin = Callable[[nnx.Module, nnx.Module, int], nnx.Module]
"""From a new model, the one that `after` trained (else the new one), and the seed: the start."""


class Contestant(NamedTuple):
    """A network to train.

    Attributes:
      make: builds it.
      alpha: of its learned thresholds, if it has some.
      controls: at most one control of settings during training.
      revisions: of its stored masks while training, pairs of a pattern and a revision.
      begin: turns the built model into the one to train.
      after: name of an earlier contestant, whose trained models `begin` is given.
      rate: factor of its learning rate; 0 leaves it as `begin` made it.
      learned_rate: a further factor for what its rules learn: gates, scores, thresholds.
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
    """Train each contestant over all seeds, unless its run folder is complete.

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
        jsparse.report.save(models[0], run.folder)
        channels = [channels_left(model) for model in models]
        run.finish(**results(run, range(seeds)), channels=channels)
        return run.final()

    def trained(self, name: str) -> list[nnx.Module]:
        """The models of a contestant that has been trained."""
        sweep, start = self.sweep(name)
        _, state = Run(folder=Path(self.settings.out) / name).load(start())
        return [sweep.model(state, n) for n in range(self.settings.seeds)]

    def sweep(self, name: str) -> tuple[Sweep, Callable[[], Runs]]:
        """Its runs, and the function that makes their initial models."""
        one, settings, tx, wrt = self.contestants[name], self.settings, self.tx, nnx.Param
        if one.rate != 1:
            tx = optax.chain(tx, optax.scale(one.rate))
        if one.learned_rate != 1:
            tx = optax.chain(tx, optax.masked(optax.scale(one.learned_rate), _is_learned))
        if one.revisions:
            roles = jsparse.roles(one.make(nnx.Rngs(0)))
            tx, wrt = jsparse.revise(tx, *one.revisions, roles=roles), (nnx.Param, jsparse.Mask)
        # side by side, a branch that changes masks now and then would be taken at every step
        over = in_turn if one.revisions else self.over
        sweep = Sweep(one.make, tx, settings.batch, over, one.controls, self.inputs, wrt)
        seeds = range(1, settings.seeds + 1)
        return sweep, lambda: sweep.start(seeds, [one.alpha] * settings.seeds)


def _is_learned(params: Any) -> Any:
    """A tree, True where rules learn."""
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


def tradeoff(
    found: Results,
    out: Path,
    counts: Mapping[str, str] = {"density": "weights"},
) -> None:
    """Draw tradeoff.png, accuracy against what is left, and write compare.html; say where.

    Args:
      found: results of contestants called "METHOD, PANEL, ..." and "dense".
      out: the folder of all runs.
      counts: what is counted, by the key of the results that says how much of it is left.
    """
    panels: dict[str, dict[str, list]] = {}
    for key, what in counts.items():
        for name in sorted(found.keys() - {"dense"}, key=lambda n: np.mean(found[n][key])):
            method, panel = name.split(", ")[:2]
            title = f"{panel}: {what}" if len(counts) > 1 else panel
            panels.setdefault(title, {}).setdefault(method, []).append(
                (100 * np.mean(found[name][key]), 100 * np.array(found[name]["accuracy"]))
            )
    drawn = {t: {m: tuple(zip(*p, strict=True)) for m, p in ms.items()} for t, ms in panels.items()}
    level = 100 * float(np.mean(found["dense"]["accuracy"]))
    draw(drawn, out / "tradeoff.png", "left [%]", "test accuracy [%]", level=level)
    show_pages(found, out, out / "tradeoff.png")


def show_pages(names: Iterable[str], out: Path, *pictures: Path, tables: str = "") -> None:
    """Write page.html of each run and compare.html of all, and say where pictures and pages are.

    Args:
      names: folders of the runs.
      out: where they are.
      pictures: to list.
      tables: text with tables of `show.table`, to show on every page.
    """
    folders = [out / name for name in names]
    for folder in folders:
        show_page(folder, tables)
    page = jsparse.report.compare(folders, out / "compare.html")
    print(f"\npicture: {', '.join(map(str, pictures))}")
    print(f"page: {page}, and page.html in the folder of each run")


def show_page(folder: Path, tables: str) -> Path:
    """Write page.html of one run, with the tables in a text; its path."""
    if tables:
        write_whole(folder / "tables.json", json.dumps(record.tables(tables)).encode())
    return jsparse.report.page(folder)
