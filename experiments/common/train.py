"""Trains a `Sweep` within a run folder, and the studies of Dynamic Sparse Training with it.

In a study the dense network and the sparse ones (each alpha, or a target density) are trained over
the same seeds; a table compares the last epoch with the published figures.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments.common.run import Run, check_finite, open_run
from experiments.common.settings import StudySettings
from experiments.common.show import Epochs, draw, header, percent, table
from experiments.common.sweep import PIXELS, Inputs, Runs, Sweep, Trace, shown
from experiments.datasets.sources import Images

TIMED = 64
"""Inputs that a trained model is timed on."""


def cross_entropy(
    model: Any, batch: tuple[jax.Array, jax.Array], temperature: float = 1.0
) -> jax.Array:
    """The mean loss of a classifier whose outputs are divided by a temperature, []."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x) / temperature, y).mean()


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
    layers' densities every 20 steps within it (every step of the first 100). If not all runs are
    seeds of the same setting, `names` says what each is; those with one name are drawn as one.

    Raises:
      Diverged: a loss, or a weight after an epoch, is not finite; the message gives step and
        densities.
    """
    x, y = jnp.asarray(images.train_x), jnp.asarray(images.train_y)
    test_x, test_y = jnp.asarray(images.test_x), jnp.asarray(images.test_y)
    fresh = start()
    done, runs = run.load(fresh)
    if not done:
        runs = sweep.changed(fresh, begin)
        del fresh  # whose memory the first epoch needs
        run.save(0, runs)  # so that a run lost in its first epoch keeps a good state too
    progress = Epochs(done, epochs, run.folder.name)
    if done < epochs:
        length = f"epochs {done + 1} to {epochs} of {len(x) // sweep.batch} steps"
        header(run.folder, f"{sweep.name} on {images.name}", len(runs.step), length)
    for epoch in progress:
        runs, trace = sweep.epoch(runs, x, y, progress.within)
        steps = trace.loss.shape[1]
        density = sweep.densities(runs)
        _stop_if_lost(run, sweep, trace, (epoch - 1) * steps)
        for which, largest in enumerate(sweep.largest(runs)):
            layers = dict(zip(sweep.layers, density[which], strict=True))
            check_finite(largest, epoch * steps - 1, layers, run, f"a weight{_of(trace, which)}")
        accuracy = sweep.accuracy(runs, test_x, test_y)
        total = sweep.total(density)
        drawn = [n for n in range(steps) if shown(n, (epoch - 1) * steps)]
        seconds = progress.show(accuracy=accuracy.mean(), density=total.mean())
        run.log(
            epoch,
            accuracy=accuracy,
            density=total,
            layers=density,
            loss=trace.loss.mean(axis=1),
            steps=[(epoch - 1) * steps + n for n in drawn],
            # the layers' densities of the first run only: the picture shows one
            trace=trace.density[0, drawn].round(5),
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
    """Write the files of the first run, and the page of all: page.html.

    The density of each layer at the start is in first_steps.png, as the page has no room for it.
    """
    model = sweep.model(state, 0)
    x = sweep.inputs.test(jnp.asarray(images.test_x[:TIMED]))
    forms = {"folded": jsparse.fold(model)}
    if sweep.layers:
        forms["shrunk"] = jsparse.shrink(forms["folded"], x)[0]
        first = run.rows()[0]
        steps = [step for step in first["steps"] if step < 100]
        early = 100 * np.array(first["trace"][: len(steps)])
        curves = {name: (range(len(steps)), early[:, n]) for n, name in enumerate(sweep.layers)}
        draw({"the first steps": curves}, run.folder / "first_steps.png", "step", "density [%]")
    jsparse.report.save(model, run.folder, x, forms=forms)
    jsparse.report.page(run.folder)


def results(run: Run, runs: Sequence[int]) -> dict[str, list[float]]:
    """Of the runs named by index: accuracy and density of the last epoch, and the best accuracy."""
    rows, which = run.rows(), list(runs)
    accuracy = np.array([row["accuracy"] for row in rows])[:, which]
    return {
        "accuracy": accuracy[-1].tolist(),
        "density": np.array(rows[-1]["density"])[which].tolist(),
        "best": accuracy.max(axis=0).tolist(),
        "layers": np.array(rows[-1]["layers"])[which].mean(axis=0).tolist(),
    }


class Published(NamedTuple):
    """A row of the paper's table, in percent."""

    dense: str
    sparse: str
    density: str


def study(
    settings: StudySettings,
    make: Callable[[nnx.Rngs], nnx.Module],
    pattern: str,
    tx: optax.GradientTransformation,
    images: Images,
    published: Sequence[Published],
    over: Callable[[Callable], Callable],
    inputs: Inputs = PIXELS,
) -> dict[str, dict]:
    """Train, plot and print.

    Args:
      make: the dense network.
      pattern: of the paths of the weights that become sparse.
      published: the paper's figures, of one dense network; may be empty.
      over: how runs share a program: `side_by_side`, `in_turn` or `over_devices`.

    Returns:
      Over the seeds, of each alpha (in "%g" format) and of "dense", where it was trained: accuracy
      and density of the last epoch and the best accuracy; and the mean density of each layer.
    """
    settings.check_batch(images)
    out = Path(settings.out)
    lines = [["published", "dense", "", one.dense, ""] for one in published[:1]]
    found: dict[str, dict] = {}
    run = open_run(out / "sparse", settings, dataset=images.name)  # refused before hours of dense
    dense_sweep, sweep = sweeps(settings, make, pattern, tx, images, over, inputs)
    dense_run = None
    if settings.dense:
        dense = dataclasses.replace(settings, alphas=(0.0,), density=1.0)
        dense_run = open_run(out / "dense", dense, dataset=images.name)
        found["dense"] = finish(dense_run, dense_sweep, images, settings, [0.0])["0"]
        lines.append(_line("here", "dense", found["dense"]))
    final = finish(run, sweep, images, settings, settings.alphas)
    lines += [["published", "sparse", one.density, one.sparse, ""] for one in published]
    for alpha in settings.alphas:
        what = f"alpha {alpha:g}" if settings.density == 1 else f"target {settings.density:.1%}"
        lines.append(_line("here", what, final[f"{alpha:g}"]))
    print(f"{images.name}, {settings.extent}, last epoch (test data):\n")
    print(table(["", "network", "density [%]", "accuracy [%]", "best epoch [%]"], lines))
    for alpha in settings.alphas:
        layers = dict(zip(sweep.layers, final[f"{alpha:g}"]["layers"], strict=True))
        kept = ", ".join(f"{name} {density:.2%}" for name, density in layers.items())
        print(f"\nlayers at alpha {alpha:g}: {kept}")
    if dense_run is not None:
        print(_speed(dense_run, run, len(settings.alphas)))
    folders = [out / name for name in ("dense", "sparse")[not settings.dense :]]
    print(f"\npage: {run.folder / 'page.html'}")
    print(f"compared: {jsparse.report.compare(folders, out / 'compare.html')}")
    return found | final


def sweeps(
    settings: StudySettings,
    make: Callable[[nnx.Rngs], nnx.Module],
    pattern: str,
    tx: optax.GradientTransformation,
    images: Images,
    over: Callable[[Callable], Callable],
    inputs: Inputs = PIXELS,
) -> tuple[Sweep, Sweep]:
    """Of the dense network and of the sparse one; the arguments are those of `study`."""

    def sparse(rngs: nnx.Rngs) -> nnx.Module:
        return jsparse.sparsify(make(rngs), (pattern, jsparse.Threshold(alpha=settings.alphas[0])))

    controls = []
    if settings.density < 1:
        steps = settings.epochs * (len(images.train_x) // settings.batch)
        controls = [jsparse.TargetDensity(density=settings.density, steps=steps)]
    dense = Sweep(make, tx, settings.batch, over, inputs=inputs)
    return dense, Sweep(sparse, tx, settings.batch, over, controls, inputs)


def trained(
    folder: Path, sweep: Sweep, seeds: Sequence[int], alphas: Sequence[float]
) -> list[nnx.Module]:
    """The models of a run folder in which these seeds of each alpha were trained.

    Raises:
      FileNotFoundError: the run is not complete.
    """
    run = Run(folder=folder)
    run.final()
    _, state, _ = run.checkpoints.restore(sweep.start(*_pairs(seeds, alphas)))
    return [sweep.model(state, n) for n in range(len(state.step))]


def _pairs(seeds: Sequence[int], alphas: Sequence[float]) -> tuple[list[int], list[float]]:
    """The seed and the alpha of each run."""
    return [seed for _ in alphas for seed in seeds], [alpha for alpha in alphas for _ in seeds]


def _speed(dense: Run, sparse: Run, alphas: int) -> str:
    """How long epochs took: the median without the first, which compiles."""
    seconds = [[row["seconds"] for row in run.rows()[1:]] for run in (dense, sparse)]
    if not all(seconds):
        return "\nthe time of an epoch is known from the second one on"
    dense_s, sparse_s = (float(np.median(some)) for some in seconds)
    sparse_s /= alphas
    return (
        f"\nan epoch took {dense_s:.2f} s dense and {sparse_s:.2f} s sparse"
        f"{' for each alpha' if alphas > 1 else ''}: {sparse_s / dense_s:.2f} times as long"
    )


def finish(
    run: Run,
    sweep: Sweep,
    images: Images,
    settings: StudySettings,
    alphas: Sequence[float],
) -> dict:
    """Train to the end unless finished, write the page and the final numbers."""
    if run.complete:
        return run.final()
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    pairs = _pairs(seeds, alphas)
    start = lambda: sweep.start(*pairs)
    names = [f"alpha {alpha:g}" for alpha in pairs[1]] if len(alphas) > 1 else []
    state = train(run, sweep, images, start=start, epochs=settings.epochs, names=names)
    numbers = {}
    for n, alpha in enumerate(alphas):
        which = range(n * settings.seeds, (n + 1) * settings.seeds)
        numbers[f"{alpha:g}"] = results(run, which)
    describe(run, sweep, state, images)
    run.finish(**numbers)
    return numbers


def _line(source: str, what: str, numbers: dict) -> list[str]:
    density = percent(numbers["density"]) if min(numbers["density"]) < 1 else ""
    return [source, what, density, percent(numbers["accuracy"]), percent(numbers["best"])]
