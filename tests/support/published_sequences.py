"""Published models of sequences and graphs, small, written after their papers' layouts."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tests.support.zoo import modules


class RMSNorm(nnx.Module):
    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        mean = jnp.mean(x * x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean + 1e-6) * self.scale[...]


class Mamba2Mixer(nnx.Module):
    """State space duality, one chunk: Dao and Gu 2024, section 7; sizes in attributes."""

    def __init__(self, width: int, inner: int, states: int, heads: int, rngs: nnx.Rngs):
        self.inner, self.states, self.heads = inner, states, heads
        mixed = inner + 2 * states
        self.enter = nnx.Linear(width, inner + mixed + heads, use_bias=False, rngs=rngs)
        self.conv = nnx.Conv(
            mixed, mixed, (4,), padding="VALID", feature_group_count=mixed, rngs=rngs
        )
        self.decay = nnx.Param(jnp.linspace(0.0, 1.0, heads))
        self.skip = nnx.Param(jnp.ones(heads))
        self.norm = RMSNorm(inner)
        self.leave = nnx.Linear(inner, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, length, _ = x.shape
        gate, mixed, step = jnp.split(
            self.enter(x), [self.inner, 2 * self.inner + 2 * self.states], axis=-1
        )
        mixed = nnx.silu(self.conv(jnp.pad(mixed, ((0, 0), (3, 0), (0, 0)))))
        x, key, query = jnp.split(mixed, [self.inner, self.inner + self.states], axis=-1)
        x = x.reshape(batch, length, self.heads, -1)
        step = nnx.softplus(step)
        past = jnp.cumsum(-jnp.exp(self.decay[...]) * step, axis=1)
        between = past[:, :, None] - past[:, None]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, :, :, None]
        weights = jnp.exp(jnp.where(causal, between, -jnp.inf))
        weights = weights * jnp.einsum("btn,bsn->bts", query, key)[..., None]
        y = jnp.einsum("btsh,bshp->bthp", weights, x * step[..., None])
        y = (y + self.skip[...][:, None] * x).reshape(batch, length, -1)
        return self.leave(self.norm(y * nnx.silu(gate)))


class Mamba2(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.mixers = modules([Mamba2Mixer(8, 12, 6, 3, rngs) for _ in range(2)])
        self.norms = modules([RMSNorm(8) for _ in range(3)])
        self.head = nnx.Linear(8, 11, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=False):
            x = x + mixer(norm(x))
        return self.head(self.norms[2](x))


class GPT2(nnx.Module):
    """One product for queries, keys and values, the number of heads in the code."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed, self.places = nnx.Embed(11, 8, rngs=rngs), nnx.Embed(16, 8, rngs=rngs)
        self.norms = modules([nnx.LayerNorm(8, rngs=rngs) for _ in range(3)])
        self.enter, self.leave = nnx.Linear(8, 24, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens) + self.places(jnp.arange(tokens.shape[1]))
        parts = jnp.split(self.enter(self.norms[0](x)), 3, axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], 2, -1) for part in parts)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.leave(y.reshape(*y.shape[:2], -1))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.embed.attend(self.norms[2](x))


class Einsum(nnx.Module):
    """A weight and an equation, as Gemma has them."""

    def __init__(self, equation: str, shape: tuple[int, ...], rngs: nnx.Rngs):
        self.equation = equation
        self.w = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, x: Array) -> Array:
        return jnp.einsum(self.equation, x, self.w[...])


class Gemma(nnx.Module):
    """Grouped queries, rotary positions, gated layers, a cache: Gemma Team 2024."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Param(jax.random.normal(rngs.params(), (11, 8)))
        self.norms = modules([RMSNorm(8) for _ in range(3)])
        self.query = Einsum("btd,dkgh->btkgh", (8, 2, 2, 4), rngs)
        self.both = Einsum("bsd,cdkh->cbskh", (2, 8, 2, 4), rngs)
        self.leave = Einsum("btkgh,kghd->btd", (2, 2, 4, 8), rngs)
        self.gate = Einsum("btd,cdf->cbtf", (2, 8, 12), rngs)
        self.down = Einsum("btf,fd->btd", (12, 8), rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed[...][tokens] * jnp.sqrt(8.0)
        y = self.norms[0](x)
        q, (k, v) = self.query(y), self.both(y)
        k, v = (self.cached(part) for part in (self.turned(k), v))
        scores = jnp.einsum("btkgh,bskh->bkgts", self.turned(q), k)
        seen = jnp.arange(10)[None] <= jnp.arange(x.shape[1])[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9))
        x = x + self.leave(jnp.einsum("bkgts,bskh->btkgh", weights, v))
        gate, up = self.gate(self.norms[1](x))
        x = x + self.down(nnx.gelu(gate) * up)
        return self.norms[2](x) @ self.embed[...].T

    @staticmethod
    def cached(part: Array) -> Array:
        cache = jnp.zeros((part.shape[0], 10, *part.shape[2:]))
        return jax.lax.dynamic_update_slice(cache, part, (0, 0, 0, 0))

    @staticmethod
    def turned(x: Array) -> Array:
        angles = jnp.arange(x.shape[1])[:, None] / 100.0 ** (jnp.arange(2) / 2)
        angles = angles.reshape(1, x.shape[1], *[1] * (x.ndim - 3), 2)
        a, b = jnp.split(x, 2, axis=-1)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Mixture(nnx.Module):
    """Two of four experts for each token: Shazeer et al. 2017, Mixtral's form."""

    def __init__(self, rngs: nnx.Rngs):
        self.route = nnx.Linear(6, 4, use_bias=False, rngs=rngs)
        normal = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape))
        self.gates, self.ups, self.downs = normal(4, 6, 10), normal(4, 6, 10), normal(4, 10, 6)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        scores, chosen = jax.lax.top_k(self.route(x), 2)
        weights = jnp.zeros((x.shape[0], 4))
        rows = jnp.arange(x.shape[0])[:, None]
        weights = weights.at[rows, chosen].set(jax.nn.softmax(scores))
        y = nnx.silu(jnp.einsum("bd,edf->bef", x, self.gates[...]))
        y = y * jnp.einsum("bd,edf->bef", x, self.ups[...])
        return self.head(x + jnp.einsum("bef,efd,be->bd", y, self.downs[...], weights))


class WaveNet(nnx.Module):
    """Dilated causal convolutions with gates, and skips: van den Oord et al. 2016."""

    def __init__(self, rngs: nnx.Rngs):
        conv = lambda i, o, k, d: nnx.Conv(
            i, o, (k,), padding="CAUSAL", kernel_dilation=(d,), rngs=rngs
        )
        self.stem = conv(3, 6, 1, 1)
        self.filters = modules([conv(6, 8, 2, 2**n) for n in range(2)])
        self.gates = modules([conv(6, 8, 2, 2**n) for n in range(2)])
        self.rest = modules([conv(8, 6, 1, 1) for _ in range(2)])
        self.skips = modules([conv(8, 5, 1, 1) for _ in range(2)])
        self.head = conv(5, 3, 1, 1)

    def __call__(self, x: Array) -> Array:
        x, total = self.stem(x), 0.0
        for a, b, rest, skip in zip(self.filters, self.gates, self.rest, self.skips, strict=True):
            y = nnx.tanh(a(x)) * nnx.sigmoid(b(x))
            x, total = x + rest(y), total + skip(y)
        return self.head(nnx.relu(total))


SENDERS = jnp.array([0, 1, 2, 3, 0, 2])
RECEIVERS = jnp.array([1, 2, 3, 0, 2, 0])


class GraphNet(nnx.Module):
    """Messages along edges, summed at nodes, twice: Battaglia et al. 2018."""

    def __init__(self, rngs: nnx.Rngs):
        self.messages = modules([nnx.Linear(12, 8, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)])
        self.updates = modules([nnx.Linear(14, 8, rngs=rngs), nnx.Linear(16, 6, rngs=rngs)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for message, update in zip(self.messages, self.updates, strict=True):
            pairs = jnp.concatenate([x[SENDERS], x[RECEIVERS]], axis=-1)
            got = jax.ops.segment_sum(nnx.relu(message(pairs)), RECEIVERS, x.shape[0])
            x = nnx.relu(update(jnp.concatenate([x, got], axis=-1)))
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
        return self.head(x)


class GraphAttention(nnx.Module):
    """Attention over neighbors: Velickovic et al. 2018."""

    def __init__(self, rngs: nnx.Rngs):
        self.values = nnx.LinearGeneral(6, (3, 4), rngs=rngs)
        self.ours = nnx.Param(jax.random.normal(rngs.params(), (3, 4)))
        self.theirs = nnx.Param(jax.random.normal(rngs.params(), (3, 4)))
        self.head = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x, nodes = self.values(x), x.shape[0]
        ours, theirs = (jnp.einsum("nhd,hd->nh", x, w[...]) for w in (self.ours, self.theirs))
        scores = nnx.leaky_relu(ours[RECEIVERS] + theirs[SENDERS])
        scores = jnp.exp(scores - jax.ops.segment_max(scores, RECEIVERS, nodes)[RECEIVERS])
        total = jax.ops.segment_sum(scores, RECEIVERS, nodes)
        weights = scores / total[RECEIVERS]
        y = jax.ops.segment_sum(weights[..., None] * x[SENDERS], RECEIVERS, nodes)
        return self.head(nnx.elu(y).reshape(nodes, -1))
