"""Modules that choose what they read: does it help on images unlike those trained on?

Claim (the paper's): sparse attention over the results of earlier modules and passes generalizes
    better outside the training domain.

Paper: Lamb et al., Neural Function Modules with Sparse Arguments, AISTATS 2021. It has no public
    code, and no figure of it could be checked, so none is printed for comparison. A negative result
    is a result.

Our choices: three modules of one layer each between an input layer and a head, on MNIST
    upright, tested on rotated and occluded images. Arms: plain; wider, with as many parameters as
    those that read; two passes whose second starts with the first one's result added, without
    reading; two passes that read all results; two that read the top 2. "sparse" keeps a fifth of
    all kernels except the head's, with fixed random masks. A difference counts if it exceeds two
    standard errors.

Number (5 seeds): no gain is seen. Top 2 has 92.7 upright, 85.6, 61.9 and 35.1 at 15, 30 and 45
    degrees and 53.9 occluded; plain 93.3, 85.2, 61.6, 34.3 and 53.1; wider, with as many
    parameters, 93.9, 87.3, 63.8, 36.6 and 56.1, better than top 2 beyond two standard errors
    upright, at 15 degrees and occluded. Seeds differ by up to 3 points.

Command: python -m experiments.function_modules            (10,000 images, 5 seeds; 3 minutes)
         python -m experiments.function_modules --quick    (3,000 images, 2 seeds; 2 minutes)
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets
from experiments.common.show import COLORS
from experiments.common.train import results
from experiments.networks.modules import modules
from jsparse.layers import Recall


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The networks and their training."""

    width: int = 64
    """Of the modules."""
    top: int = 2
    """Number of results that a head reads."""
    density: float = 0.2
    """Of the kernels of the sparse arms."""
    seeds: int = 5
    epochs: int = 12
    batch: int = 100
    learning_rate: float = 2e-3
    """Of Adam."""
    samples: int = 10_000
    tested: int = 5000
    """Number of test images to use, the first ones."""
    quick: bool = False
    """Fewer images and seeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("width", "top", "samples", "tested")
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")


QUICK = Settings(seeds=2, epochs=8, samples=3000, tested=2000, quick=True)
MODULES = 3
EVERYTHING = 2 * MODULES
ANGLES = (15, 30, 45)
OCCLUDED = 12
"""Side of the black square."""
PLAIN, WIDER, TOP = "plain", "wider", "top"


class Net(nnx.Module):
    """An input layer, modules that may read earlier results, and a head.

    Args:
      width: of all layers.
      passes: through the modules.
      top: results that each head reads; 0 for modules that read nothing.
      rngs: for the initial weights.
    """

    def __init__(self, width: int, passes: int, top: int, rngs: nnx.Rngs):
        self.passes, self.reads = passes, top > 0
        self.inputs = nnx.Linear(784, width, rngs=rngs)
        self.parts = modules([nnx.Linear(width, width, rngs=rngs) for _ in range(MODULES)])
        self.head = nnx.Linear(width, 10, rngs=rngs)
        if top:
            made = [Recall(width, top=top, rngs=rngs) for _ in range(MODULES)]
            self.recalls = modules(made)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        return self.run(x)[0]

    def run(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Logits, and what each module read of each stored result, [passes * modules][stored]."""
        first = nnx.relu(self.inputs(x.reshape(len(x), -1)))
        h, memory, read = first, [], []
        for number in range(self.passes):
            h = first if self.reads or not number else first + h
            for n, part in enumerate(self.parts):
                if self.reads:
                    if memory:
                        weights = self.recalls[n].weights(h, memory)
                        read.append(weights.mean(axis=tuple(range(1, weights.ndim))))
                    else:
                        read.append(jnp.zeros(0))
                    h = self.recalls[n](h, memory)
                h = nnx.relu(part(h))
                memory.append(h)
        return self.head(h), read


def parameters(make: Callable[[nnx.Rngs], nnx.Module]) -> int:
    """Counted without building the network."""
    model: Any = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def arms(settings: Settings) -> dict[str, Callable[[nnx.Rngs], nnx.Module]]:
    """The arms, by name."""
    width = settings.width
    reading = partial(Net, width, 2, settings.top)
    wide = width
    most = parameters(reading)
    while 784 * (wide + 1) + MODULES * (wide + 1) ** 2 + (MODULES + 11) * (wide + 1) + 10 <= most:
        wide += 1
    dense = {
        PLAIN: partial(Net, width, 1, 0),
        f"{WIDER}, {wide}": partial(Net, wide, 1, 0),
        "two passes": partial(Net, width, 2, 0),
        "all read": partial(Net, width, 2, EVERYTHING),
        f"{TOP} {settings.top}": reading,
    }
    sparse = lambda make, rngs: jsparse.sparsify(
        make(rngs), ("(inputs|parts|recalls)/.*kernel", jsparse.Held())
    )
    chosen = [PLAIN, f"{TOP} {settings.top}"]
    return dense | {f"{name}, sparse": partial(sparse, dense[name]) for name in chosen}


def shifted(images: np.ndarray) -> dict[str, np.ndarray]:
    """The test images, and what was done to them; uint8 [n, 28, 28] all."""
    from scipy.ndimage import rotate

    turned = {
        f"{angle}°": rotate(images, angle, axes=(2, 1), reshape=False, order=1) for angle in ANGLES
    }
    hidden, random = images.copy(), np.random.default_rng(0)
    side = images.shape[1]
    for image, (y, x) in zip(
        hidden, random.integers(0, side - OCCLUDED, (len(images), 2)), strict=True
    ):
        image[y : y + OCCLUDED, x : x + OCCLUDED] = 0
    return {"upright": images, **turned, "occluded": hidden}


def trained(name: str, make: Callable, settings: Settings, images: datasets.Images) -> dict:
    """Accuracies by kind of test image and seed; from the run folder if it is done."""
    folder = Path(settings.out) / name
    run = common.open_run(folder, settings, dataset=images.name, arm=name)
    if run.complete:
        return run.final()
    sweep = common.Sweep(
        make, optax.adam(settings.learning_rate), settings.batch, common.side_by_side
    )

    def begin(model: nnx.Module, seed: int) -> nnx.Module:
        if not jsparse.masks(model):
            return model
        key = jax.random.key(seed)
        return jsparse.prune.random(model, density=settings.density, key=key)

    start = lambda: sweep.start(range(1, settings.seeds + 1), [0.0] * settings.seeds)
    state = common.train(run, sweep, images, start=start, epochs=settings.epochs, begin=begin)
    y = jnp.asarray(images.test_y)
    tests = shifted(images.test_x)
    found = {kind: sweep.accuracy(state, jnp.asarray(x), y).tolist() for kind, x in tests.items()}
    read = []
    if TOP in name:
        model = sweep.model(state, 0)
        weights = model.run(common.to_float(jnp.asarray(images.test_x[:500])))[1]
        read = [np.asarray(row).tolist() for row in weights]
    density = results(run, range(settings.seeds))["density"]
    run.finish(accuracy=found, read=read, parameters=parameters(make), density=density)
    return run.final()


def verdict(ours: list[float], other: list[float]) -> str:
    """The mean difference in points, and its sign where it is beyond two standard errors."""
    apart = 100 * (np.array(ours) - np.array(other))  # the same seeds
    if len(apart) < 3:
        return f"{apart.mean():+.2f} (too few seeds)"
    error = apart.std(ddof=1) / len(apart) ** 0.5
    sign = (
        "better" if apart.mean() > 2 * error else "worse" if apart.mean() < -2 * error else "even"
    )
    return f"{apart.mean():+.2f} ± {error:.2f}, {sign}"


def draw_reading(read: list[list[float]], path: Path) -> None:
    """Which module reads which: a row for each reader, a column for each stored result."""
    from matplotlib.figure import Figure

    names = [f"pass {p + 1}, module {n + 1}" for p in range(2) for n in range(MODULES)]
    table = np.full((len(names), len(names) - 1), np.nan)  # nothing reads the last result
    for n, row in enumerate(read):
        table[n, : len(row)] = row
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for n, row in enumerate(read):
        for m, value in enumerate(row):
            color = "white" if value > 0.6 else "black"
            axes.text(m, n, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(names) - 1), names[:-1], rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="result", ylabel="reader", title="How much each module reads of each result")
    figure.colorbar(image, label="mean attention")
    common.save(figure, path)


def draw_shifts(found: dict[str, dict], path: Path) -> None:
    """Accuracy of each arm by kind of test image, a group of bars for each kind."""
    from matplotlib.figure import Figure

    kinds = list(found[PLAIN]["accuracy"])
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    wide = 0.85 / len(found)
    for n, (name, one) in enumerate(found.items()):
        values = 100 * np.array([one["accuracy"][kind] for kind in kinds])  # [kinds, seeds]
        spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        places = np.arange(len(kinds)) + (n - (len(found) - 1) / 2) * wide
        color = COLORS[n % len(COLORS)]
        axes.bar(places, values.mean(axis=1), wide, yerr=spread, label=name, color=color)
    axes.set_xticks(range(len(kinds)), kinds)
    title = "Mean over the seeds, ± one deviation"
    axes.set(xlabel="test images", ylabel="accuracy [%]", ylim=(0, 100), title=title)
    axes.legend(ncols=2, fontsize=9)
    common.save(figure, path)


def main(settings: Settings) -> None:
    """Train all arms, print the tables and draw the pictures."""
    images = settings.images(datasets.mnist)
    images = datasets.first_tests(images, settings.tested)
    size = "quick" if settings.quick else "study"
    settings, folder = settings.in_folder(f"runs/function_modules/{size}")
    found = {name: trained(name, make, settings, images) for name, make in arms(settings).items()}
    kinds = list(found[PLAIN]["accuracy"])
    rows = [
        [name, f"{one['parameters']:,}", *(common.percent(one["accuracy"][k]) for k in kinds)]
        for name, one in found.items()
    ]
    print(f"\n{images.name}, {settings.extent}, {len(images.test_y)} test images, accuracy [%]:\n")
    print(common.table(["arm", "parameters", *kinds], rows))
    reading, wider = (next(n for n in found if n.startswith(one)) for one in (TOP, WIDER))
    rows = [
        [f"{reading} - {other}"]
        + [verdict(found[reading]["accuracy"][k], found[other]["accuracy"][k]) for k in kinds]
        for other in (PLAIN, wider, "two passes", "all read")
    ]
    print("\nDifferences in points, ± standard error over seeds:\n")
    print(common.table(["", *kinds], rows))
    used = [
        np.mean(np.array(row) > 0.05) * len(row) if row else 0 for row in found[reading]["read"]
    ]
    print(
        "\nResults that get over 5 % of a module's attention:", ", ".join(f"{n:.0f}" for n in used)
    )
    draw_reading(found[reading]["read"], folder / "reading.png")
    draw_shifts(found, folder / "shifts.png")
    common.show_pages(list(found), folder, folder / "reading.png", folder / "shifts.png")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
