"""A whole frontier of accuracy and density in one program: several alphas and seeds side by side.

Claim: K alphas x S seeds of a network train in one compiled program, split over the devices where
    there are several: by `vmap` on accelerators, in turn on a CPU, where that is faster.

Command: python -m experiments.frontier
         python -m experiments.frontier --network lenet-5      (slow on a CPU; fast on a GPU)
         python -m experiments.frontier --quick                (two cores, a minute)

The recipe is that of Dynamic Sparse Training (Liu et al., ICLR 2020), whose alpha says how hard
thresholds are pushed up. It writes what `dst_mnist` writes, and a picture, frontier.png.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks

STEPS, ROUNDS = 100, 3
"""What is timed: the number of steps at a time, and how often."""
KERNELS = ".*/kernel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.StudySettings):
    """The defaults are the paper's recipe at five strengths of the regularizer."""

    network: Literal["lenet-300-100", "lenet-5", "mlp"] = "lenet-300-100"
    """The MLP has three layers of 512."""
    alphas: tuple[float, ...] = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
    seeds: int = 3
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 0.01
    """Of SGD with momentum 0.9."""
    decay: float = 0.3
    samples: int = 60_000
    """Number of training images to use, the first ones."""
    quick: bool = False
    """Three alphas on a part of the data."""


QUICK = Settings(alphas=(5e-4, 2e-3, 8e-3), seeds=2, epochs=5, samples=6_000, quick=True)


def mlp(rngs: nnx.Rngs) -> nnx.Module:
    """Images [n, 28, 28] to logits [n, 10] by three layers of 512 with ReLU."""
    sizes = itertools.pairwise((784, 512, 512, 512, 10))
    layers = [nnx.Linear(n, m, rngs=rngs, **networks.torch_init(n)) for n, m in sizes]
    inner = [step for layer in layers[:-1] for step in (layer, nnx.relu)]
    return nnx.Sequential(lambda x: x.reshape(len(x), -1), *inner, layers[-1])


NETWORKS = {"lenet-300-100": networks.LeNet300, "lenet-5": networks.LeNet5, "mlp": mlp}


def seconds(
    settings: Settings,
    tx: optax.GradientTransformation,
    images: datasets.Images,
    over: Callable[[Callable], Callable],
) -> dict[str, float]:
    """Of some steps of all runs in one program, and of one run alone: medians, taken in turn."""

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return jsparse.sparsify(NETWORKS[settings.network](rngs), (KERNELS, jsparse.Threshold()))

    count = settings.batch * min(STEPS, len(images.train_x) // settings.batch)
    x, y = jnp.asarray(images.train_x[:count]), jnp.asarray(images.train_y[:count])
    alphas = [alpha for alpha in settings.alphas for _ in range(settings.seeds)]
    programs = {
        "all": (common.Sweep(make, tx, settings.batch, common.over_devices(over)), alphas),
        "one": (common.Sweep(make, tx, settings.batch, over), alphas[:1]),
    }
    states = {n: sweep.start(range(len(of)), of) for n, (sweep, of) in programs.items()}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _, (name, (sweep, _)) in itertools.product(range(1 + ROUNDS), programs.items()):
        start = time.perf_counter()
        states[name], _ = sweep.epoch(states[name], x, y)  # with numbers on the host: it is done
        taken[name].append(time.perf_counter() - start)
    return {
        name: float(np.median(times[1:])) for name, times in taken.items()
    }  # the first compiles


def plot(found: Mapping[str, dict], settings: Settings, path: Path) -> None:
    """Accuracy against density: means and bars of one deviation, a mark for each alpha."""
    points = sorted((np.mean(found[f"{a:g}"]["density"]), a) for a in settings.alphas)
    x = [100 * density for density, _ in points]
    y = [100 * np.array(found[f"{alpha:g}"]["accuracy"]) for _, alpha in points]
    dense = 100 * float(np.mean(found["dense"]["accuracy"])) if settings.dense else None
    name = f"alpha {', '.join(f'{alpha:g}' for _, alpha in points)}"
    title = f"{settings.network}, {settings.extent}"
    labels = ("density [%]", "test accuracy [%]")
    common.draw({title: {name: (x, y)}}, path, *labels, log="x", level=dense)


def main(settings: Settings) -> None:
    """Train, time, draw and print."""
    images = datasets.first_samples(datasets.mnist(settings.data), settings.samples)
    settings.check_batch(images)
    out = Path(settings.out or f"runs/frontier/{settings.network}{'/quick' * settings.quick}")
    run = common.open_run(out, settings, dataset=images.name)
    tx = optax.sgd(common.learning_rate(settings, len(images.train_x)), momentum=0.9)
    over = common.turns_on_cpu()  # many runs side by side are slower on a CPU
    found = common.study(
        dataclasses.replace(settings, out=str(out)),
        NETWORKS[settings.network],
        KERNELS,
        tx,
        images,
        [],
        common.over_devices(over),
    )
    if not run.complete:
        plot(found, settings, out / "frontier.png")
        run.finish(found=found, seconds=seconds(settings, tx, images, over))
    taken, runs = run.final()["seconds"], len(settings.alphas) * settings.seeds
    times, devices = taken["all"] / taken["one"], min(runs, jax.local_device_count())
    what = f"{runs} runs in one program on {devices} device{'s' * (devices > 1)}"
    print(
        f"frontier: {out / 'frontier.png'}\n\n{what} take {taken['all']:.2f} s where one run takes "
        f"{taken['one']:.2f} s: {times:.2f} times one run, {times / runs:.2f} of one after another"
    )


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
