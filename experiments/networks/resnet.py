"""Residual networks for 32x32 images, as in the code of Gibbs pruning.

Post-activation, with a 1x1 projection where the sides halve (no normalization after it), Keras's
batch normalization and He initialization for every kernel.

Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.networks.operations import conv

he_normal = jax.nn.initializers.he_normal()


_conv = partial(conv, kernel_init=he_normal)
_norm = partial(nnx.BatchNorm, momentum=0.99, epsilon=1e-3)


def _same(x: jax.Array) -> jax.Array:
    return x


class Block(nnx.Module):
    """Two 3x3 convolutions and a shortcut, which is a projection where the stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, outputs, 3, stride, rngs)
        self.norm1 = _norm(outputs, rngs=rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, rngs)
        self.norm2 = _norm(outputs, rngs=rngs)
        self.shortcut = _same if stride == 1 else _conv(inputs, outputs, 1, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, inputs] to [n, h / stride, w / stride, outputs]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet(nnx.Module):
    """ResNet of depth 6 n + 2: a stem, three stages of n blocks and a dense head.

    The pattern `blocks/.*/kernel` takes every convolution except the stem's, including projections,
    and leaves the head.

    Args:
      depth: 8, 14, 20, ..., 56, ...: layers on the longest path.
      rngs: for the initial weights.
      width: channels of the stem and the first stage; the other stages have 2 and 4 times as many.

    Raises:
      ValueError: no network has this depth or width.
    """

    def __init__(self, depth: int, rngs: nnx.Rngs, width: int = 16):
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1 or width < 1:
            raise ValueError(
                f"ResNet got depth {depth} and width {width}; the depth is 6 n + 2 (8, 14, 20, 32, "
                "44, 56, 110), the width 1 or more"
            )
        self.stem = _conv(3, width, 3, 1, rngs)
        self.norm = _norm(width, rngs=rngs)
        outputs = [width * 2**stage for stage in range(3) for _ in range(blocks)]
        inputs = [width, *outputs[:-1]]
        self.blocks = nnx.Sequential(
            *(Block(i, o, 1 if i == o else 2, rngs) for i, o in zip(inputs, outputs, strict=True))
        )
        self.head = nnx.Linear(4 * width, 10, kernel_init=he_normal, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, h, w, 3] to logits [n, 10]."""
        x = nnx.relu(self.norm(self.stem(x)))
        return self.head(jnp.mean(self.blocks(x), axis=(1, 2)))
