"""A million neurons on two cores: a network of links, trained with SET, that is never dense.

Claim: 65,536 inputs - 3 x 311,480 - 10 at 20 links per unit train at batch 128 in 3 GB with
    changing links; time and memory grow with the links, where a dense network ends near 10^4
    neurons.

Paper: Liu et al., Sparse evolutionary deep learning with over one million artificial neurons on
    commodity hardware, Neural Computing and Applications 2021, which trains such networks on a CPU
    (SET, one core, in SciPy). Its data sets have up to 65,536 inputs and two classes; here inputs
    are drawn: ten fixed centers of as many inputs, and noise around them.

Command: python -m experiments.million            (10^4 to 10^6 neurons, 200 steps of the largest)
         python -m experiments.million --quick    (10^4 and 30,000 neurons, 20 steps: half a minute)

Each size runs in its own process, so peak memory is separate. Seconds are processor time, over all
cores: medians of steps that change no links, and of those that do.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.common.settings import environment
from experiments.networks.modules import modules
from jsparse.export import random_csr

CLASSES = 10
INPUTS, MILLION = 65_536, 1_000_000
"""Inputs of the network of a million neurons; smaller ones have the same fraction."""
BYTES_A_WEIGHT = 16
"""Weight, gradient and Adam's two moments, in float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train."""

    neurons: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000, 1_000_000)
    """Inputs, hidden units and outputs together."""
    links: int = 20
    """Of each hidden unit."""
    batch: int = 128
    steps: int = 200
    """Of the last size."""
    short: int = 25
    """Steps of the others."""
    every: int = 10
    """Steps between changes of the masks."""
    fraction: float = 0.3
    """Of the links, exchanged at each change."""
    learning_rate: float = 1e-3
    """Of Adam."""
    dense_gb: float = 4.0
    """The dense network is trained too if its weights and their moments take no more than this."""
    one: int = 0
    """For a separate process: its only size, dense if below 0."""
    out: Path = Path("runs/million")
    quick: bool = False
    """Two small sizes."""


class Net(nnx.Module):
    """Three hidden layers and a dense head, whose logits are divided by the root of its inputs.

    Adam moves every weight by the learning rate, whatever the number of inputs, so without that the
    logits of a head of 311,480 inputs would move by hundreds in the first step (Yang et al., Tensor
    programs V, 2022).
    """

    def __init__(self, neurons: int, links: int):
        inputs, width = sizes(neurons)
        keys, ends = jax.random.split(jax.random.key(0), 3), (inputs, width, width, width)
        rngs = nnx.Rngs(1)
        self.hidden = modules(
            [
                random_csr(i, o, links=links, key=key, scale=2.0)
                if links
                else nnx.Linear(i, o, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
                for i, o, key in zip(ends[:-1], ends[1:], keys, strict=True)
            ]
        )
        self.head = nnx.Linear(width, CLASSES, kernel_init=nnx.initializers.normal(1.0), rngs=rngs)
        self.scale = width**-0.5

    def __call__(self, x: Array) -> Array:
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x) * self.scale


def sizes(neurons: int) -> tuple[int, int]:
    """Inputs, and units of each hidden layer."""
    inputs = round(neurons * INPUTS / MILLION)
    return inputs, round((neurons - inputs - CLASSES) / 3)


def dense_bytes(neurons: int) -> int:
    """Bytes of the weights of the dense network, their gradients and moments."""
    inputs, width = sizes(neurons)
    return BYTES_A_WEIGHT * width * (inputs + 2 * width + CLASSES)


def draw(key: Array, batch: int, inputs: int) -> tuple[Array, Array]:
    """A batch: one of ten centers, plus equally strong noise."""
    of_labels, of_noise = jax.random.split(key)
    y = jax.random.randint(of_labels, (batch,), 0, CLASSES)
    centers = jax.random.normal(jax.random.key(7), (CLASSES, inputs))
    x = (centers[y] + jax.random.normal(of_noise, (batch, inputs))) * 0.5**0.5
    return x, y


def trained(settings: Settings) -> dict[str, Any]:
    """Train one size; processor seconds, bytes and losses."""
    neurons, dense = abs(settings.one), settings.one < 0
    start = time.process_time()
    model = Net(neurons, 0 if dense else settings.links)
    inner = optax.adam(settings.learning_rate)
    if dense:
        optimizer = jsparse.Optimizer(model, inner)
    else:
        by = jsparse.SET(last=10**9, every=settings.every, fraction=settings.fraction)
        optimizer = jsparse.PackedOptimizer(model, jsparse.revise(inner, ("hidden/.*/kernel", by)))
    made = time.process_time() - start

    @nnx.jit(donate_argnums=(0, 1))
    def step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, y: Array) -> Array:
        def loss(model: Any) -> Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        found, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return found

    batches = jax.jit(lambda n: draw(jax.random.key(n), settings.batch, sizes(neurons)[0]))
    losses, seconds = [], []
    for n in range(1, settings.steps + 1):
        x, y = jax.block_until_ready(batches(n))
        start = time.process_time()
        losses.append(float(step(model, optimizer, x, y)))
        seconds.append(time.process_time() - start)
        print(f"{neurons:,}, step {n}: {losses[-1]:.3f}, {seconds[-1]:.2f} s", file=sys.stderr)
    moves = [n % settings.every == 0 for n in range(1, settings.steps + 1)]
    of = lambda move: [s for s, one in zip(seconds[1:], moves[1:], strict=True) if one == move]
    state = jax.tree.leaves((nnx.state(model), nnx.state(optimizer)))
    return {
        "neurons": neurons,
        "dense": dense,
        "weights": sum(w.size for w in jax.tree.leaves(nnx.state(model, nnx.Param))),
        "seconds to make": made,
        "seconds a step": float(np.median(of(False))),
        "seconds a step with a change": float(np.median(of(True) or [np.nan])),
        "state bytes": sum(leaf.nbytes for leaf in state),
        "peak bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": losses,
    }


def in_process(settings: Settings, neurons: int, steps: int) -> dict[str, Any]:
    """`trained` in a separate process; dense if `neurons` is below 0."""
    given = dataclasses.replace(settings, one=neurons, steps=steps)
    names = ("one", "steps", "links", "batch", "every", "fraction", "learning_rate")
    flags = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in names]
    command = [sys.executable, "-m", "experiments.million", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def picture(found: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory against neurons, with links alone and dense, as far as that goes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.6), layout="constrained")
    drawn = (
        ("seconds a step", 1.0, "processor seconds a step"),
        ("peak bytes", 1e-9, "peak memory, GB"),
    )
    for axis, (name, unit, title) in zip(axes, drawn, strict=True):
        for dense, label in ((False, "links"), (True, "dense")):
            some = [one for one in found if one["dense"] == dense]
            sizes = [one["neurons"] for one in some]
            axis.loglog(sizes, [unit * one[name] for one in some], "o-", label=label)
        axis.set_xlabel("neurons")
        axis.set_title(title, fontsize=10)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    axes[1].set_yticks((0.5, 1, 2, 4))
    axes[0].legend()
    common.save(figure, path)


def main(settings: Settings) -> None:
    """Every size in turn; a table, a picture and a file of numbers."""
    if settings.one:
        print(json.dumps(trained(settings)))
        return
    if settings.quick:
        settings = dataclasses.replace(settings, neurons=(10_000, 30_000), steps=20, short=20)
    print(", ".join(f"{n} {v}" for n, v in environment().items() if v != "not installed"))
    found = []
    for neurons in settings.neurons:
        last = neurons == settings.neurons[-1]
        found.append(in_process(settings, neurons, settings.steps if last else settings.short))
        if dense_bytes(neurons) <= settings.dense_gb * 1e9:
            found.append(in_process(settings, -neurons, 5))
    rows = [
        [
            f"{one['neurons']:,}",
            "dense" if one["dense"] else "links",
            f"{one['weights'] / 1e6:.2f}",
            f"{one['seconds to make']:.1f}",
            f"{one['seconds a step']:.2f}",
            f"{one['seconds a step with a change'] - one['seconds a step']:.2f}",
            f"{one['state bytes'] / 1e9:.3f}",
            f"{one['peak bytes'] / 1e9:.2f}",
            f"{np.mean(one['losses'][:3]):.3f}",
            f"{np.mean(one['losses'][-3:]):.3f}",
        ]
        for one in found
    ]
    header = ["neurons", "", "million weights", "s to make", "s a step", "s a change more"]
    header += ["GB of state", "GB at most", "loss at first", "loss at last"]
    print(common.table(header, rows))
    for neurons in settings.neurons:
        if (size := dense_bytes(neurons)) > settings.dense_gb * 1e9:
            print(f"{neurons:,} neurons dense: {size / 1e9:,.0f} GB, not run")
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "million.json").write_text(json.dumps(found, indent=1))
    picture(found, settings.out / "million.png")
    print(settings.out / "million.png")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
