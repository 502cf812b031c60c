"""Wide residual networks for 32x32 images: normalize, rectify, convolve.

Reference: Zagoruyko and Komodakis, Wide residual networks, BMVC 2016, sections 2 and 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.networks.operations import conv

Start = Callable[[int], dict[str, Any]]
"""From the inputs of a unit, the initializers of its layer."""

_norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


def he_init(fan_in: int) -> dict[str, Any]:
    """He initialization."""
    return {"kernel_init": jax.nn.initializers.he_normal()}


def _conv(i: int, o: int, side: int, stride: int, rngs: nnx.Rngs, start: Start) -> nnx.Conv:
    return conv(i, o, side, stride, rngs, **start(side * side * i))


class WideBlock(nnx.Module):
    """Two 3x3 convolutions, each after norm and ReLU; a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs, start: Start):
        self.norm1 = _norm(inputs, rngs=rngs)
        self.conv1 = _conv(inputs, outputs, 3, stride, rngs, start)
        self.norm2 = _norm(outputs, rngs=rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, rngs, start)
        self.project = inputs != outputs
        if self.project:
            self.shortcut = _conv(inputs, outputs, 1, stride, rngs, start)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, inputs] to [n, h / stride, w / stride, outputs]."""
        ready = nnx.relu(self.norm1(x))
        y = self.conv2(nnx.relu(self.norm2(self.conv1(ready))))
        return y + (self.shortcut(ready) if self.project else x)


class WideResNet(nnx.Module):
    """WRN-depth-widen: a stem of 16 channels, three stages of (depth - 4) / 6 blocks, a dense head.

    The pattern `.*/kernel` takes every convolution and the head, as Dynamic Sparse Training does;
    `blocks/.*/kernel` leaves stem and head.

    Args:
      depth: 10, 16, 22, 28, 40: layers on the longest path.
      widen: factor of the widths 16, 32, 64 of the stages.
      rngs: for the initial weights.
      start: initializer of the convolutions and the head, such as `torch_init`.

    Raises:
      ValueError: no network has this depth or width.
    """

    def __init__(self, depth: int, widen: int, rngs: nnx.Rngs, start: Start = he_init):
        count, rest = divmod(depth - 4, 6)
        if rest or count < 1 or widen < 1:
            raise ValueError(
                f"WideResNet got depth {depth} and widen {widen}; the depth is 6 n + 4 (10, 16, "
                "22, 28, 40), widen 1 or more"
            )
        self.stem = _conv(3, 16, 3, 1, rngs, start)
        blocks, inputs = [], 16
        for stage in range(3):
            outputs = 16 * widen * 2**stage
            for n in range(count):
                blocks.append(WideBlock(inputs, outputs, 2 if stage and not n else 1, rngs, start))
                inputs = outputs
        self.blocks = nnx.Sequential(*blocks)
        self.norm = _norm(inputs, rngs=rngs)
        self.head = nnx.Linear(inputs, 10, rngs=rngs, **start(inputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, h, w, 3] to logits [n, 10]."""
        x = nnx.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(jnp.mean(x, axis=(1, 2)))
