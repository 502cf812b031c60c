"""Truly sparse SET against masked SET and the dense network: accuracy, and time per step.

Claim: at the accuracy of masked SET a step of the truly sparse run, changes of the links included,
    is 4, 6 and 14 times as fast as a dense step in XLA at 10, 5 and 1 % of the weights.
Command: python -m experiments.bench.truly_sparse    (784-4096-4096-10, batch 128, 5 seeds)
         python -m experiments.bench.truly_sparse --width 512 --seeds 2 --samples 10000 --epochs 3
Minutes: 38 of processor time for the first, 36 of them for the accuracy; 2 with --seeds 0.
Number: 4.0, 6.4 and 21.2 times as fast at 10, 5 and 1 %.

Runs are of MNIST, with Adam; links change every 100 steps up to three quarters of a run. The time
of a step is processor time: the median within rounds, in which all take turns, plus a hundredth of
the extra time of a step with a change.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets
from experiments.bench.rounds import clocked, made_with, turns

EVERY, FAR = 100, 10**9
KERNELS = "layers/.*/kernel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """What to train and to time."""

    width: int = 4096
    """Of both hidden layers."""
    densities: tuple[float, ...] = (0.1, 0.05, 0.01)
    seeds: int = 5
    epochs: int = 1
    samples: int = 60_000
    """Number of training images to use, the first ones."""
    batch: int = 128
    learning_rate: float = 1e-3
    """Of Adam."""
    rounds: int = 11
    """Of steps in turns, five each; the first round is not counted."""

    def __post_init__(self) -> None:
        self.check_positive("width", "epochs", "samples", "batch")


def network(width: int, seed: int) -> nnx.Module:
    """The dense network."""
    rngs = nnx.Rngs(seed)
    linear = lambda i, o: nnx.Linear(i, o, rngs=rngs)
    layers = (linear(784, width), nnx.relu, linear(width, width), nnx.relu, linear(width, 10))
    return nnx.Sequential(*layers)


def masked(settings: Settings, density: float, seed: int, by: Any) -> tuple[Any, Any]:
    """The network with random masks, and its optimizer."""
    model = jsparse.sparsify(network(settings.width, seed), (KERNELS, jsparse.Held()))
    key = jax.random.key(1000 + seed)
    model = jsparse.prune.random(model, density=density, key=key, choose=jsparse.prune.by_layer())
    tx = jsparse.revise(optax.adam(settings.learning_rate), (KERNELS, by), seed=seed)
    return model, jsparse.Optimizer(model, tx, wrt=(nnx.Param, jsparse.Mask))


@nnx.jit(donate_argnums=(0, 1))
def step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, y: Array) -> Array:
    """One train step; the loss."""

    def loss(model: Any) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    wrt = nnx.DiffState(0, (nnx.Param, jsparse.Mask))
    found, grads = nnx.value_and_grad(loss, argnums=wrt)(model)
    optimizer.update(model, grads)
    return found


@nnx.jit
def right(model: Any, x: Array, y: Array) -> Array:
    """The fraction of the labels that are found, []."""
    return (model(x).argmax(-1) == y).mean()


def accuracy(
    settings: Settings, pair: tuple[Any, Any], images: datasets.Images, seed: int
) -> float:
    """Train to the end; the accuracy on the test images."""
    model, optimizer = pair
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = rng.permutation(len(images.train_x))
        for first in range(0, len(order) - settings.batch + 1, settings.batch):
            chosen = order[first : first + settings.batch]
            x, y = common.to_float(jnp.asarray(images.train_x[chosen])), images.train_y[chosen]
            step(model, optimizer, x.reshape(len(x), -1), jnp.asarray(y))
    test = common.to_float(jnp.asarray(images.test_x))
    return float(right(model, test.reshape(len(test), -1), jnp.asarray(images.test_y)))


def times(settings: Settings, density: float) -> dict[str, np.ndarray]:
    """Seconds a step in each round: of the dense network, with links that stay, and that change."""
    x, y = jnp.ones((settings.batch, 784)), jnp.arange(settings.batch) % 10
    net = network(settings.width, 0)
    pairs = {"dense": (net, jsparse.Optimizer(net, optax.adam(1e-7)))}
    for name, every in (("stay", FAR), ("change", 1)):
        by = jsparse.SET(last=2 * FAR, every=every)
        pairs[name] = jsparse.pack_training(*masked(settings, density, 0, by))
    five = lambda pair: clocked(lambda: [step(*pair, x, y) for _ in range(5)])[2] / 5
    return turns({name: partial(five, pair) for name, pair in pairs.items()}, settings.rounds)


def main(settings: Settings) -> None:
    """Two tables."""
    print(made_with())
    rows = []
    for density in settings.densities if settings.rounds else ():
        taken = times(settings, density)
        whole = taken["stay"] + (taken["change"] - taken["stay"]) / EVERY
        low, middle, high = np.quantile(taken["dense"] / whole, [0.25, 0.5, 0.75])
        cost = np.median((taken["change"] - taken["stay"]) / taken["stay"])
        milliseconds = [f"{1000 * np.median(one):.1f}" for one in (taken["dense"], whole)]
        rows.append(
            [f"{density:g}", *milliseconds, f"{middle:.1f}", f"{low:.1f}-{high:.1f}", f"{cost:.1f}"]
        )
        jax.clear_caches()
    header = ["density", "dense, ms", "links, ms", "ratio", "quartiles", "a change, in steps"]
    print(common.table(header, rows), flush=True)
    images = datasets.first_samples(datasets.mnist(settings.data), settings.samples)
    steps = settings.epochs * (len(images.train_x) // settings.batch)
    rows = []
    for density in settings.densities if settings.seeds else ():
        found: dict[str, list[float]] = {"masked": [], "links": []}
        for seed in range(1, settings.seeds + 1):
            for name, some in found.items():
                by = jsparse.SET(last=max(EVERY, 3 * steps // 4), every=EVERY)
                pair = masked(settings, density, seed, by)
                pair = pair if name == "masked" else jsparse.pack_training(*pair)
                some.append(accuracy(settings, pair, images, seed))
        rows.append([f"{density:g}", *(common.percent(some) for some in found.values())])
        jax.clear_caches()
    print(f"\n{images.name}, {common.counted(settings.seeds, 'seed')}, {steps} steps: accuracy")
    print(common.table(["density", "masked SET", "truly sparse SET"], rows))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
