"""Gibbs pruning of ResNet-20 and ResNet-56 on CIFAR-10, against magnitude and random masks.

Claim (the paper's): a mask that is resampled at each train step and annealed ends at a given
    density with less loss of accuracy than magnitude pruning; by weight, by kernel and by filter.
    The quick setting does not show it: there gradual magnitude pruning is ahead for weights and
    kernels, and Gibbs is level with random masks or slightly better.

Paper: Labach and Valaee, A framework for neural network pruning using Gibbs distributions, 2020
    (arXiv 2006.04981). Its tables are not available here, so no published figure is printed.
    Network, data, optimizer and curves are those of the authors' code; of n filters they keep those
    above an interpolated percentile (2, 4, 7 of 16, 32, 64 at 10 %), here round(density n): 2, 3,
    6. All contestants are stretched, the dense one too.

Command: python -m experiments.gibbs_cifar            (a GPU; 10 runs of 200 epochs and 3 seeds)
         python -m experiments.gibbs_cifar --quick    (two cores, 2 minutes: a small net on MNIST)
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse._slots import sparse_parts
from jsparse._tiles import grid_shape, spread
from jsparse._topk import winners

Structure = Literal["weight", "kernel", "filter"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The defaults are the authors'."""

    network: Literal["resnet-20", "resnet-56", "small"] = "resnet-20"
    """The small one is for MNIST."""
    density: float = 0.1
    """Of the convolutions except the first."""
    structures: tuple[Structure, ...] = ("weight", "kernel", "filter")
    """What is pruned together."""
    seeds: int = 3
    epochs: int = 200
    stretch: int = 1
    """Factor of all curves: epochs, learning rate and beta."""
    batch: int = 128
    learning_rate: float = 1e-3
    """Of Adam."""
    falls: tuple[float, ...] = (0.405, 0.605, 0.805)
    """Parts of the run after which the learning rate is a tenth."""
    samples: int = 50_000
    quick: bool = False
    """A small net on a part of MNIST, two minutes on two cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")
        if self.stretch < 1 or self.samples < 1:
            raise ValueError(
                f"--stretch and --samples are 1 or more, got {self.stretch} and {self.samples}"
            )


QUICK = Settings(
    network="small",
    seeds=1,
    epochs=10,
    batch=64,
    learning_rate=5e-3,
    falls=(0.8,),
    samples=4000,
    quick=True,
)
NETWORKS = {
    "resnet-20": partial(networks.ResNet, 20),
    "resnet-56": partial(networks.ResNet, 56),
    "small": networks.SmallConvNet,
}
UNITS = {"weight": jsparse.Weight(), "kernel": jsparse.Kernel(), "filter": jsparse.Filter()}
# The authors' inverse temperatures, at the start and the end, and couplings.
BETAS = {"weight": (1.0, 1e4), "kernel": (1.0, 1e4), "filter": (10**-2.5, 1.0)}
COUPLINGS = {"weight": 0.0, "kernel": 0.01, "filter": 1.0}
ANNEALED = 0.64
"""Part of the run after which beta, and the density of gradual pruning, are constant."""
SPARSE = "(blocks|convs)/.*/kernel"
DECAY = 1e-4
"""Times the sum of the squares of the convolutions' dense weights, masked or not."""


def gibbs(settings: Settings, structure: Structure, steps: int) -> jsparse.Gibbs:
    """The rule, with beta constant in each epoch of `steps` train steps."""
    levels = max(2, round(ANNEALED * settings.epochs))
    beta = jsparse.schedule.geometric(
        *BETAS[structure], first=0, last=(levels - 1) * steps, every=steps
    )
    return jsparse.Gibbs(
        density=settings.density,
        beta=beta,
        unit=UNITS[structure],
        coupling=COUPLINGS[structure],
    )


def with_random_masks(model: nnx.Module, unit: Any, density: float, key: jax.Array) -> nnx.Module:
    """The model with its convolutions under fixed masks of random units."""
    model = jsparse.sparsify(model, (SPARSE, jsparse.Held()))
    for n, part in enumerate(sparse_parts(model).values()):
        role, shape = part.rule.role, part.weight[...].shape
        tile = unit.tile(shape, role)
        score = jax.random.uniform(jax.random.fold_in(key, n), grid_shape(shape, tile))
        kept = winners(score, density, jsparse.Whole(), role)
        part.mask[...] = spread(kept.astype(jnp.float32), tile, shape)
    return model


def contestants(settings: Settings, steps: int) -> dict[str, common.Contestant]:
    """The dense network, and for each structure Gibbs, gradual magnitude and random masks."""
    make, density = NETWORKS[settings.network], settings.density

    def ruled(rule: jsparse.Rule, *revisions: jsparse.Gradual) -> common.Contestant:
        model = lambda rngs: jsparse.sparsify(make(rngs), (SPARSE, rule), rngs=rngs)
        return common.Contestant(model, revisions=tuple((".*", by) for by in revisions))

    made = {"dense": common.Contestant(make)}
    last = round(ANNEALED * settings.epochs) * steps
    for structure in settings.structures:
        unit = UNITS[structure]
        random = lambda rngs, unit=unit: with_random_masks(make(rngs), unit, density, rngs.params())
        gradual = jsparse.Gradual(density=density, unit=unit, last=last, every=max(1, steps // 4))
        made[f"{structure}, Gibbs"] = ruled(gibbs(settings, structure, steps))
        made[f"{structure}, magnitude"] = ruled(jsparse.Held(), gradual)
        made[f"{structure}, random"] = common.Contestant(random)
    return made


def optimizer(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Adam with the authors' curve, and decay of the convolutions through its moments."""
    falls = {round(part * settings.epochs) * steps: 0.1 for part in settings.falls}
    rate = optax.piecewise_constant_schedule(settings.learning_rate, falls)

    def convolutions(params: Any) -> Any:
        def is_one(path: tuple, _: Any) -> bool:
            name = jax.tree_util.keystr(path)
            return "kernel" in name and "head" not in name

        return jax.tree_util.tree_map_with_path(is_one, params)

    return optax.chain(optax.add_decayed_weights(2 * DECAY, convolutions), optax.adam(rate))


def main(settings: Settings) -> None:
    """Train all contestants, print the table and draw the picture."""
    small = settings.network == "small"
    images = settings.images(datasets.mnist if small else datasets.cifar10)
    out = Path(settings.out or f"runs/gibbs_cifar/{settings.network}")
    settings = dataclasses.replace(
        settings, out=str(out), epochs=settings.epochs * settings.stretch
    )
    inputs = common.standardized(images, None if small else datasets.shift_flip)
    steps = max(1, len(images.train_x) // settings.batch)
    made, tx = contestants(settings, steps), optimizer(settings, steps)
    found = common.compare(settings, made, tx, images, inputs, common.turns_on_cpu())
    dense = found["dense"]["accuracy"]
    rows = [
        [
            name,
            common.percent(numbers["density"]) if name != "dense" else "",
            common.percent(numbers["accuracy"]),
        ]
        for name, numbers in found.items()
    ]
    what = f"{settings.network}, {settings.extent}"
    print(f"{images.name}, {what}, last epoch (test data):\n")
    print(common.table(["", "density [%]", "accuracy [%]"], rows))
    methods = dict.fromkeys(name.split(", ")[1] for name in found if name != "dense")
    units = list(settings.structures)
    curves = {
        method: (units, [100 * np.array(found[f"{unit}, {method}"]["accuracy"]) for unit in units])
        for method in methods
    }
    labels = ("pruned together", "test accuracy [%]")
    level = 100 * float(np.mean(dense))
    common.draw({what: curves}, out / "accuracy.png", *labels, level=level)
    common.show_pages(found, out, out / "accuracy.png")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
