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
from experiments import networks
from experiments.bench.rounds import clocked
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
        model = thinned(networks.BottleneckNet(nnx.Rngs(0)), ("conv1/kernel", "conv2/kernel"))
        x = jnp.ones((1, settings.side, settings.side, 3))
        measure("resnet-50", model, x, settings.rounds)
    for depth in settings.depths if "transformer" in settings.networks else ():
        sizes = {"width": settings.width, "heads": settings.width // 32, "context": 32}
        model = networks.Transformer(256, nnx.Rngs(0), blocks=depth, **sizes)
        tokens = jnp.zeros((1, 32), jnp.int32)
        measure(f"transformer {depth}", thinned(model, ("wide/kernel",)), tokens, settings.rounds)


if __name__ == "__main__":
    main(tyro.cli(Settings))
