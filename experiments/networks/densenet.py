"""A small DenseNet for images.

Reference: Huang et al., Densely connected convolutional networks, CVPR 2017.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from experiments.networks.modules import modules


class DenseNet(nnx.Module):
    """Stages of layers that each add channels to a concatenation."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 4, growth: int = 12):
        self.stem = nnx.Conv(3, 2 * growth, (3, 3), rngs=rngs)
        width, stages = 2 * growth, []
        for _ in range(3):
            widths = [width + growth * n for n in range(layers + 1)]
            norms = [nnx.BatchNorm(w, rngs=rngs) for w in widths]
            convs = [nnx.Conv(w, growth, (3, 3), rngs=rngs) for w in widths[:-1]]
            width = widths[-1] // 2
            convs.append(nnx.Conv(widths[-1], width, (1, 1), rngs=rngs))
            stages.append(modules([modules(norms), modules(convs)]))
        self.stages, self.head = modules(stages), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Images [n, h, w, 3] to logits [n, 10]."""
        x = self.stem(x)
        for norms, convs in self.stages:
            *layers, last = zip(norms, convs, strict=True)
            for norm, conv in layers:
                x = jnp.concatenate([x, conv(nnx.relu(norm(x)))], -1)
            x = nnx.avg_pool(last[1](nnx.relu(last[0](x))), (2, 2), (2, 2))
        return self.head(nnx.relu(x).mean((1, 2)))
