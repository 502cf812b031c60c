"""Small nets of every kind, for what must hold on any model."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def modules(items: list) -> list:
    """A list that NNX takes as an attribute, on every version."""
    return nnx.List(items) if hasattr(nnx, "List") else items


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 8, rngs=rngs)
        self.b = nnx.Linear(8, 7, rngs=rngs)
        self.c = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.c(nnx.relu(self.b(nnx.tanh(self.a(x)))))


class LeNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.b = nnx.Conv(4, 6, (3, 3), padding="VALID", rngs=rngs)
        self.c = nnx.Linear(2 * 2 * 6, 10, rngs=rngs)
        self.d = nnx.Linear(10, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.a(x)), (2, 2), (2, 2))
        x = nnx.relu(self.b(x)).reshape(x.shape[0], -1)
        return self.d(nnx.relu(self.c(x)))


class VGG(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        widths = [(3, 6), (6, 8), (8, 8)]
        self.convs = modules([nnx.Conv(i, o, (3, 3), rngs=rngs) for i, o in widths])
        self.norms = modules([nnx.BatchNorm(o, rngs=rngs) for _, o in widths])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for conv, bn in zip(self.convs, self.norms, strict=True):
            x = nnx.avg_pool(nnx.relu(bn(conv(x))), (2, 2), (1, 1))
        return self.head(self.drop(x.mean(axis=(1, 2))))


class Block(nnx.Module):
    """A basic block; with a projection where sizes change."""

    def __init__(self, i: int, o: int, rngs: nnx.Rngs):
        stride = 1 if i == o else 2
        self.a = nnx.Conv(i, o, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.an = nnx.BatchNorm(o, rngs=rngs)
        self.b = nnx.Conv(o, o, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(o, rngs=rngs)
        self.skip = modules([] if i == o else [nnx.Conv(i, o, (1, 1), strides=2, rngs=rngs)])

    def __call__(self, x: Array) -> Array:
        y = self.bn(self.b(nnx.relu(self.an(self.a(x)))))
        for conv in self.skip:
            x = conv(x)
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.blocks = modules([Block(6, 6, rngs), Block(6, 8, rngs)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class PaddedResNet(nnx.Module):
    """A shortcut that pads channels with zeros."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.a = nnx.Conv(4, 8, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.stem(x))
        x = self.a(x) + jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
        return self.head(nnx.relu(x).mean(axis=(1, 2)))


class WRN(nnx.Module):
    """A block with normalization before the convolution, and an identity around it."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.an, self.a = nnx.BatchNorm(6, rngs=rngs), nnx.Conv(6, 8, (3, 3), rngs=rngs)
        self.bn, self.b = nnx.BatchNorm(8, rngs=rngs), nnx.Conv(8, 6, (3, 3), rngs=rngs)
        self.cn, self.head = nnx.BatchNorm(6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        x = x + self.b(nnx.relu(self.bn(self.a(nnx.relu(self.an(x))))))
        return self.head(nnx.relu(self.cn(x)).mean(axis=(1, 2)))


class DenseNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.b = nnx.Conv(4, 5, (3, 3), rngs=rngs)
        self.cn = nnx.BatchNorm(9, rngs=rngs)
        self.c = nnx.Conv(9, 4, (1, 1), rngs=rngs)
        self.head = nnx.Linear(13, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.a(x))
        x = jnp.concatenate([x, nnx.relu(self.b(x))], axis=-1)
        x = jnp.concatenate([x, self.c(nnx.relu(self.cn(x)))], axis=-1)
        return self.head(nnx.relu(x).mean(axis=(1, 2)))


class UNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.down = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.mid = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(6, 5, (2, 2), strides=(2, 2), rngs=rngs)
        self.out = nnx.Conv(9, 2, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.down(x))
        y = nnx.relu(self.up(nnx.relu(self.mid(x))))
        y = jax.image.resize(y, x.shape[:-1] + y.shape[-1:], "nearest")
        return self.out(jnp.concatenate([x, y], axis=-1))


class MobileNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 8, (1, 1), rngs=rngs)
        self.an = nnx.BatchNorm(8, rngs=rngs)
        self.b = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.c = nnx.Conv(8, 5, (1, 1), rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu6(self.an(self.a(x)))
        x = jax.nn.relu6(self.bn(self.b(x)))
        return self.head(self.c(x).mean(axis=(1, 2)))


class Grouped(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 6, (1, 1), rngs=rngs)
        self.b = nnx.Conv(6, 9, (3, 3), feature_group_count=3, rngs=rngs)
        self.c = nnx.Conv(9, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))


class Recurrent(nnx.Module):
    """A classifier of sequences on the last state of a cell."""

    def __init__(self, cell: type, rngs: nnx.Rngs):
        self.embed = nnx.Embed(11, 5, rngs=rngs)
        self.rnn = nnx.RNN(cell(5, 6, rngs=rngs))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        return self.head(self.rnn(self.embed(tokens))[:, -1])


class Transformer(nnx.Module):
    """Two layers with normalization first; a decoder, with tied embeddings, if causal."""

    def __init__(self, causal: bool, rngs: nnx.Rngs):
        self.causal = causal
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.place = nnx.Param(0.1 * jax.random.normal(rngs.params(), (12, 8)))
        attention = lambda: nnx.MultiHeadAttention(4, 8, decode=False, rngs=rngs)
        self.attentions = modules([attention(), attention()])
        self.norms = modules([nnx.LayerNorm(8, rngs=rngs) for _ in range(4)])
        self.ups = modules([nnx.Linear(8, 10, rngs=rngs) for _ in range(2)])
        self.downs = modules([nnx.Linear(10, 8, rngs=rngs) for _ in range(2)])

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens) + self.place[...][None, : tokens.shape[1]]
        mask = nnx.make_causal_mask(tokens) if self.causal else None
        for n, attention in enumerate(self.attentions):
            x = x + attention(self.norms[2 * n](x), mask=mask)
            x = x + self.downs[n](nnx.gelu(self.ups[n](self.norms[2 * n + 1](x))))
        return self.embed.attend(x) if self.causal else x.mean(axis=1)


class OwnAttention(nnx.Module):
    """One projection for queries, keys and values, split by hand; heads told by the shape."""

    def __init__(self, rngs: nnx.Rngs):
        self.qkv = nnx.Param(jax.random.normal(rngs.params(), (6, 3, 4, 2)))
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.moveaxis(jnp.einsum("btd,dche->btche", x, self.qkv[...]), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k))
        y = jnp.einsum("bhts,bshe->bthe", weights, v)
        return self.out(y.reshape(*y.shape[:2], -1))


class Tied(nnx.Module):
    """An autoencoder whose decoder is its encoder, transposed."""

    def __init__(self, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (6, 8)))
        self.hidden = nnx.Param(jnp.linspace(-0.5, 0.7, 8))

    def __call__(self, x: Array) -> Array:
        return nnx.relu(x @ self.w[...] + self.hidden[None]) @ self.w[...].T


class GroupNormed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        self.b = nnx.Conv(8, 2, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b(nnx.relu(self.norm(self.a(x))))


class Positions(nnx.Module):
    """A table of positions of which short inputs read the first rows only."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 8, rngs=rngs)
        self.table = nnx.Param(jax.random.normal(rngs.params(), (9, 8)))
        self.b = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b(nnx.relu(self.a(x) + self.table[...][None, : x.shape[1]]))


class Stubborn(nnx.Module):
    """Sizes in the code: widths that are averaged over, split at a fixed place, or spelled out."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 8, rngs=rngs)
        self.b = nnx.Linear(8, 8, rngs=rngs)
        self.c = nnx.Linear(8, 8, rngs=rngs)
        self.d = nnx.Linear(8, 5, rngs=rngs)
        self.e = nnx.Linear(5, 3, rngs=rngs)
        self.width = 8

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.a(x))
        x = x - x.mean(axis=-1, keepdims=True)
        x = self.b(x).reshape(-1, self.width)
        x = nnx.relu(self.c(jnp.concatenate([x[:, :4], 2 * x[:, 4:]], axis=-1)))
        return self.e(nnx.relu(self.d(x / x.shape[-1])))


class Looped(nnx.Module):
    """A loop and a branch, which are not looked into, and a stack of layers, which is."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 8, rngs=rngs)
        self.ups = nnx.Param(jax.random.normal(rngs.params(), (3, 8, 7)))
        self.downs = nnx.Param(jax.random.normal(rngs.params(), (3, 7, 8)))
        self.b = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jnp.tanh(self.a(x))
        layer = lambda x, w: (x + jnp.tanh(x @ w[0]) @ w[1], None)
        x, _ = jax.lax.scan(layer, x, (self.ups[...], self.downs[...]))
        x = jax.lax.fori_loop(0, 2, lambda n, y: 0.5 * y, x)
        return jax.lax.cond(x.sum() > 0, lambda y: self.b(nnx.relu(y)), self.b, x)


class SharedKeys(nnx.Module):
    """Attention in which two heads of queries share one of keys and values."""

    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.LinearGeneral(6, (4, 2), rngs=rngs)
        self.key = nnx.LinearGeneral(6, (2, 2), rngs=rngs)
        self.value = nnx.LinearGeneral(6, (2, 2), rngs=rngs)
        self.out = nnx.LinearGeneral((4, 2), 6, axis=(-2, -1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = jax.nn.dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.out(y)


class ShuffleNet(nnx.Module):
    """Channels change places between groups; another branch weighs them."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 8, (1, 1), rngs=rngs)
        self.b = nnx.Conv(8, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.c = nnx.Conv(8, 3, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.b(nnx.relu(self.a(x)))
        x = x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)
        gate = nnx.sigmoid(self.up(nnx.silu(self.down(x.mean(axis=(1, 2))))))
        return self.c(x * gate[:, None, None])


class Residual(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.up = nnx.Linear(6, 8, rngs=rngs)
        self.down = nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Stacked(nnx.Module):
    """Layers stacked by vmap and run by a scan that recomputes."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.split_rngs(splits=3)(nnx.vmap(Residual))(rngs)
        self.head = nnx.Einsum("bi,iho->bho", (6, 4, 2), (4, 2), rngs=rngs)
        self.out = nnx.Einsum("bho,hoz->bz", (4, 2, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def forward(block: Residual, x: Array) -> Array:
            return block(x)

        return self.out(nnx.relu(self.head(forward(self.blocks, x))))
