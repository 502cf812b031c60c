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
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jsparse
from experiments.bench.rounds import clocked
from experiments.networks import BottleneckNet
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


def compiled(model: nnx.Module, x: jax.Array) -> None:
    """Trace and compile the model in eval mode."""
    run, variables, _ = pure(evaluated(model))
    jax.jit(lambda given, x: run(given, x)[0]).lower(variables, x).compile()


def measure(name: str, model: nnx.Module, x: jax.Array, rounds: int) -> None:
    """Print the two times and their ratio."""
    taken = []
    for _ in range(rounds):
        for work in (compiled, jsparse.shrink):
            jax.clear_caches()
            taken.append(clocked(partial(work, model, x))[2])
    once, whole = min(taken[::2]), min(taken[1::2])
    print(f"{name:16s} compile {once:6.1f} s  shrink {whole:6.1f} s", end="  ")
    print(f"ratio {whole / once:.2f}", flush=True)


def main(settings: Settings) -> None:
    """Measure each model."""
    if "resnet-50" in settings.networks:
        model = thinned(BottleneckNet(nnx.Rngs(0)), ("conv1/kernel", "conv2/kernel"))
        x = jnp.ones((1, settings.side, settings.side, 3))
        measure("resnet-50", model, x, settings.rounds)
    for depth in settings.depths if "transformer" in settings.networks else ():
        model = thinned(Transformer(depth, settings.width, nnx.Rngs(0)), ("up/kernel",))
        tokens = jnp.zeros((1, 32), jnp.int32)
        measure(f"transformer {depth}", model, tokens, settings.rounds)


if __name__ == "__main__":
    main(tyro.cli(Settings))
