"""VGG-16 for 32x32 images, as in the paper of Dynamic Sparse Training."""

import jax
from flax import nnx

from experiments.networks.lenet import batch_norm, torch_init
from experiments.networks.operations import conv, max_pool

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nnx.Module):
    """Thirteen 3x3 convolutions in five stages, then two dense layers; 14,977,728 weights.

    Every convolution and the first dense layer is normalized and rectified; the first four stages
    end in max pooling, the last in a mean over its 2x2 map. Initialized as in PyTorch, with the
    scales of the norms after convolutions at 0.5. `.*/kernel` takes all kernels, as in the paper.

    Args:
      rngs: for the initial weights.
      narrow: divisor of all widths, 1 to 64.

    Raises:
      ValueError: no network is that narrow.

    Reference: Liu et al., Dynamic Sparse Training, ICLR 2020, section 4.2.
    """

    def __init__(self, rngs: nnx.Rngs, narrow: int = 1):
        if not 1 <= narrow <= STAGES[0][0]:
            raise ValueError(f"VGG16 got narrow {narrow}; give a divisor from 1 to {STAGES[0][0]}")
        half, inputs, number = nnx.initializers.constant(0.5), 3, 0
        for widths in STAGES:
            for width in widths:
                number, outputs = number + 1, width // narrow
                layer = conv(inputs, outputs, 3, 1, rngs, **torch_init(9 * inputs))
                setattr(self, f"conv{number:02}", layer)
                setattr(self, f"norm{number:02}", batch_norm(outputs, scale_init=half, rngs=rngs))
                inputs = outputs
        self.fc1 = nnx.Linear(inputs, inputs, rngs=rngs, **torch_init(inputs))
        self.norm = batch_norm(inputs, rngs=rngs)
        self.fc2 = nnx.Linear(inputs, 10, rngs=rngs, **torch_init(inputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 32, 32, 3] to logits [n, 10]."""
        number = 0
        for stage, widths in enumerate(STAGES):
            x = max_pool(x) if stage else x
            for _ in widths:
                number += 1
                layer, norm = getattr(self, f"conv{number:02}"), getattr(self, f"norm{number:02}")
                x = nnx.relu(norm(layer(x)))
        x = x.mean(axis=(1, 2))
        return self.fc2(nnx.relu(self.norm(self.fc1(x))))
