"""The residual network for ImageNet: bottleneck blocks, ResNet-50 by default.

The variant known as v1.5: the 3x3 convolution of a block has the stride, not the 1x1 before it.
Padding is the same on all sides, so weights are compatible with other implementations.

Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.1.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

he_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
EXPANSION = 4
"""Outputs of a block, of the width inside."""


def _conv(i: int, o: int, side: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        i,
        o,
        (side, side),
        strides=(stride, stride),
        padding=((side // 2, side // 2),) * 2,
        use_bias=False,
        kernel_init=he_fan_out,
        dtype=dtype,
        rngs=rngs,
    )


_norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


class Bottleneck(nnx.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut; a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int, dtype: Any, rngs: nnx.Rngs):
        outputs = EXPANSION * width
        self.conv1 = _conv(inputs, width, 1, 1, dtype, rngs)
        self.norm1 = _norm(width, dtype=dtype, rngs=rngs)
        self.conv2 = _conv(width, width, 3, stride, dtype, rngs)
        self.norm2 = _norm(width, dtype=dtype, rngs=rngs)
        self.conv3 = _conv(width, outputs, 1, 1, dtype, rngs)
        self.norm3 = _norm(outputs, dtype=dtype, rngs=rngs)
        self.projects = stride > 1 or inputs != outputs
        if self.projects:
            self.shortcut = _conv(inputs, outputs, 1, stride, dtype, rngs)
            self.norm = _norm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, inputs] to [n, h / stride, w / stride, 4 width]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        shortcut = self.norm(self.shortcut(x)) if self.projects else x
        return nnx.relu(shortcut + self.norm3(self.conv3(y)))


class BottleneckNet(nnx.Module):
    """A 7x7 stem, four stages of bottleneck blocks and a dense head.

    Args:
      rngs: for the initial weights.
      blocks: in each stage; (3, 4, 6, 3) is ResNet-50.
      width: inside the first stage; each further stage is twice as wide.
      classes: outputs.
      dtype: of the activations; weights, statistics and logits stay float32.

    Raises:
      ValueError: no network has these numbers.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        classes: int = 1000,
        dtype: Any = jnp.float32,
    ):
        if not blocks or min(blocks) < 1 or width < 1 or classes < 1:
            raise ValueError(
                f"blocks {tuple(blocks)}, width {width}, classes {classes}: give 1 or more of each"
            )
        self.stem = _conv(3, width, 7, 2, dtype, rngs)
        self.norm = _norm(width, dtype=dtype, rngs=rngs)
        inputs, made = width, []
        for stage, count in enumerate(blocks):
            for n in range(count):
                inner, stride = width * 2**stage, 2 if stage and not n else 1
                made.append(Bottleneck(inputs, inner, stride, dtype, rngs))
                inputs = EXPANSION * inner
        self.blocks = nnx.Sequential(*made)
        uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.head = nnx.Linear(inputs, classes, kernel_init=uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, h, w, 3] to logits [n, classes], float32."""
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return self.head(jnp.mean(self.blocks(x).astype(jnp.float32), axis=(1, 2)))
