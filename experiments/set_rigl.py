"""Sparse from the first step to the last: static masks, SET, RigL; and gradual pruning.

Claim: dynamic masks beat static ones at the same density, growing by gradient (RigL) beats growing
    at random (SET), and the ERK budget beats the uniform one.

Paper: Evci et al., Rigging the lottery, ICML 2020 (WRN-22-2 on CIFAR-10); the published figures in
    the table are those of its reproduction (Sundar and Dwaraknath, ReScience 2021), on 45,000
    training images. Masks change every 100 steps up to three quarters of the run.

Command: python -m experiments.set_rigl            (a GPU; WRN-22-2, 250 epochs, 3 seeds)
         python -m experiments.set_rigl --quick    (two cores: LeNet-300-100 on a part of MNIST)
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from jsparse import prune, schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The wide network needs a GPU."""

    network: Literal["wrn-22-2", "lenet-300-100"] = "wrn-22-2"
    """The second is for MNIST."""
    densities: tuple[float, ...] = (0.2, 0.1)
    """Of all weights that are under a mask."""
    every: int = 100
    """Steps between changes of the masks."""
    fraction: float = 0.3
    """Of the kept weights, exchanged at the first change."""
    seeds: int = 3
    epochs: int = 250
    batch: int = 128
    learning_rate: float = 0.1
    """Of SGD with momentum 0.9, falling to 0 along a cosine."""
    decay: float = 5e-4
    """Of the weights."""
    samples: int = 50_000
    quick: bool = False
    """LeNet-300-100 on a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_densities(self.densities)


QUICK = Settings(
    network="lenet-300-100",
    densities=(0.1, 0.05, 0.02),
    epochs=10,
    batch=100,
    learning_rate=0.1,
    decay=0.0,
    samples=10_000,
    every=50,
    quick=True,
)
NETWORKS = {
    "wrn-22-2": (partial(networks.WideResNet, 22, 2), "blocks/.*/kernel"),
    "lenet-300-100": (networks.LeNet300, ".*/kernel"),
}
BUDGETS = {
    "uniform": schedule.uniform,
    "ER": schedule.erdos_renyi,
    "ERK": schedule.erdos_renyi_kernel,
}
PUBLISHED = {
    ("static, uniform", 0.2): 91.2, ("static, uniform", 0.1): 89.1,
    ("SET, uniform", 0.2): 92.7, ("SET, uniform", 0.1): 91.3,
    ("SET, ERK", 0.2): 92.9, ("SET, ERK", 0.1): 92.2,
    ("RigL, uniform", 0.2): 92.6, ("RigL, uniform", 0.1): 91.8,
    ("RigL, ERK", 0.2): 93.1, ("RigL, ERK", 0.1): 92.4,
    ("gradual magnitude, uniform", 0.2): 93.2, ("gradual magnitude, uniform", 0.1): 92.6,
}  # fmt: skip
"""Test accuracy in percent, WRN-22-2."""


def random_masks(model: nnx.Module, density: float, budget: Any, seed: int) -> nnx.Module:
    """The model with random masks in each layer, at the densities of the budget."""
    return prune.random(
        model, density=density, key=jax.random.key(seed), choose=prune.by_layer(budget)
    )


def contestants(settings: Settings, steps: int) -> dict[str, common.Contestant]:
    """By name "method, budget, density"; `steps` is the length of a run."""
    network, pattern = NETWORKS[settings.network]
    make = lambda rngs: jsparse.sparsify(network(rngs), (pattern, jsparse.Held()))
    exchange = {
        "every": settings.every,
        "last": max(settings.every, round(0.75 * steps)),
        "fraction": settings.fraction,
    }
    made = {"dense": common.Contestant(network)}
    for density in settings.densities:
        for name, budget in BUDGETS.items():
            if name == "ER" and settings.network == "lenet-300-100":
                continue  # ERK is the same where all layers are dense
            begin = lambda new, _, seed, d=density, b=budget: random_masks(new, d, b, seed)
            entry = partial(common.Contestant, make, begin=begin)
            made[f"static, {name}, {density}"] = entry()
            made[f"SET, {name}, {density}"] = entry(revisions=((".*", jsparse.SET(**exchange)),))
            made[f"RigL, {name}, {density}"] = entry(revisions=((".*", jsparse.RigL(**exchange)),))
        gradual = jsparse.Gradual(density=density, last=round(0.75 * steps), every=settings.every)
        made[f"gradual magnitude, uniform, {density}"] = common.Contestant(
            make, revisions=((".*", gradual),)
        )
    return made


def main(settings: Settings) -> None:
    """Train all contestants, print the table and draw the picture."""
    small = settings.network == "lenet-300-100"
    images = settings.images(datasets.mnist if small else datasets.cifar10)
    settings, out = settings.in_folder(f"runs/set_rigl/{settings.network}")
    inputs = common.standardized(images, None if small else datasets.pad_crop_flip)
    steps = settings.epochs * max(1, len(images.train_x) // settings.batch)
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps)
    tx = optax.chain(optax.add_decayed_weights(settings.decay), optax.sgd(rate, 0.9))
    over = common.side_by_side if small else common.turns_on_cpu()
    found = common.compare(settings, contestants(settings, steps), tx, images, inputs, over)
    rows = []
    for name, numbers in found.items():
        method, _, density = name.rpartition(", ")
        published = PUBLISHED.get((method, float(density)), "") if density != "dense" else ""
        rows.append(
            [
                name,
                common.percent(numbers["density"]) if method else "",
                common.percent(numbers["accuracy"]),
                "" if small else str(published),
            ]
        )
    what = f"{settings.network}, {settings.extent}"
    print(f"{images.name}, {what}, last epoch (test data):\n")
    print(common.table(["", "density [%]", "accuracy [%]", "" if small else "published"], rows))
    common.tradeoff(found, out)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
