"""Dynamic Sparse Training of LeNet-300-100 and LeNet-5-Caffe on MNIST.

Claim: learned thresholds train a network sparse from the start, at the accuracy of the dense one.

Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 1: LeNet-300-100 98.16 -> 97.69 at
    2.48 %, LeNet-5-Caffe 99.18 -> 99.11 at 1.64 %.

Command: python -m experiments.dst_mnist
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments import common


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


def torch_init(fan_in: int) -> dict[str, Any]:
    """PyTorch's default start, the paper's: uniform within 1 / sqrt(fan_in), biases too."""
    bound = fan_in**-0.5
    uniform = lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
    return {"kernel_init": uniform, "bias_init": uniform}


class LeNet300(nnx.Module):
    """LeNet-300-100: 784-300-100-10 with ReLU; 266,200 weights."""

    def __init__(self, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(784, 300, rngs=rngs, **torch_init(784))
        self.fc2 = nnx.Linear(300, 100, rngs=rngs, **torch_init(300))
        self.fc3 = nnx.Linear(100, 10, rngs=rngs, **torch_init(100))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc3(nnx.relu(self.fc2(x)))


class LeNet5(nnx.Module):
    """LeNet-5-Caffe: two 5x5 convolutions, two dense layers; 430,500 weights."""

    def __init__(self, rngs: nnx.Rngs):
        conv = partial(
            nnx.Conv, padding="VALID", conv_general_dilated=common.convolution(), rngs=rngs
        )
        self.conv1 = conv(1, 20, (5, 5), **torch_init(25))
        self.conv2 = conv(20, 50, (5, 5), **torch_init(500))
        self.fc1 = nnx.Linear(800, 500, rngs=rngs, **torch_init(800))
        self.fc2 = nnx.Linear(500, 10, rngs=rngs, **torch_init(500))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        # pooling first is the same function, on a quarter of the values
        x = nnx.relu(common.max_pool(self.conv1(x[..., None])))
        x = nnx.relu(common.max_pool(self.conv2(x)))
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


NETWORKS = {"lenet-300-100": LeNet300, "lenet-5": LeNet5}


def main(settings: Settings) -> None:
    """Train the dense and the sparse network and print them beside the paper's."""
    images = common.mnist(settings.data)
    rate = common.learning_rate(settings, len(images.train_x))
    out = settings.out or f"runs/dst_mnist/{settings.network}"
    common.study(
        dataclasses.replace(settings, out=out),
        NETWORKS[settings.network],
        ".*/kernel",
        optax.sgd(rate, momentum=0.9),
        images,
        PUBLISHED[settings.network],
        common.side_by_side if settings.network == "lenet-300-100" else common.turns_on_cpu(),
    )


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
