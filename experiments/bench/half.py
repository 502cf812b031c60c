"""Half the operations in half the time: what narrower layers and fewer blocks gain on a CPU.

Claim: at half the operations, a ResNet-20 without four of its blocks gets at least 0.85 of the
    ideal gain in time, and so does a transformer, with one input if two of its blocks go. With
    narrower layers, XLA reaches it for a transformer with 32 inputs alone.
Command: python -m experiments.bench.half --steps 0    (time alone)
         python -m experiments.bench.half --networks    (accuracy alone)
Minutes: 7 for the first, on an otherwise idle machine, 5.5 of them for the transformer; 10 of
    processor time for the second.
Number (two AMD EPYC cores, random weights): without 4 blocks, 54.9 % of the operations, XLA gets
    0.87 and 0.88 of the ideal at batch 1 and 32, ONNX Runtime 1.00 and 0.94.

Networks are trained dense on CIFAR-10, cut, and trained for as many steps again, the dense one too.
Statistics of batch normalization are re-estimated after each training. Blocks are removed by
influence. ONNX Runtime runs the same models.
"""

import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from experiments.bench import rounds, runtimes
from experiments.bench.others import onnxruntime
from experiments.common.settings import environment
from jsparse import _timing
from jsparse._pure import evaluated
from jsparse.prune import costs, drop_blocks, influence, units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train and to measure."""

    networks: tuple[Literal["resnet-20", "transformer-512"], ...] = ("resnet-20", "transformer-512")
    """The second one is timed only, and takes long to cut."""
    steps: int = 300
    """Of the ResNet's training, before the cut and after it; 0: time alone."""
    batch: int = 32
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0,)
    inputs: tuple[int, ...] = (1, 32)
    """A call that is timed."""
    tested: int = 2000
    """Test images."""
    rounds: int = 11
    data: str = ""
    """Folder of CIFAR-10; drawn images if there is none."""


BLOCKS = {"resnet-20": "blocks/layers/[124578]", "transformer-512": "blocks/layers/[0-9]"}
"""That can go: those that keep the shape of their input."""
GONE = {"resnet-20": 4, "transformer-512": 2}
"""Blocks of which about half the operations are left."""


def ways(name: str, x: Array) -> dict[str, Callable[[nnx.Module], nnx.Module]]:
    """From a network to one at half the operations, or half the time."""
    half = functools.partial(units, budget=0.5)

    def shallow(model: nnx.Module, drop: int) -> nnx.Module:
        return drop_blocks(model, influence(model, [x], BLOCKS[name]), drop=drop)

    def both(model: nnx.Module) -> nnx.Module:
        part, model = costs.flops(x)(model) / 2, shallow(model, GONE[name] - 1)
        return units(model, x, budget=float(part / costs.flops(x)(model)), round_to=8)[0]

    return {
        "dense": lambda model: model,
        "any width": lambda model: half(model, x)[0],
        "multiples of 8": lambda model: half(model, x, round_to=8)[0],
        "multiples of 16": lambda model: half(model, x, round_to=16)[0],
        "half the time": lambda model: half(model, x, cost=costs.latency(x), round_to=8)[0],
        f"{GONE[name] - 1} blocks, multiples of 8": both,
        f"{GONE[name]} blocks": lambda model: shallow(model, GONE[name]),
    }


def cuts(name: str, model: nnx.Module, x: Array) -> Iterator[tuple[str, nnx.Module, float]]:
    """Each way, the smaller model, and the seconds that it took; not what cannot be had."""
    for way, cut in ways(name, x).items():
        start = time.perf_counter()
        try:
            small = cut(nnx.clone(model))
        except ValueError as error:  # no widths are fast enough
            print(f"{name}, {len(x)}, {way}: {error}", file=sys.stderr, flush=True)
            continue
        yield way, small, time.perf_counter() - start


def train(
    model: nnx.Module, images: datasets.Images, settings: Settings, seed: int, peak: float
) -> nnx.Module:
    """The model, trained in place, and its batch statistics re-estimated."""
    prepare = common.standardized(images).test
    draw = np.random.default_rng(seed)

    def batch() -> tuple[Array, Array]:
        rows = draw.integers(len(images.train_x), size=settings.batch)
        return prepare(jnp.asarray(images.train_x[rows])), jnp.asarray(images.train_y[rows])

    tx = optax.adam(optax.cosine_decay_schedule(peak, settings.steps))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    model.train()

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, y: Array) -> None:
        loss = lambda m: optax.softmax_cross_entropy_with_integer_labels(m(x), y).mean()
        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(settings.steps):
        step(model, optimizer, *batch())
    return jsparse.recalibrate(model, [batch()[0] for _ in range(8)])


def accuracies(settings: Settings, seed: int) -> dict[str, tuple[float, float, float]]:
    """Of each way: the part of the operations left, of test images right, and after training on."""
    images = datasets.cifar10(settings.data)
    prepare = common.standardized(images).test
    dense = networks.ResNet(20, nnx.Rngs(seed))
    dense = train(dense, images, settings, seed, settings.learning_rate)
    x = prepare(jnp.asarray(images.train_x[:32]))

    def right(model: nnx.Module) -> float:
        model = nnx.clone(model)
        model.eval()
        guess = nnx.jit(lambda m, x: m(x).argmax(-1))
        parts = [slice(n, n + 500) for n in range(0, settings.tested, 500)]
        hits = [
            guess(model, prepare(jnp.asarray(images.test_x[p]))) == images.test_y[p] for p in parts
        ]
        return float(np.mean(np.concatenate(hits)))

    found, cost = {}, costs.flops(x)
    for way, small, _ in cuts("resnet-20", dense, x):
        left, before = float(cost(small) / cost(dense)), right(small)
        after = train(small, images, settings, seed + 100, settings.learning_rate / 2)
        found[way] = left, before, right(after)
        shown = ", ".join(f"{one:.3f}" for one in found[way])
        print(f"seed {seed}, {way}: {shown}", file=sys.stderr, flush=True)
    return found


def times(name: str, inputs: int, settings: Settings) -> list[list[str]]:
    """A row for each way: operations left, ms, part of the ideal; in XLA and ONNX Runtime."""
    x, cores = jnp.asarray(runtimes.inputs(name, inputs)), rounds.usable_cores()
    dense = runtimes.SERVED[name].make(nnx.Rngs(0))
    clocks, models, took = {}, {}, {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for way, small, took[way] in cuts(name, dense, x):
            models[way] = evaluated(small)
            file = folder / f"{len(models)}.onnx"
            runtimes.write(file, models[way], np.asarray(x))
            other = rounds.There(onnxruntime, str(file), "1", cores=cores)
            clocks["XLA", way] = _timing.clock(models[way], x)
            clocks["ONNX Runtime", way] = stack.enter_context(other).seconds
        taken = _timing.in_turns(clocks, settings.rounds, sample=rounds.SAMPLE)
    rows = []
    for way, model in models.items():
        left = float(costs.flops(x)(model) / costs.flops(x)(dense))
        row = [name, f"{inputs}", way, f"{100 * left:.1f}", f"{took[way]:.1f}"]
        for runtime in ("XLA", "ONNX Runtime"):
            own = taken[runtime, way]
            part = float(np.median(taken[runtime, "dense"] / own))
            row += [f"{1e3 * np.median(own):.3g}", f"{part:.2f}", f"{part * left:.2f}"]
        rows.append(row)
    return rows


def main(settings: Settings) -> None:
    """Train, then measure."""
    print(f"{os.cpu_count()} cores, {environment()}")
    with networks.stock_operations():
        if settings.steps:
            found = [accuracies(settings, seed) for seed in settings.seeds]
            table = [
                [way, *(f"{100 * np.mean([one[way][k] for one in found]):.1f}" for k in range(3))]
                for way in found[0]
                if all(way in one for one in found)
            ]
            head = ["ResNet-20", "operations left [%]", "after the cut [%]", "trained on [%]"]
            print(common.table(head, table))
        load, rows = rounds.Load(), []
        for name in settings.networks:
            for inputs in settings.inputs:
                rows += times(name, inputs, settings)
    head = ["network", "inputs", "way", "operations left [%]", "cut [s]"]
    gains = ["times as fast", "of the ideal"]
    print(common.table([*head, "XLA [ms]", *gains, "ONNX Runtime [ms]", *gains], rows))
    print(load)


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
