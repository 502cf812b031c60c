"""Dynamic Sparse Training of VGG-16 and wide residual networks on CIFAR-10.

Claim: learned thresholds train large networks to a tenth of their weights at no loss of accuracy,
    and to a twentieth at a loss of less than one point.

Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 2: VGG-16 93.75 -> 93.93 at 8.82 %,
    93.02 at 3.76 %; WRN-16-8 95.18 -> 95.05 at 9.86 %, 94.73 at 4.64 %. WRN-28-8 is in its draft:
    95.65 -> 94.80 at 4.55 %. The alphas are 5e-6 for 8.82 % and, read off a figure, the others.

Command: python -m experiments.dst_cifar                                                (a GPU)
         python -m experiments.dst_cifar --network wrn-16-8 --alphas 1.4e-5 4e-5        (a GPU)
         python -m experiments.dst_cifar --network wrn-28-8 --alphas 1.1e-5 2.5e-5      (a GPU)
         python -m experiments.dst_cifar --quick    (two cores, two minutes: VGG-16 at an eighth of
         the width on 4,000 images, not comparable with the paper)
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from experiments import common, datasets, networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.StudySettings):
    """The defaults are the paper's recipe."""

    network: Literal["vgg-16", "wrn-16-8", "wrn-28-8"] = "vgg-16"
    """Which of the paper's networks."""
    alphas: tuple[float, ...] = (5e-6, 3e-5)
    narrow: int = 1
    """Divisor of all widths; 1, 2, 4 or 8 for the wide residual networks."""
    epochs: int = 160
    batch: int = 64
    learning_rate: float = 0.1
    """Of SGD with momentum 0.9."""
    falls: tuple[float, ...] = (0.5, 0.75)
    """Parts of the run after which the learning rate is a tenth."""
    weight_decay: float = 1e-4
    """Of all parameters, thresholds too."""
    samples: int = 50_000
    """Number of training images to use, the first ones."""
    tested: int = 10_000
    """Number of test images to use, the first ones."""
    quick: bool = False
    """A narrow VGG-16 on a part of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < part < 1 for part in self.falls):
            raise ValueError(f"--falls are parts of the run in (0, 1), got {self.falls}")
        if self.network != "vgg-16" and self.narrow not in (1, 2, 4, 8):
            raise ValueError(
                f"--narrow is 1, 2, 4 or 8 for {self.network}, which is 8 times as wide as a "
                f"residual network; got {self.narrow}"
            )


QUICK = Settings(
    alphas=(5e-4, 2e-3),
    narrow=8,
    seeds=1,
    epochs=10,
    samples=4000,
    tested=2000,
    quick=True,
)
PUBLISHED = {
    "vgg-16": [
        common.Published(dense="93.75 ± 0.21", sparse="93.93 ± 0.05", density="8.82 ± 0.34"),
        common.Published(dense="93.75 ± 0.21", sparse="93.02 ± 0.37", density="3.76 ± 0.53"),
    ],
    "wrn-16-8": [
        common.Published(dense="95.18 ± 0.06", sparse="95.05 ± 0.08", density="9.86 ± 0.22"),
        common.Published(dense="95.18 ± 0.06", sparse="94.73 ± 0.11", density="4.64 ± 0.15"),
    ],
    "wrn-28-8": [common.Published(dense="95.65", sparse="94.80 ± 0.09", density="4.55")],
}
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Of each channel; the paper's."""


def network(settings: Settings):
    """What makes the dense network from `nnx.Rngs`."""
    if settings.network == "vgg-16":
        return partial(networks.VGG16, narrow=settings.narrow)
    depth = int(settings.network.split("-")[1])
    widen = 8 // settings.narrow
    return lambda rngs: networks.WideResNet(depth, widen, rngs, networks.torch_init)


def normalized(images: jax.Array) -> jax.Array:
    """Pixels in [0, 1] to what the network reads, [n, h, w, 3] both."""
    mean, deviation = (jnp.array(of).reshape(1, 1, 1, 3) for of in (MEAN, DEVIATION))
    return (images - mean) / deviation


INPUTS = common.Inputs(  # black around the images, as in the paper's code
    train=lambda key, images: normalized(datasets.pad_crop_flip(key, common.to_float(images))),
    test=lambda images: normalized(common.to_float(images)),
)


def learning_rate(settings: Settings, samples: int) -> optax.Schedule:
    """By step: a tenth after each part in `falls`, times the factor of `decay`."""
    steps = settings.epochs * (samples // settings.batch)
    tenth = optax.piecewise_constant_schedule(1.0, {round(f * steps): 0.1 for f in settings.falls})
    tail = common.learning_rate(settings, samples)
    return lambda step: tenth(step) * tail(step)


def main(settings: Settings) -> None:
    """Train the dense and the sparse networks and print them with the paper's figures."""
    images = datasets.first_samples(datasets.cifar10(settings.data), settings.samples)
    images = datasets.first_tests(images, settings.tested)
    rate = learning_rate(settings, len(images.train_x))
    out = settings.out or f"runs/dst_cifar/{settings.network}{'/quick' * settings.quick}"
    common.study(
        dataclasses.replace(settings, out=out),
        network(settings),
        ".*/kernel",
        optax.chain(
            optax.add_decayed_weights(settings.weight_decay), optax.sgd(rate, momentum=0.9)
        ),
        images,
        PUBLISHED[settings.network],
        common.turns_on_cpu(),
        INPUTS,
    )


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
