"""The networks of the step benchmark, each with its batch of random data."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

import jsparse
from experiments import networks
from experiments.networks.modules import modules

KERNELS = ".*/kernel"
"""The weights that become sparse: all kernels, of attention too."""
MASKS = {"Threshold": jsparse.Threshold(), "Held": jsparse.Held()}
"""Thresholds start at 0 and the stored mask full: both compute what the dense network does."""


class MLP(nnx.Module):
    """Four dense layers of 1024 x 1024 with ReLU."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = modules([nnx.Linear(1024, 1024, rngs=rngs) for _ in range(4)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Features [n, 1024] to logits [n, 1024]."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def features(*shape: int, classes: int) -> Draw:
    """Draws a batch of floats [shape] and its labels [shape[0]]."""

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return random.random(shape, np.float32), random.integers(classes, size=shape[0])

    return draw


def tokens(batch: int, length: int) -> Draw:
    """Draws tokens [batch, length] and the next ones, as many."""

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        text = random.integers(256, size=(batch, length + 1))
        return text[:, :-1], text[:, 1:]

    return draw


class Network(NamedTuple):
    """A network, its data, and the most that masks may cost."""

    make: Callable[[nnx.Rngs], nnx.Module]
    draw: Draw
    goal: float
    sparse: str = KERNELS
    rules: Mapping[str, jsparse.Rule] = MASKS


NETWORKS = {
    "lenet-300-100": Network(networks.LeNet300, features(64, 28, 28, classes=10), 1.2),
    "lenet-5": Network(networks.LeNet5, features(64, 28, 28, classes=10), 1.05),
    "vgg-16": Network(networks.VGG16, features(128, 32, 32, 3, classes=10), 1.05),
    "wrn-16-8": Network(
        partial(networks.WideResNet, 16, 8), features(128, 32, 32, 3, classes=10), 1.05
    ),
    "mlp-1024": Network(MLP, features(128, 1024, classes=1024), float("inf")),
    "resnet-20": Network(
        partial(networks.ResNet, 20),
        features(128, 32, 32, 3, classes=10),
        1.15,
        "blocks/.*/kernel",
        {
            "Gibbs, weight": jsparse.Gibbs(density=0.1, beta=100.0),
            "Gibbs, kernel": jsparse.Gibbs(
                density=0.1, beta=100.0, unit=jsparse.Kernel(), coupling=0.01
            ),
            "Gibbs, filter, 50 sweeps": jsparse.Gibbs(density=0.1, beta=0.1, unit=jsparse.Filter()),
        },
    ),
    "transformer": Network(
        partial(networks.Transformer, 256, width=256, blocks=2, heads=4, context=64),
        tokens(16, 64),
        1.05,
    ),
}


def variants(network: Network) -> dict[str, nnx.Module]:
    """The same weights dense and under each of the network's rules."""
    make = lambda: network.make(nnx.Rngs(0))
    sparse = {n: jsparse.sparsify(make(), (network.sparse, r)) for n, r in network.rules.items()}
    return {"dense": make(), **sparse}
