"""A small transformer that predicts the next character."""

import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array


class Layer(nnx.Module):
    """A block of a transformer, normalized before attention and before its two dense layers."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """[n, context, width] and a mask of which place sees which -> the same shape."""
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.wide(self.norm2(x))))


class Transformer(nnx.Module):
    """Reads characters and predicts the next one.

    The pattern `blocks/.*/kernel` takes the kernels of the blocks, attention's too, and leaves
    embeddings and head.

    Args:
      characters: how many there are.
      rngs: for the initial weights.
      width: of every layer.
      blocks: how many.
      heads: of attention, which divide the width.
      context: characters that it sees.
    """

    def __init__(
        self, characters: int, rngs: nnx.Rngs, *, width: int, blocks: int, heads: int, context: int
    ):
        self.characters = nnx.Embed(characters, width, rngs=rngs)
        self.places = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.Sequential(*(Layer(width, heads, rngs) for _ in range(blocks)))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, characters, rngs=rngs)

    def __call__(self, text: Array) -> Array:
        """Characters [n, context] to logits [n, context, characters]."""
        x = self.characters(text) + self.places(jnp.arange(text.shape[1]))[None]
        mask = nnx.make_causal_mask(text)
        for block in self.blocks.layers:
            x = block(x, mask)
        return self.head(self.norm(x))


def next_character_loss(model: nnx.Module, text: Array) -> Array:
    """Cross-entropy of each next character, a mean over text [n, context + 1]."""
    logits = model(text[:, :-1])  # type: ignore[operator]
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()
