"""Networks for MNIST: the two LeNets of the pruning literature, started as PyTorch starts them, and
a small one for a quick look."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.networks.operations import conv, convolution, max_pool


def torch_init(fan_in: int) -> dict[str, Any]:
    """PyTorch's default initializer, as in the paper: uniform within 1 / sqrt(fan_in), biases
    too."""
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
        x = nnx.relu(self.fc1(x.reshape(x.shape[0], -1)))
        return self.fc3(nnx.relu(self.fc2(x)))


class LeNet5(nnx.Module):
    """LeNet-5-Caffe: two 5x5 convolutions, two dense layers; 430,500 weights."""

    def __init__(self, rngs: nnx.Rngs):
        layer = partial(nnx.Conv, padding="VALID", conv_general_dilated=convolution(), rngs=rngs)
        self.conv1 = layer(1, 20, (5, 5), **torch_init(25))
        self.conv2 = layer(20, 50, (5, 5), **torch_init(500))
        self.fc1 = nnx.Linear(800, 500, rngs=rngs, **torch_init(800))
        self.fc2 = nnx.Linear(500, 10, rngs=rngs, **torch_init(500))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        # pooling first is the same function, on a quarter of the values
        x = nnx.relu(max_pool(self.conv1(x[..., None])))
        x = nnx.relu(max_pool(self.conv2(x)))
        return self.fc2(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))


batch_norm = partial(nnx.BatchNorm, momentum=0.9)


class SmallConvNet(nnx.Module):
    """Three 3x3 convolutions with norms on images of half size: learns digits in seconds.

    The pattern `convs/.*/kernel` takes the last two, 13,824 weights, and leaves stem and head.

    Args:
      rngs: for the initial weights.
      norm: what normalizes, such as `nnx.LayerNorm`.
      channels: of the images.
    """

    def __init__(self, rngs: nnx.Rngs, norm: Callable = batch_norm, channels: int = 1):
        he = {"kernel_init": jax.nn.initializers.he_normal()}
        norm = partial(norm, rngs=rngs)
        self.stem = nnx.Sequential(conv(channels, 16, 3, 1, rngs, **he), norm(16), nnx.relu)
        self.convs = nnx.Sequential(
            *(conv(16, 32, 3, 1, rngs, **he), norm(32), nnx.relu),
            *(conv(32, 32, 3, 1, rngs, **he), norm(32), nnx.relu),
        )
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, h, w] or [n, h, w, channels] to logits [n, 10]."""
        x = max_pool(self.stem(max_pool(x.reshape(*x.shape[:3], -1))))
        return self.head(self.convs(x).mean(axis=(1, 2)))
