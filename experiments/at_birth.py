"""Pruning at initialization: SNIP, GraSP and SynFlow against magnitude and random masks.

Claim (the papers'): masks chosen by gradients or paths at the start beat random ones, and SynFlow,
    which needs no data, never cuts the network in two, however few weights are left. The quick
    setting shows it for SNIP, and from 5 % down for SynFlow; GraSP stays near random masks, and
    magnitude loses a layer at 2 %.

Papers: Lee et al., SNIP, ICLR 2019; Wang et al., GraSP, ICLR 2020; Tanaka et al., SynFlow, NeurIPS
    2020, whose figure 6 has these five methods on VGG and ResNet. At 1 % of VGG-16 on CIFAR-10 it
    has random 79.1, magnitude 89.8, SNIP 89.2, GraSP 87.5, SynFlow 90.1, dense 93.5. None has these
    networks, so the table has no published figure. Random masks have ERK's densities.

Command: python -m experiments.at_birth                       (LeNet-300-100 on MNIST)
         python -m experiments.at_birth --network small       (a small conv net on CIFAR-10)
         python -m experiments.at_birth --quick               (two cores: a part of MNIST)

Number: with --quick at 2 % of the weights, 3 seeds: random 77.25, SNIP 83.51, GraSP 79.47, SynFlow
    84.88, dense 92.97 %.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse import prune

Name = Literal["random", "magnitude", "SNIP", "GraSP", "SynFlow"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """All densities and seeds of a method are trained in one program."""

    network: Literal["lenet-300-100", "small"] = "lenet-300-100"
    """The first is for MNIST, the small convolutional one for CIFAR-10."""
    methods: tuple[Name, ...] = ("random", "magnitude", "SNIP", "GraSP", "SynFlow")
    """Which to train."""
    densities: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02, 0.01)
    """Of all kernels together."""
    rounds: int = 100
    """Of SynFlow."""
    batches: int = 10
    """Batches that SNIP and GraSP read, each of `batch` images, different ones for each seed."""
    seeds: int = 3
    epochs: int = 20
    batch: int = 100
    learning_rate: float = 1.2e-3
    """Of Adam, falling to 0 along a cosine."""
    quick: bool = False
    """LeNet-300-100 on a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_densities(self.densities)


QUICK = Settings(
    densities=(0.2, 0.05, 0.02, 0.01),
    rounds=50,
    seeds=3,
    epochs=6,
    samples=5000,
    quick=True,
)
NETWORKS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "lenet-300-100": networks.LeNet300,
    "small": partial(networks.SmallConvNet, channels=3),
}
TEMPERATURE = 200.0
"""By which GraSP divides the logits."""


class Pruner:
    """Prunes new models; the scores of a seed are found once for all densities.

    Args:
      settings: of the experiment.
      images: that gradients are computed on.
      prepare: turns them into the model's input.
    """

    def __init__(self, settings: Settings, images: datasets.Images, prepare: Callable):
        self.settings, self.images, self.prepare = settings, images, prepare
        self.scores: dict[tuple[str, int], dict[str, jax.Array]] = {}

    def begin(self, method: str, model: nnx.Module, run: int) -> nnx.Module:
        """The pruned model of a run; None where a layer would lose all weights."""
        density = self.settings.densities[run // self.settings.seeds]
        try:
            return self.pruned(method, model, density, run % self.settings.seeds + 1)
        except ValueError as error:
            if "layer collapse" not in str(error):
                raise
            return jsparse.hold(model, {p: 0 * mask for p, mask in jsparse.masks(model).items()})

    def pruned(self, method: str, model: nnx.Module, density: float, seed: int) -> nnx.Module:
        """The model of a seed at a density."""
        if method == "random":
            choose = prune.by_layer(jsparse.schedule.erdos_renyi_kernel)
            return prune.random(model, density=density, key=jax.random.key(seed), choose=choose)
        if method == "magnitude":
            return prune.magnitude(model, density=density)
        if method == "SynFlow":
            shape = (1, *self.images.train_x.shape[1:])
            return prune.synflow(model, shape, density=density, rounds=self.settings.rounds)
        if (method, seed) not in self.scores:
            batches = self.batches(seed)
            found = (
                prune.snip_scores(model, common.cross_entropy, batches)
                if method == "SNIP"
                else prune.grasp_scores(
                    model, partial(common.cross_entropy, temperature=TEMPERATURE), batches
                )
            )
            self.scores[method, seed] = found
        return prune.keep_highest(model, self.scores[method, seed], density)

    def batches(self, seed: int) -> list[tuple[jax.Array, jax.Array]]:
        """Prepared images and classes, drawn for each seed."""
        x, y = self.images.train_x, self.images.train_y
        order = np.random.default_rng(seed).permutation(len(x))
        size = self.settings.batch
        parts = [order[n * size :][:size] for n in range(self.settings.batches)]
        return [(self.prepare(jnp.asarray(x[p])), jnp.asarray(y[p])) for p in parts if len(p)]


def main(settings: Settings) -> None:
    """Train all, print the table and draw the picture."""
    mnist = settings.network == "lenet-300-100"
    images = settings.images(datasets.mnist if mnist else datasets.cifar10)
    settings, out = settings.in_folder(
        f"runs/at_birth/{settings.network}{'-quick' * settings.quick}"
    )
    inputs = common.standardized(images, None if mnist else datasets.pad_crop_flip)
    steps = settings.epochs * (len(images.train_x) // settings.batch)
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    over = common.side_by_side if mnist else common.turns_on_cpu()
    held = lambda rngs: jsparse.sparsify(
        NETWORKS[settings.network](rngs), (".*/kernel", jsparse.Held())
    )
    sweep = common.Sweep(held, tx, settings.batch, over, inputs=inputs)
    pruner = Pruner(settings, images, inputs.test)
    seeds = range(1, settings.seeds + 1)
    found: dict[str, list[dict[str, list[float]]]] = {}
    for name in ("dense", *settings.methods):
        run = common.open_run(out / name, settings, dataset=images.name, method=name)
        begin = partial(pruner.begin, name)
        many = 1 if name == "dense" else len(settings.densities)
        if not run.complete:
            start = lambda many=many: sweep.start([*seeds] * many, [0.0] * settings.seeds * many)
            how = {} if name == "dense" else {"begin": begin}
            common.train(run, sweep, images, start=start, epochs=settings.epochs, **how)
            whole = common.results(run, range(settings.seeds * many))
            run.finish(**{k: np.reshape(whole[k], (many, -1)) for k in ("accuracy", "density")})
        final = run.final()
        pairs = zip(final["accuracy"], final["density"], strict=True)
        found[name] = [{"accuracy": a, "density": d} for a, d in pairs]
    what = f"{settings.network}, {settings.extent}"
    print(f"{images.name}, {what}, last epoch (test data), accuracy [%]:\n")
    header = ["", *(f"{100 * d:g} %" for d in settings.densities)]
    dense = found.pop("dense")[0]["accuracy"]
    rows = [["dense", common.percent(dense), *[""] * (len(settings.densities) - 1)]]
    rows += [[name, *map(cell, numbers)] for name, numbers in found.items()]
    print(common.table(header, rows))
    whole = {n: [p for p in points if min(p["density"]) > 0] for n, points in found.items()}
    curves = {
        name: tuple(
            [100 * np.mean(p[key], axis=-1 if key == "density" else ()) for p in points]
            for key in ("density", "accuracy")
        )
        for name, points in whole.items()
        if points
    }
    labels = ("weights left [%]", "test accuracy [%]")
    level = 100 * float(np.mean(dense))
    common.draw({what: curves}, out / "at_birth.png", *labels, log="x", level=level)
    common.show_pages(["dense", *found], out, out / "at_birth.png")


def cell(numbers: Mapping[str, list[float]]) -> str:
    """Accuracy over the seeds, or how many of them lost a layer."""
    lost = sum(density == 0 for density in numbers["density"])
    if not lost:
        return common.percent(numbers["accuracy"])
    return f"{lost} of {len(numbers['density'])} lose a layer"


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
