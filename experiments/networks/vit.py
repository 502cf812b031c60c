"""A small vision transformer.

Reference: Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
"""

import jax
from flax import nnx
from jax import Array

from experiments.networks.modules import modules
from experiments.networks.transformer import Layer


class ViT(nnx.Module):
    """A vision transformer on patches of 4x4."""

    def __init__(self, rngs: nnx.Rngs, width: int, side: int, blocks: int = 4):
        self.patches = nnx.Conv(3, width, (4, 4), strides=4, rngs=rngs)
        start = 0.02 * jax.random.normal(rngs.params(), ((side // 4) ** 2, width))
        self.places = nnx.Param(start)
        self.blocks = modules([Layer(width, 4, rngs) for _ in range(blocks)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Images [n, side, side, 3] to logits [n, 10]."""
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1]) + self.places[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
