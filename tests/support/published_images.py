"""Published models of images, small, written after their papers' layouts."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tests.support.zoo import modules


class ViT(nnx.Module):
    """Patches, a class token and learned places: Dosovitskiy et al. 2021."""

    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, 8, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, 8)))
        self.places = nnx.Param(jax.random.normal(rngs.params(), (1, 5, 8)))
        self.norms = modules([nnx.LayerNorm(8, rngs=rngs) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(4, 8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.patches(x).reshape(x.shape[0], -1, 8)
        x = jnp.concatenate([jnp.tile(self.token[...], (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.places[...]
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x)[:, 0])


class ConvNeXt(nnx.Module):
    """Depthwise convolution, norm, two dense layers and a layer scale: Liu et al. 2022."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 6, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.depth = nnx.Conv(6, 6, (7, 7), feature_group_count=6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.up, self.down = nnx.Linear(6, 24, rngs=rngs), nnx.Linear(24, 6, rngs=rngs)
        self.gamma = nnx.Param(0.1 * jnp.ones(6))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        x = x + self.gamma[...] * self.down(nnx.gelu(self.up(self.norm(self.depth(x)))))
        return self.head(x.mean(axis=(1, 2)))


class EfficientNet(nnx.Module):
    """An inverted bottleneck with squeeze and excitation: Tan and Le 2019."""

    def __init__(self, rngs: nnx.Rngs):
        conv = lambda i, o, k, g=1: nnx.Conv(
            i, o, (k, k), feature_group_count=g, use_bias=False, rngs=rngs
        )
        self.stem, self.up = conv(3, 6, 3), conv(6, 12, 1)
        self.depth, self.down = conv(12, 12, 5, 12), conv(12, 6, 1)
        self.norms = modules([nnx.BatchNorm(n, rngs=rngs) for n in (6, 12, 12, 6)])
        self.squeeze, self.excite = nnx.Linear(12, 4, rngs=rngs), nnx.Linear(4, 12, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.silu(self.norms[0](self.stem(x)))
        y = nnx.silu(self.norms[1](self.up(x)))
        y = nnx.silu(self.norms[2](self.depth(y)))
        weights = y.mean(axis=(1, 2), keepdims=True)
        y = y * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(weights))))
        return self.head((x + self.norms[3](self.down(y))).mean(axis=(1, 2)))


class MLPMixer(nnx.Module):
    """Dense layers over places and over channels: Tolstikhin et al. 2021."""

    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, 8, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.norms = modules([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
        self.across, self.back = nnx.Linear(4, 10, rngs=rngs), nnx.Linear(10, 4, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        y = jnp.swapaxes(self.norms[0](x), 1, 2)
        x = x + jnp.swapaxes(self.back(nnx.gelu(self.across(y))), 1, 2)
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.head(x.mean(axis=1))


class Swin(nnx.Module):
    """Attention in shifted windows: Liu et al. 2021."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 8, (2, 2), strides=2, padding="VALID", rngs=rngs)
        self.norms = modules([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.merge = nnx.Linear(32, 6, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        n, h, w, c = x.shape
        y = jnp.roll(self.norms[0](x), (-1, -1), axis=(1, 2))
        y = y.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.attention(y)
        y = y.reshape(n, h // 2, w // 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + jnp.roll(y, (1, 1), axis=(1, 2))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        return self.head(nnx.relu(self.merge(x)).mean(axis=(1, 2)))


class ESPCN(nnx.Module):
    """Pixels shuffled out of channels, and a last layer on them: Shi et al. 2016."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(1, 6, (5, 5), rngs=rngs)
        self.b = nnx.Conv(6, 20, (3, 3), rngs=rngs)
        self.c = nnx.Conv(5, 1, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.b(nnx.tanh(self.a(x))))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return self.c(x.reshape(n, 2 * h, 2 * w, c // 4))


class Diffusion(nnx.Module):
    """A block of a denoising U-Net, conditioned on time: Ho et al. 2020."""

    def __init__(self, rngs: nnx.Rngs):
        self.time = modules([nnx.Linear(6, 10, rngs=rngs), nnx.Linear(10, 8, rngs=rngs)])
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.down = nnx.Conv(8, 12, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        self.a, self.b = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.Conv(20, 3, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        angles = x.mean(axis=(1, 2, 3))[:, None] * jnp.arange(1.0, 4.0)
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        time = self.time[1](nnx.silu(self.time[0](time)))
        x = self.stem(x)
        y = nnx.silu(self.norm(self.a(x))) + time[:, None, None]
        low = nnx.silu(self.down(x))
        low = jax.image.resize(low, (*x.shape[:-1], low.shape[-1]), "nearest")
        return self.b(jnp.concatenate([y, low], axis=-1))


class DiT(nnx.Module):
    """Shift, scale and gate of a norm from a condition: Peebles and Xie 2023."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Linear(3, 8, rngs=rngs)
        self.modulate = nnx.Linear(8, 24, rngs=rngs)
        self.norm = nnx.LayerNorm(8, use_bias=False, use_scale=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x).reshape(x.shape[0], -1, 8)
        condition = self.modulate(nnx.silu(x.mean(axis=1, keepdims=True)))
        shift, scale, gate = jnp.split(condition, 3, axis=-1)
        y = self.norm(x) * (1 + scale) + shift
        return self.head(x + gate * self.down(nnx.gelu(self.up(y))))
