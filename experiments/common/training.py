"""Trains a `Sweep` within a run folder: log, checkpoints, plots, final numbers."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments.common.data.sources import Images
from experiments.common.run import Run, check_finite
from experiments.common.show import Epochs, draw
from experiments.common.sweep import Runs, Sweep, Trace

EVERY = 20
"""Steps between the densities that are logged."""
TIMED = 64
"""Inputs that a trained model is timed on."""


def train(
    run: Run,
    sweep: Sweep,
    images: Images,
    *,
    start: Callable[[], Runs],
    epochs: int,
    begin: Callable[[nnx.Module, int], nnx.Module] = lambda model, run: model,
    names: Sequence[str] = (),
) -> Runs:
    """All epochs of all runs, from the last checkpoint on.

    Without a checkpoint the runs are those of `start`, each model after `begin(model, run)`.

    Each row of the log holds, for every run, the test accuracy and density after the epoch, and the
    layers' densities every 20 steps within it (every step of the first 100). Where not all runs are
    seeds of one thing, `names` says what each is; those of a name are drawn as one.

    Raises:
      Diverged: a loss, or a weight after an epoch, is not finite; the message gives step and
        densities.
    """
    x, y = jnp.asarray(images.train_x), jnp.asarray(images.train_y)
    test_x, test_y = jnp.asarray(images.test_x), jnp.asarray(images.test_y)
    done, runs = run.load(start())
    if not done:
        runs = sweep.changed(start(), begin)
        run.save(0, runs)  # so that a run lost in its first epoch keeps a good state too
    progress = Epochs(done, epochs, run.folder.name)
    for epoch in progress:
        runs, trace = sweep.epoch(runs, x, y)
        steps = trace.loss.shape[1]
        density = sweep.densities(runs)
        _stop_if_lost(run, sweep, trace, (epoch - 1) * steps)
        for which, largest in enumerate(sweep.largest(runs)):
            layers = dict(zip(sweep.layers, density[which], strict=True))
            check_finite(largest, epoch * steps - 1, layers, run, f"a weight{_of(trace, which)}")
        accuracy = sweep.accuracy(runs, test_x, test_y)
        total = sweep.total(density)
        shown = [n for n in range(steps) if n % EVERY == 0 or (epoch == 1 and n < 100)]
        seconds = progress.show(accuracy=accuracy.mean(), density=total.mean())
        run.log(
            epoch,
            accuracy=accuracy,
            density=total,
            layers=density,
            loss=trace.loss.mean(axis=1),
            steps=[(epoch - 1) * steps + n for n in shown],
            # the layers' densities of the first run only: the picture shows one
            trace=trace.density[0, shown].round(5),
            seconds=seconds,
            **({"runs": names} if names else {}),
        )
        run.save(epoch, runs)
    return runs


def _stop_if_lost(run: Run, sweep: Sweep, trace: Trace, first: int) -> None:
    lost = np.argwhere(~np.isfinite(trace.loss).T)
    for step, which in lost[:1]:
        densities = dict(zip(sweep.layers, trace.density[which, step], strict=True))
        loss, name = float(trace.loss[which, step]), f"the loss{_of(trace, which)}"
        check_finite(loss, first + int(step), densities, run, name)


def _of(trace: Trace, which: int) -> str:
    """Names the run, where there are several."""
    return f" of run {which + 1}" if len(trace.loss) > 1 else ""


def describe(run: Run, sweep: Sweep, state: Runs, images: Images) -> None:
    """Write what the first run left, and the page of all: page.html.

    What the page has no room for is in first_steps.png: the density of each layer at the start.
    """
    model = sweep.model(state, 0)
    x = sweep.inputs.test(jnp.asarray(images.test_x[:TIMED]))
    folded = jsparse.fold(model)
    forms = {"folded": folded}
    if sweep.layers:
        forms["shrunk"] = jsparse.shrink(folded, x)[0]
    jsparse.report.save(model, run.folder, x, forms=forms)
    if sweep.layers:
        first = run.rows()[0]
        early = np.array(
            [line for step, line in zip(first["steps"], first["trace"], strict=True) if step < 100]
        )
        curves = {
            name: (range(len(early)), 100 * early[:, n]) for n, name in enumerate(sweep.layers)
        }
        draw({"the first steps": curves}, run.folder / "first_steps.png", "step", "density [%]")
    jsparse.report.page(run.folder)


def results(run: Run, runs: Sequence[int]) -> dict[str, list[float]]:
    """Of the runs named by index: accuracy and density of the last epoch, and the best accuracy."""
    rows = run.rows()
    accuracy = np.array([row["accuracy"] for row in rows])[:, list(runs)]
    density = np.array([row["density"] for row in rows])[:, list(runs)]
    return {
        "accuracy": accuracy[-1].tolist(),
        "density": density[-1].tolist(),
        "best": accuracy.max(axis=0).tolist(),
        "layers": np.array(rows[-1]["layers"])[list(runs)].mean(axis=0).tolist(),
    }
