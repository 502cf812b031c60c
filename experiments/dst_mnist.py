"""Dynamic Sparse Training of LeNet-300-100 and LeNet-5-Caffe on MNIST.

Claim: learned thresholds train a network sparse from the start, at the accuracy of the dense one.

Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 1: LeNet-300-100 98.16 -> 97.69 at
    2.48 %, LeNet-5-Caffe 99.18 -> 99.11 at 1.64 %.

Command: python -m experiments.dst_mnist
"""

import dataclasses
from typing import Literal

import optax

from experiments import common, datasets, networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.StudySettings):
    """The defaults are the paper's recipe."""

    network: Literal["lenet-300-100", "lenet-5"] = "lenet-300-100"
    """Which of the paper's two networks."""
    alphas: tuple[float, ...] = (5e-4,)
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 0.01
    """Of SGD with momentum 0.9."""


PUBLISHED = {
    "lenet-300-100": common.Published(
        dense="98.16 ± 0.06", sparse="97.69 ± 0.14", density="2.48 ± 0.21"
    ),
    "lenet-5": common.Published(dense="99.18 ± 0.05", sparse="99.11 ± 0.07", density="1.64 ± 0.13"),
}


NETWORKS = {"lenet-300-100": networks.LeNet300, "lenet-5": networks.LeNet5}


def sweeps(settings: Settings, images: datasets.Images) -> tuple[common.Sweep, common.Sweep]:
    """Of the dense network and of the sparse one."""
    *recipe, over = _recipe(settings, images)
    return common.sweeps(settings, *recipe, images, over)


def _recipe(settings: Settings, images: datasets.Images) -> tuple:
    """The network, its sparse weights, the optax transform, and how runs share a program."""
    rate = common.learning_rate(settings, len(images.train_x))
    dense = settings.network == "lenet-300-100"
    over = common.side_by_side if dense else common.turns_on_cpu()
    return NETWORKS[settings.network], ".*/kernel", optax.sgd(rate, momentum=0.9), over


def main(settings: Settings) -> None:
    """Train the dense and the sparse network and print them with the paper's figures."""
    images = datasets.mnist(settings.data)
    settings = dataclasses.replace(
        settings, out=settings.out or f"runs/dst_mnist/{settings.network}"
    )
    *recipe, over = _recipe(settings, images)
    common.study(settings, *recipe, images, [PUBLISHED[settings.network]], over)


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
