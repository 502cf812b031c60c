"""Transformers whose residual stream is under RMS norms, in blocks one by one and in a scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tests.support.zoo import modules

TOKENS, WIDTH = 11, 16
Norm = Callable[..., nnx.Module]


class Own(nnx.Module):
    """An RMS norm as Gemma has it: its scale is 1 and a weight that starts at 0."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.weight, self.eps = nnx.Param(0.1 * jax.random.normal(rngs.params(), (width,))), 1e-3

    def __call__(self, x: Array) -> Array:
        mean = jnp.mean(x * x, axis=-1, keepdims=True)
        return x / jnp.sqrt(mean + self.eps) * (1 + self.weight[...])


class Fixed(Own):
    """One with its epsilon in the code; what it stores is something else of that value."""

    def __call__(self, x: Array) -> Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-3) * self.weight[...]


def stock(width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """With a scale that is not 1."""
    scale = nnx.initializers.uniform(2.0)
    return nnx.RMSNorm(width, epsilon=1e-3, scale_init=scale, rngs=rngs)


def bare(width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Without a scale."""
    return nnx.RMSNorm(width, epsilon=1e-3, use_scale=False, rngs=rngs)


class GRN(nnx.Module):
    """Global response normalization over the channels of a row: Woo et al. 2023, section 3."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.gamma = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.eps = 1e-3

    def __call__(self, x: Array) -> Array:
        size = jnp.abs(x)
        return self.gamma[...] * (x * (size / (size.mean(axis=-1, keepdims=True) + self.eps))) + x


class Block(nnx.Module):
    """Attention with 4 heads of queries on 2 of keys and values, and a gated layer."""

    def __init__(self, norm: Norm, rngs: nnx.Rngs):
        linear = lambda *size: nnx.Linear(*size, use_bias=False, rngs=rngs)
        self.before, self.between = norm(WIDTH, rngs=rngs), norm(WIDTH, rngs=rngs)
        self.query, self.leave = linear(WIDTH, 4 * 4), linear(4 * 4, WIDTH)
        self.key, self.value = linear(WIDTH, 2 * 4), linear(WIDTH, 2 * 4)
        self.gate, self.up, self.down = linear(WIDTH, 24), linear(WIDTH, 24), linear(24, WIDTH)

    def __call__(self, x: Array) -> Array:
        y = self.before(x)
        heads = lambda layer: layer(y).reshape(*y.shape[:-1], -1, 4)
        q, k, v = (heads(layer) for layer in (self.query, self.key, self.value))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.leave(y.reshape(*x.shape[:-1], -1))
        y = self.between(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))


class Llama(nnx.Module):
    """Touvron et al. 2023, small, with a tied embedding."""

    def __init__(self, norm: Norm, rngs: nnx.Rngs):
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.blocks = modules([Block(norm, rngs)])
        self.last = norm(WIDTH, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.last(x))


class Scanned(Llama):
    """Two blocks in one, run by a scan."""

    def __init__(self, norm: Norm, rngs: nnx.Rngs):
        super().__init__(norm, rngs)

        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> Block:
            return Block(norm, rngs)

        self.blocks = make(rngs)

    def __call__(self, tokens: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block: Block, x: Array) -> Array:
            return block(x)

        return self.embed.attend(self.last(run(self.blocks, self.embed(tokens))))
