"""What shrinking costs, against tracing and compiling the model itself.

Claim: ResNet-50 and a transformer of 24 layers shrink in about 3 times one trace and compile of
    the model, and the time grows linearly with depth.
Command: python -m experiments.bench.shrink_time
Minutes: 2 on two cores.

A quarter of the units of each layer inside a block is zero. Times are CPU seconds of the process,
of all threads, so that other work on the machine does not count; each is the minimum of several
runs in turns, with cold caches.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jsparse
from experiments.networks.modules import modules
from jsparse._pure import evaluated, pure
from jsparse._slots import slots


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    networks: tuple[Literal["resnet-50", "transformer"], ...] = ("resnet-50", "transformer")
    """Which models."""
    depths: tuple[int, ...] = (6, 12, 24, 48)
    """Layers of the transformer."""
    width: int = 256
    """Features of the transformer."""
    side: int = 224
    """Pixels of an image along a side."""
    rounds: int = 2
    """Runs of each."""


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; He et al. 2016, figure 5."""

    def __init__(self, i: int, width: int, stride: int, rngs: nnx.Rngs):
        sizes = [(i, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.convs = modules(
            [nnx.Conv(a, b, (k, k), strides=s, use_bias=False, rngs=rngs) for a, b, k, s in sizes]
        )
        self.norms = modules([nnx.BatchNorm(b, rngs=rngs) for _, b, _, _ in sizes])
        self.short = modules([])
        if i != 4 * width:
            self.short.append(
                nnx.Conv(i, 4 * width, (1, 1), strides=stride, use_bias=False, rngs=rngs)
            )
            self.short.append(nnx.BatchNorm(4 * width, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for n, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(nnx.relu(y) if n else y))
        for layer in self.short:
            x = layer(x)
        return nnx.relu(x + y)


class ResNet50(nnx.Module):
    """Of 3, 4, 6 and 3 bottlenecks."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 64, (7, 7), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.blocks, i = modules([]), 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for n in range(count):
                stride = 2 if stage and n == 0 else 1
                self.blocks.append(Bottleneck(i, 64 * 2**stage, stride, rngs))
                i = 256 * 2**stage
        self.head = nnx.Linear(i, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class Layer(nnx.Module):
    """Attention and two dense layers, normalized first."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = modules([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(width // 32, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    """A stack of layers between an embedding and a head."""

    def __init__(self, depth: int, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(256, width, rngs=rngs)
        self.layers = modules([Layer(width, rngs) for _ in range(depth)])
        self.head = nnx.Linear(width, 256, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def thinned(model: nnx.Module, inner: tuple[str, ...]) -> nnx.Module:
    """The model without a quarter of the outputs of the layers with such names."""
    for slot in slots(model):
        if slot.path.endswith(inner):
            value = slot.value[...]
            dead = np.arange(value.shape[-1]) % 4 == 0
            slot.value[...] = jnp.where(dead, 0.0, value)
    return model


def compile_once(model: nnx.Module, x: jax.Array) -> None:
    """Trace and compile the model in eval mode."""
    run, variables, _ = pure(evaluated(model))
    jax.jit(lambda given, x: run(given, x)[0]).lower(variables, x).compile()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a piece of work with cold caches."""
    jax.clear_caches()
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, model: nnx.Module, x: jax.Array, rounds: int) -> None:
    """Print the two times and their ratio."""
    once, whole = [], []
    for _ in range(rounds):
        once.append(seconds(lambda: compile_once(model, x)))
        whole.append(seconds(lambda: jsparse.shrink(model, x)))
    print(f"{name:16s} compile {min(once):6.1f} s  shrink {min(whole):6.1f} s", end="  ")
    print(f"ratio {min(whole) / min(once):.2f}", flush=True)


def main(settings: Settings) -> None:
    """Measure each model."""
    if "resnet-50" in settings.networks:
        inner = tuple(f"convs/{n}/kernel" for n in (0, 1))
        model = thinned(ResNet50(nnx.Rngs(0)), inner)
        x = jnp.ones((1, settings.side, settings.side, 3))
        measure("resnet-50", model, x, settings.rounds)
    if "transformer" in settings.networks:
        for depth in settings.depths:
            model = thinned(Transformer(depth, settings.width, nnx.Rngs(0)), ("up/kernel",))
            tokens = jnp.zeros((1, 32), jnp.int32)
            measure(f"transformer {depth}", model, tokens, settings.rounds)


if __name__ == "__main__":
    main(tyro.cli(Settings))
