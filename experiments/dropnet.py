"""DropNet: whole units and filters dropped in rounds, by their mean activation.

Claim (the paper's): dropping units with the lowest mean activation keeps the accuracy longest,
    dropping those with the highest loses it first; by layer is safer than over the whole network
    where layers are wide.

Paper: Tan and Motani, DropNet: reducing neural network complexity via iterative pruning, ICML 2020;
    the figures of Model C on CIFAR-10 are those that the authors' repository keeps (15 seeds). Here
    the last tenth of the training images stops the training early; theirs were drawn. A layer that
    loses its last unit ends a method's rounds here; theirs continue at chance.

Number (--quick, 2 seeds, 2000 images): too small to show more than that maximum over the whole
    network fails first. Model A, 81.88 with all units, has at 21.6 % by minimum 74.83, random
    75.73, APoZ 78.30, maximum 41.50 (by layer 76.60, 74.98, 78.25, 75.33). B narrowed by 8 has at
    37.5 % by minimum 86.70 ± 0.78, random 82.28 ± 7.39. Model C was not run at the paper's setting.

Command: python -m experiments.dropnet            (a GPU; models A, B and C, 8 methods, 15 seeds)
         python -m experiments.dropnet --quick    (two cores, two minutes: A and a narrow B)
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from jsparse.prune import APoZ, Folder, Maximum, Minimum, RandomUnits, Round

Name = Literal["minimum", "maximum", "random", "APoZ"]
Model = Literal["A", "B", "C"]
EVERY: tuple[Name, ...] = ("minimum", "maximum", "random", "APoZ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.TrainSettings):
    """The defaults are the paper's."""

    models: tuple[Model, ...] = ("A", "B", "C")
    """A: dense 40-40, B: convolutions 64-64, both on MNIST; C: 64-64-128-128 on CIFAR-10."""
    methods: tuple[Name, ...] = EVERY
    """Each over the whole network and by layer."""
    methods_of_convolutions: tuple[Name, ...] = EVERY
    """Of these, for models B and C."""
    narrow: int = 1
    """Divide the filters of B and C by this."""
    seeds: int = 15
    epochs: int = 100
    """At most; less if the loss of the held-out images does not fall."""
    patience: int = 5
    """Epochs without a lower loss before a training ends."""
    batch: int = 32
    learning_rate: float = 0.1
    """Of SGD."""
    kept: float = 0.8
    """Fraction of the remaining units that each round keeps."""
    rounds: int = 11
    samples: int = 60_000
    """Number of images to use, the first ones; one tenth of them is held out."""
    test_samples: int = 10_000
    """Number of test images to use, the first ones."""
    quick: bool = False
    """Model A and a narrow B, few images, seeds and rounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        jsparse.prune.each_round(self.kept, self.rounds)
        if self.patience < 1 or self.narrow < 1 or self.samples < 10:
            raise ValueError(
                f"--patience and --narrow are 1 or more, --samples 10 or more; got {self.patience}"
                f", {self.narrow} and {self.samples}"
            )


QUICK = Settings(
    models=("A", "B"),
    methods_of_convolutions=("minimum", "random"),
    narrow=8,
    seeds=2,
    epochs=6,
    batch=20,
    kept=0.6,
    rounds=3,
    samples=2000,
    test_samples=2000,
    quick=True,
)
WHOLE, LAYER = "whole network", "by layer"
# Model C, 64-64-128-128 filters: test accuracy in percent, round by round.
PUBLISHED = {
    ("minimum", WHOLE): (66.6, 65.9, 65.0, 63.7, 62.0, 60.5, 57.0, 51.8, 49.7, 46.9, 32.4, 26.6),
    ("random", WHOLE): (67.2, 65.6, 65.3, 63.5, 61.7, 60.5, 58.5, 56.1, 41.6, 24.3, 15.1, 12.6),
    ("maximum", WHOLE): (66.7, 65.8, 64.3, 64.6, 62.6, 44.9, 15.5, 10, 10, 10, 10, 10),
    ("minimum", LAYER): (66.8, 65.9, 64.5, 64.5, 63.0, 62.1, 60.7, 58.0, 57.4, 55.8, 51.7, 52.6),
    ("random", LAYER): (66.4, 65.7, 64.8, 64.0, 63.1, 61.0, 60.6, 58.2, 52.3, 48.5, 27.1, 28.9),
    ("maximum", LAYER): (67.1, 65.9, 65.2, 63.5, 62.1, 60.8, 59.3, 47.3, 19.4, 10, 10, 10),
}
LEFT = {
    WHOLE: (1.00, 0.80, 0.64, 0.52, 0.41, 0.33, 0.27, 0.22, 0.17, 0.14, 0.115, 0.094),
    LAYER: (1.00, 0.81, 0.65, 0.53, 0.43, 0.35, 0.29, 0.23, 0.19, 0.16, 0.13, 0.109),
}
"""Fraction of the units left in each of their rounds."""


class Dense(nnx.Module):
    """Model A: 784-40-40-10."""

    layers = ("fc1", "fc2")

    def __init__(self, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
        self.fc1, self.fc2, self.out = linear(784, 40), linear(40, 40), linear(40, 10)

    def __call__(self, x: Array) -> Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.out(nnx.relu(self.fc2(x)))


class Convolutions(nnx.Module):
    """Models B and C: 3x3 convolutions, each with a ReLU and a pool, then dense layers.

    Args:
      shape: of an image, [side, side, channels].
      filters: of each convolution.
      dense: units between the last pool and the output.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        filters: tuple[int, ...],
        dense: tuple[int, ...],
        rngs: nnx.Rngs,
    ):
        start = nnx.initializers.glorot_uniform()
        self.shape = shape
        self.layers = tuple(f"conv{n}" for n, _ in enumerate(filters, start=1))
        side, _, inputs = shape
        for name, width in zip(self.layers, filters, strict=True):
            how = {"conv_general_dilated": networks.convolution(), "kernel_init": start}
            setattr(self, name, nnx.Conv(inputs, width, (3, 3), rngs=rngs, **how))
            side, inputs = side // 2, width
        widths = (side * side * inputs, *dense, 10)
        self.heads = tuple(f"head{n}" for n, _ in enumerate(widths[1:], start=1))
        for n, name in enumerate(self.heads):
            setattr(self, name, nnx.Linear(*widths[n : n + 2], kernel_init=start, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        """Images [n, side, side] or [n, side, side, channels] to logits [n, 10]."""
        x = x.reshape(len(x), *self.shape)
        for name in self.layers:
            x = getattr(self, name)(x)
            side = 2 * (x.shape[1] // 2)
            x = nnx.relu(networks.max_pool(x[:, :side, :side]))  # as pooling the ReLU
        x = x.reshape(len(x), -1)
        for name in self.heads[:-1]:
            x = nnx.relu(getattr(self, name)(x))
        return getattr(self, self.heads[-1])(x)


def network(model: Model, narrow: int) -> Callable[[nnx.Rngs], nnx.Module]:
    """How a model is built."""
    few = lambda *filters: tuple(max(1, n // narrow) for n in filters)
    if model == "A":
        return Dense
    if model == "B":
        return lambda rngs: Convolutions((28, 28, 1), few(64, 64), (), rngs)
    return lambda rngs: Convolutions((32, 32, 3), few(64, 64, 128, 128), (256,), rngs)


def reading(layers: tuple[str, ...]) -> Callable[[common.Seeds, Array], dict[str, Array]]:
    """Activations of all seeds, by path."""
    one = jsparse.prune.activations(nnx.relu, *layers)

    @nnx.jit
    def activations(model: common.Seeds, batch: Array) -> dict[str, Array]:
        x = common.to_float(batch)
        nets = common.networks(model)
        return {f"seed{n}/{p}": a for n, net in enumerate(nets) for p, a in one(net, x).items()}

    return activations


def train(
    model: common.Seeds,
    round: Round,
    *,
    settings: Settings,
    training: common.SeedTraining,
    held_out: tuple[Array, Array],
) -> common.Seeds:
    """Plain SGD in a fixed order; each seed until its loss on the held-out images no longer
    falls."""
    params, rest = training.start(model)
    seeds = len(common.networks(model))
    best, waited = np.full(seeds, np.inf), np.zeros(seeds)
    order = training.in_order(seeds)
    for _ in range(settings.epochs):
        going = waited < settings.patience
        if not going.any():
            break
        rates = settings.learning_rate * going  # a seed at rest has the rate 0
        rates = jnp.broadcast_to(jnp.float32(rates)[:, None], (seeds, training.steps))
        params, _ = training.epoch(params, rest, rates, order)
        _, loss = training.judge(params, rest, *held_out)
        waited = np.where(loss < best, 0, waited + 1)
        best = np.minimum(best, loss)
    return training.put(model, params)


def dropped(
    model: Model,
    name: Name,
    scope: str,
    settings: Settings,
    training: common.SeedTraining,
    images: datasets.Images,
    held_out: tuple[Array, Array],
) -> dict[str, Any]:
    """Accuracies of each round and seed, and the units left; from the run folder if it is done."""
    method = f"{model}, {name}, {scope}"
    folder = Path(settings.out) / method
    run = common.open_run(folder, settings, dataset=images.name, method=method)
    if run.complete:
        return run.final()
    make = network(model, settings.narrow)
    layers = make(nnx.Rngs(0)).layers
    start = common.build(make, settings.seeds)
    pattern = f".*/({'|'.join(layers)})/(kernel|bias)"
    start = jsparse.sparsify(start, (pattern, jsparse.Held()))
    kinds = {"minimum": Minimum, "maximum": Maximum, "APoZ": APoZ}
    batches = [training.x[n : n + 1000] for n in range(0, len(training.x), 1000)]
    score = kinds[name](reading(layers), batches) if name in kinds else RandomUnits(settings.seeds)
    choose = jsparse.prune.globally if scope == WHOLE else jsparse.prune.by_layer()
    rounds = jsparse.prune.dropnet(
        start,
        partial(train, settings=settings, training=training, held_out=held_out),
        score,
        jsparse.prune.each_round(settings.kept, settings.rounds),
        choose=common.per_seed(choose),
        keep=Folder(folder / "rounds"),
    )
    left, accuracies, end = [], [], ""
    run.forget_after(0)  # finished rounds are read from their files
    common.header(folder, f"Model {model}", settings.seeds, f"{settings.rounds + 1} rounds")
    progress = common.Epochs(0, settings.rounds + 1, method, "round")
    try:
        for _, (round, net) in zip(progress, rounds, strict=False):
            left.append(units_left(net))
            accuracies.append(training.accuracy(net, images.test_x, images.test_y))
            run.log(round.number, accuracy=accuracies[-1], density=[left[-1]] * settings.seeds)
            progress.show(accuracy=np.mean(accuracies[-1]), density=left[-1])
    except ValueError as error:
        if "layer collapse" not in str(error):
            raise
        end = str(error)
        print(f"{method}: {end}", file=sys.stderr, flush=True)
    run.finish(left=left, accuracies=accuracies, end=end)
    return run.final()


def units_left(model: common.Seeds) -> float:
    """Fraction of all units that are left, read from the biases."""
    masks = [np.asarray(m) for path, m in jsparse.masks(model).items() if path.endswith("bias")]
    return float(sum(m.sum() for m in masks) / sum(m.size for m in masks))


def study(model: Model, settings: Settings) -> dict[str, dict]:
    """All methods on a model: prints its table; the curves of each panel of the picture."""
    images = (datasets.cifar10 if model == "C" else datasets.mnist)(settings.data)
    images = datasets.first_samples(images, settings.samples)
    images = datasets.first_tests(images, settings.test_samples)
    settings.check_batch(images)
    rest = len(images.train_x) - len(images.train_x) // 10
    held_out = (jnp.asarray(images.train_x[rest:]), jnp.asarray(images.train_y[rest:]))
    part = dataclasses.replace(images, train_x=images.train_x[:rest], train_y=images.train_y[:rest])
    over = common.side_by_side if model == "A" else common.turns_on_cpu()
    training = common.SeedTraining(part, settings.batch, over=over)
    panels: dict[str, dict] = {}
    rows = []
    densities = (1.0, *jsparse.prune.each_round(settings.kept, settings.rounds))
    for scope in (WHOLE, LAYER):
        names = settings.methods if model == "A" else settings.methods_of_convolutions
        for name in names:
            found = dropped(model, name, scope, settings, training, images, held_out)
            curves = panels.setdefault(f"Model {model}, {scope}", {})
            curves[name] = tuple(100 * np.array(found[key]) for key in ("left", "accuracies"))
            cells = [common.percent(one) for one in found["accuracies"]]
            cells += ["a layer is lost"] * (len(densities) - len(cells))
            rows.append([f"{name}, {scope}", *cells])
            if model == "C" and (name, scope) in PUBLISHED:
                known = PUBLISHED[name, scope]
                curves[f"{name}, published"] = (100 * np.array(LEFT[scope]), known)
                rows.append(["  published", *_nearest(densities, LEFT[scope], known)])
    seeds = common.counted(settings.seeds, "seed")
    what = seeds if model == "A" else f"{seeds}, filters / {settings.narrow}"
    tested = f"accuracy [%] on {len(images.test_x)} test images"
    print(f"\nModel {model}, {images.name}, {what}: {tested}")
    print(common.table(["by units left", *(f"{100 * d:.3g} %" for d in densities)], rows))
    return panels


def _nearest(wanted: tuple, left: tuple, known: tuple) -> list[str]:
    """The published figure within a tenth of each density, or nothing."""
    places = [int(np.argmin([abs(np.log(d / one)) for one in left])) for d in wanted]
    near = [abs(np.log(d / left[n])) < 0.1 for d, n in zip(wanted, places, strict=True)]
    return [f"{known[n]:.1f}" if ok else "" for n, ok in zip(places, near, strict=True)]


def main(settings: Settings) -> None:
    """Drop units in all ways, print the tables and draw the picture."""
    name = "quick" if settings.quick else "paper"
    settings = dataclasses.replace(settings, out=settings.out or f"runs/dropnet/{name}")
    panels: dict[str, dict] = {}
    for model in settings.models:
        panels |= study(model, settings)
    path = Path(settings.out) / "dropnet.png"
    common.draw(panels, path, "units left [%]", "test accuracy [%]", log="x", columns=2)
    common.show_pages(common.logged(path.parent), path.parent, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
