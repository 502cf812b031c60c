"""Many sparse networks compared: same network, data and seeds, one run folder each."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
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
from experiments.common.sweep import Inputs, Sweep, in_turn
from experiments.common.train import results, train, trained
from experiments.datasets.sources import Images
from jsparse._sparse import Learned
from jsparse._storage.files import write_whole
from jsparse.optim import Control

Begin = Callable[[nnx.Module, nnx.Module, int], nnx.Module]
"""From a new model, the one that `after` trained (else the new one), and the seed: the start."""


class Contestant(NamedTuple):
    """A network to train."""

    make: Callable[[nnx.Rngs], nnx.Module]
    alpha: float = 0.0
    """Of its learned thresholds, if it has some."""
    controls: tuple[Control, ...] = ()
    """At most one control of settings during training."""
    revisions: tuple[tuple[str, jsparse.Revision], ...] = ()
    """Of its stored masks while training, pairs of a pattern and a revision."""
    begin: Begin = lambda new, earlier, seed: new
    """Turns the built model into the one to train."""
    after: str = ""
    """Name of an earlier contestant, whose trained models `begin` is given."""
    rate: float = 1.0
    """Factor of its learning rate; 0 leaves it as `begin` made it."""
    learned_rate: float = 1.0
    """A further factor for what its rules learn: gates, scores, thresholds."""


Results = dict[str, dict[str, list[float]]]


def compare(
    settings: TrainSettings,
    contestants: Mapping[str, Contestant],
    tx: optax.GradientTransformation,
    images: Images,
    inputs: Inputs,
    over: Callable[[Callable], Callable],
) -> Results:
    """Train each contestant over all seeds, unless its run folder in `settings.out` is complete.

    Returns:
      For each name, over the seeds: accuracy and density of the last epoch, the best accuracy, and
      the fraction of the channels that are left.
    """
    settings.check_batch(images)
    sweep_of = partial(_sweep, tx=tx, batch=settings.batch, inputs=inputs, over=over)
    found, out, seeds = {}, Path(settings.out), range(1, settings.seeds + 1)
    for name, one in contestants.items():
        run = open_run(out / name, settings, dataset=images.name, contestant=name)
        if not run.complete:
            earlier = []
            if one.after:
                before = contestants[one.after]
                earlier = trained(out / one.after, sweep_of(before), seeds, [before.alpha])
            _train(run, one, sweep_of(one), earlier, settings, images)
        found[name] = run.final()
    return found


def _train(
    run: Run,
    one: Contestant,
    sweep: Sweep,
    earlier: Sequence[nnx.Module],
    settings: TrainSettings,
    images: Images,
) -> None:
    """Train a contestant over all seeds and write its results."""
    seeds = range(settings.seeds)
    start = lambda: sweep.start([n + 1 for n in seeds], [one.alpha] * settings.seeds)
    begin = lambda new, n: one.begin(new, earlier[n] if earlier else new, n + 1)
    state = train(run, sweep, images, start=start, epochs=settings.epochs, begin=begin)
    models = [sweep.model(state, n) for n in seeds]
    jsparse.report.save(models[0], run.folder)
    run.finish(**results(run, seeds), channels=[channels_left(model) for model in models])


def _sweep(
    one: Contestant,
    tx: optax.GradientTransformation,
    batch: int,
    inputs: Inputs,
    over: Callable[[Callable], Callable],
) -> Sweep:
    """The runs of a contestant."""
    wrt: Any = nnx.Param
    if one.rate != 1:
        tx = optax.chain(tx, optax.scale(one.rate))
    if one.learned_rate != 1:
        tx = optax.chain(tx, optax.masked(optax.scale(one.learned_rate), _is_learned))
    if one.revisions:
        roles = jsparse.roles(one.make(nnx.Rngs(0)))
        tx, wrt = jsparse.revise(tx, *one.revisions, roles=roles), (nnx.Param, jsparse.Mask)
        over = in_turn  # side by side, a branch that changes masks would be taken at every step
    return Sweep(one.make, tx, batch, over, one.controls, inputs, wrt)


def _is_learned(params: Any) -> Any:
    """A tree, True where rules learn."""
    variable = lambda leaf: isinstance(leaf, nnx.Variable)
    return jax.tree.map(lambda leaf: isinstance(leaf, Learned), params, is_leaf=variable)


def channels_left(model: nnx.Module) -> float:
    """Fraction of the inputs and outputs of the sparse weights that have a weight left.

    Only these need be computed with; a channel counts once as an output of its own layer and once
    as an input of the next.
    """
    held = jsparse.hold(model)  # gates are between 0 and 1
    rows = jsparse.report.structure(jsparse.masks(held), jsparse.roles(held)).rows.values()
    found = [row[kind] for row in rows for kind in ("filters", "channels")]
    total = sum(one.units for one in found)
    return sum(one.units - one.empty for one in found) / total if total else 1.0


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


def logged(out: Path) -> list[str]:
    """The folders below one that hold a complete run with a log, in order."""
    folders = (path.parent for path in out.rglob("final.json"))
    return sorted(str(f.relative_to(out)) for f in folders if (f / "log.jsonl").is_file())


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
    if pictures:
        print(f"\npicture: {', '.join(map(str, pictures))}")
    print(f"page: {page}, and page.html in the folder of each run")


def show_page(folder: Path, tables: str) -> Path:
    """Write page.html of one run, with the tables in a text; its path."""
    if tables:
        write_whole(folder / "tables.json", json.dumps(record.tables(tables)).encode())
    return jsparse.report.page(folder)
