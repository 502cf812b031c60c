"""Which channels jsparse.prune.units and Torch-Pruning remove from the same weights.

Claim: with the L2 norm of groups at half the width, both keep the same channels of VGG-16 and
    ResNet-20, and the same number of parameters.
Paper: Fang et al., DepGraph: Towards any structural pruning, CVPR 2023.
Command: python -m experiments.bench.torch_pruning --python PATH   (of a Python with torch and
    torch-pruning; they need not share one with jax)
Minutes: 1 on two cores.

Weights are random, with scales of batch norms between 0.5 and 1.5, so that no two scores are equal.
Torch-Pruning takes the mean over the weights of a group of the squared norm, `Joined(reduce=mean)`
here. Seconds are CPU seconds of the pruning alone, graph and cut included; ours also compare the
outputs with those of the masked model, which takes two compilations.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jsparse
from experiments.bench.rounds import answer
from experiments.bench.runtimes import weights
from experiments.networks.modules import modules
from jsparse import importance
from jsparse._slots import walk_modules

VGG16 = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"]
VGG16 += [512, 512, 512, "pool", 512, 512, 512, "pool"]
THEIRS = Path(__file__).with_name("torch_units.py")
Network = Literal["vgg16", "resnet20"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to compare."""

    python: Path
    """A Python with torch and torch-pruning."""
    networks: tuple[Network, ...] = ("vgg16", "resnet20")
    """Which networks."""
    density: float = 0.5
    """Fraction of the channels to keep."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the weights."""
    out: Path | None = None
    """Where to write the rows as JSON."""


def conv(i: int, o: int, size: int, rngs: nnx.Rngs, stride: int = 1) -> nnx.Conv:
    """Padded as torch pads."""
    window, pad = (size, size), [(size // 2, size // 2)] * 2
    return nnx.Conv(i, o, window, strides=stride, padding=pad, use_bias=False, rngs=rngs)


class VGG(nnx.Module):
    """VGG-16 with batch norm, for CIFAR."""

    def __init__(self, rngs: nnx.Rngs):
        widths = [size for size in VGG16 if isinstance(size, int)]
        pairs = list(zip([3, *widths], widths, strict=False))
        self.convs = modules([conv(i, o, 3, rngs) for i, o in pairs])
        self.norms = modules([nnx.BatchNorm(o, rngs=rngs) for o in widths])
        self.head = nnx.Linear(widths[-1], 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 32, 32, 3] to logits [n, 10]."""
        layers = zip(self.convs, self.norms, strict=True)
        for size in VGG16:
            if size == "pool":
                x = nnx.max_pool(x, (2, 2), (2, 2))
            else:
                layer, norm = next(layers)
                x = nnx.relu(norm(layer(x)))
        return self.head(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """A basic block; with a convolution around it where sizes change."""

    def __init__(self, i: int, o: int, rngs: nnx.Rngs):
        self.a, self.an = conv(i, o, 3, rngs, 1 if i == o else 2), nnx.BatchNorm(o, rngs=rngs)
        self.b, self.bn = conv(o, o, 3, rngs), nnx.BatchNorm(o, rngs=rngs)
        self.skip = modules([] if i == o else [conv(i, o, 1, rngs, 2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, i] to [n, h', w', o]."""
        y = self.bn(self.b(nnx.relu(self.an(self.a(x)))))
        for layer in self.skip:
            x = layer(x)
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """ResNet-20 for CIFAR."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem, self.norm = conv(3, 16, 3, rngs), nnx.BatchNorm(16, rngs=rngs)
        outs = [size for size in (16, 32, 64) for _ in range(3)]
        pairs = zip([16, *outs], outs, strict=False)
        self.blocks = modules([Block(i, o, rngs) for i, o in pairs])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 32, 32, 3] to logits [n, 10]."""
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def made(network: Network, seed: int) -> nnx.Module:
    """A network with random weights, in eval mode."""
    model = {"vgg16": VGG, "resnet20": ResNet}[network](nnx.Rngs(seed))
    draw = np.random.default_rng(seed)
    for _, module in walk_modules(model):
        if isinstance(module, nnx.BatchNorm):
            scale = draw.uniform(0.5, 1.5, module.num_features)
            module.scale[...] = jnp.asarray(scale, jnp.float32)
    model.eval()
    return model


def ours(model: nnx.Module, density: float) -> dict[str, Any]:
    """What we keep of it."""
    score = importance.Norm(2, importance.Joined(reduce=np.mean))
    start = time.process_time()
    small, record = jsparse.prune.units(model, (1, 32, 32, 3), density=density, importance=score)
    seconds = time.process_time() - start
    kept = {
        path.removesuffix("/kernel"): list(cut.keep.get(3, range(cut.shape[3])))
        for path, cut in record.cuts.items()
        if len(cut.shape) == 4
    }
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(small, nnx.Param)))
    flops = jsparse.report.costs(small, (1, 32, 32, 3)).flops
    return {"kept": kept, "parameters": size, "operations": flops / 2, "seconds": seconds}


def theirs(model: nnx.Module, network: Network, settings: Settings) -> dict[str, Any]:
    """What Torch-Pruning keeps of it."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "weights.npz", **weights(model))
        answer([settings.python, "-P", THEIRS, folder, network, settings.density])
        return json.loads((Path(folder) / "theirs.json").read_text())


def main(settings: Settings) -> None:
    """Compare, and print a row for each network and seed."""
    rows = []
    for network in settings.networks:
        for seed in settings.seeds:
            model = made(network, seed)
            mine, other = ours(model, settings.density), theirs(model, network, settings)
            layers = other["kept"].keys()
            same = sum(sorted(mine["kept"][one]) == sorted(other["kept"][one]) for one in layers)
            row = {"network": network, "seed": seed, "layers": len(layers), "same": same}
            for name in ("parameters", "operations", "seconds"):
                row |= {f"{name}, ours": mine[name], f"{name}, theirs": other[name]}
            rows.append(row)
            print(json.dumps(row))
    if settings.out:
        settings.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Settings))
