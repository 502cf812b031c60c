"""What shrinking gains at inference, against the ideal: the operations that are left.

Claim: without half the channels of each layer, a shrunk VGG-16 (32x32) and MLP reach at least 0.9
    of the speed-up that their operations suggest; no network is slower after shrinking.
Command: python -m experiments.bench.shrunk
         python -m experiments.bench.shrunk --networks vgg-16 resnet-20    (a GPU)
Minutes: 1 on two otherwise idle cores.

A part of the units of each layer except the last is set to zero, `jsparse.shrink` removes them, and
the forward pass in eval mode takes turns with that of the original network. A part such as 0.47
leaves widths that are not multiples of 16, as learned ones do.
"""

import dataclasses
import os
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jsparse
from experiments import common, networks
from experiments.bench.networks import NETWORKS
from experiments.bench.rounds import Here, Load, in_turns, made_with, ratio
from experiments.bench.runtimes import convolved, fastest
from jsparse._slots import walk_modules
from jsparse.report import costs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    networks: tuple[
        Literal["mlp-1024", "vgg-16", "resnet-20", "wrn-16-8", "lenet-300-100"], ...
    ] = ("mlp-1024", "vgg-16")
    """Those of `bench.step`."""
    parts: tuple[float, ...] = (0.5, 0.47)
    """Of the units of each layer that stay."""
    batches: tuple[int, ...] = (1, 128)
    """Inputs a call."""
    rounds: int = 9
    """Samples of each candidate."""


def thinned(model: nnx.Module, part: float) -> nnx.Module:
    """The network with this part of the units of each layer but the last; the others are zeros."""
    kept = nnx.clone(model)
    layers = [m for _, m in walk_modules(kept) if isinstance(m, nnx.Linear | nnx.Conv)]
    for layer in layers[:-1]:
        width = layer.kernel.shape[-1]
        stays = np.random.default_rng(0).permutation(width)[: round(part * width)]
        mask = jnp.asarray(np.isin(np.arange(width), stays), layer.kernel.dtype)
        layer.kernel[...] = layer.kernel[...] * mask
        if layer.bias is not None:
            layer.bias[...] = layer.bias[...] * mask
    return kept


def call(model: nnx.Module, x: jax.Array) -> Here:
    """The compiled forward pass in eval mode, with the convolution for calls of their own."""
    model = nnx.clone(model)
    model.eval()
    return fastest(convolved(model, networks.convolution(scanned=False)), x)


def main(settings: Settings) -> None:
    """Measure network by network."""
    print(f"{jax.default_backend()}, {os.cpu_count()} cores")
    print(made_with())
    for name in settings.networks:
        network = NETWORKS[name]
        x = jnp.asarray(network.draw(np.random.default_rng(0))[0])
        dense = network.make(nnx.Rngs(0))
        small = {p: jsparse.shrink(thinned(dense, p), x[:2])[0] for p in settings.parts}
        rows, load = [], Load()
        for batch in settings.batches:
            given = jnp.tile(x, (-(-batch // len(x)), *(1,) * (x.ndim - 1)))[:batch]
            calls = {"dense": call(dense, given)}
            calls |= {f"{p:g}": call(model, given) for p, model in small.items()}
            times = in_turns(calls, settings.rounds)
            for part, model in small.items():
                ideal = costs(dense, given).flops / costs(model, given).flops
                gain, spread = ratio(times["dense"], times[f"{part:g}"])
                ms, of = f"{1e3 * np.median(times['dense']):.3f}", f"{float(gain) / ideal:.2f}"
                rows.append([batch, f"{part:g}", ms, gain, spread, f"{ideal:.2f}", of])
        print(f"\n{name}: {load}")
        header = ["batch", "units left", "dense ms", "times as fast", "quartiles", "ideal"]
        print(common.table([*header, "of the ideal"], rows), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
