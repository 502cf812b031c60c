"""Gradual magnitude pruning, SET and RigL against jaxpruner's, at the same settings.

Claim: layer by layer and step by step the same densities, and the same accuracy within seed noise.
Command: python -m experiments.bench.jaxpruner --jaxpruner FOLDER
    with a checkout of github.com/google-research/jaxpruner, which is run unchanged except for two
    names that today's packages lack.
Minutes: 2 on two cores.

784-300-100-10 on part of MNIST with Adam; uniform density of 10 %; masks change every 20 steps up
to four fifths of the run. There are no biases, since jaxpruner's SET and RigL accept no leaf
without a mask. Both start from the same weights, first masks and batches. jaxpruner counts steps
from 0 and changes masks before a step, we count from 1 and change them after it: `first=1` is its
step 0. Where a density times a layer's size ends in one half, rounding may differ: the settings
avoid that.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array

import jsparse
from experiments import common, datasets
from experiments.bench.others import import_jaxpruner
from experiments.bench.rounds import made_with
from jsparse._step import gate

WIDTHS = (784, 300, 100, 10)
DENSITY, EVERY, FRACTION = 0.1, 20, 0.3
Train = Callable[[Any, Any, Array, Array], tuple[Any, Array]]
"""From weights, first masks and batches: weights to test with, kept weights [steps, layers]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to compare."""

    jaxpruner: str
    """Checkout of jaxpruner."""
    data: str = ""
    """Folder with MNIST."""
    samples: int = 10_000
    """Number of training images, the first ones."""
    epochs: int = 5
    batch: int = 100
    seeds: int = 3


def start(seed: int) -> dict[str, Array]:
    """Weights of the three layers, by the rule of He et al."""
    keys = jax.random.split(jax.random.key(seed), len(WIDTHS) - 1)
    normal = jax.nn.initializers.he_normal()
    shapes = itertools.pairwise(WIDTHS)
    return {f"fc{n}": normal(keys[n], shape) for n, shape in enumerate(shapes)}


def loss_of(weights: Mapping[str, Array], x: Array, y: Array) -> Array:
    """Cross-entropy, []."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(weights, x), y).mean()


def logits(weights: Mapping[str, Array], x: Array) -> Array:
    """Pixels [n, 784] to [n, 10]."""
    *hidden, last = weights.values()
    for weight in hidden:
        x = jax.nn.relu(x @ weight)
    return x @ last


def ours(by: jsparse.Revision) -> Train:
    """Training under a revision."""
    tx = jsparse.revise(optax.adam(1e-3), (".*", by))
    read = lambda pairs: {n: gate(pair["weight"], pair["mask"]) for n, pair in pairs.items()}

    def step(state: Any, batch: Any) -> tuple[Any, Array]:
        pairs, optimizer = state
        grads = jax.grad(lambda pairs: loss_of(read(pairs), *batch))(pairs)
        updates, optimizer = tx.update(grads, optimizer, pairs)
        pairs = optax.apply_updates(pairs, updates)
        return (pairs, optimizer), jnp.stack([pair["mask"].sum() for pair in pairs.values()])

    def train(weights: Any, masks: Any, x: Array, y: Array) -> tuple[Any, Array]:
        pairs = {n: {"weight": w, "mask": masks[n].astype(w.dtype)} for n, w in weights.items()}
        (pairs, _), kept = jax.lax.scan(step, (pairs, tx.init(pairs)), (x, y))
        return read(pairs), kept

    return jax.jit(train)


def theirs(prune: Any) -> Train:
    """Training under a method of jaxpruner: masks in the optax state, weights masked each step."""
    tx = prune.wrap_optax(optax.adam(1e-3))

    def step(state: Any, batch: Any) -> tuple[Any, Array]:
        weights, sparse = state
        grads = jax.grad(loss_of)(weights, *batch)
        updates, sparse = tx.update(grads, sparse, weights)
        weights = prune.post_gradient_update(optax.apply_updates(weights, updates), sparse)
        kept = jnp.stack([mask.astype(jnp.float32).sum() for mask in sparse.masks.values()])
        return (weights, sparse), kept

    def train(weights: Any, masks: Any, x: Array, y: Array) -> tuple[Any, Array]:
        sparse = tx.init(weights)._replace(masks=masks)
        weights = prune.post_gradient_update(weights, sparse)
        (weights, _), kept = jax.lax.scan(step, (weights, sparse), (x, y))
        return weights, kept

    return jax.jit(train)


def methods(pruner: Any, steps: int) -> dict[str, tuple[jsparse.Revision, Any]]:
    """Each method twice, with the same settings."""
    changes = (steps * 4 // 5 // EVERY - 1) // 2 * 2 + 1  # odd: no density is half-way between two
    last = changes * EVERY + 1
    sparsity = lambda weights: dict.fromkeys(weights, 1 - DENSITY)
    uniform = {"sparsity_distribution_fn": sparsity}
    periodic = pruner.sparsity_schedules.PeriodicSchedule(
        update_freq=EVERY, update_start_step=0, update_end_step=last - 1
    )
    cubic = pruner.sparsity_schedules.PolynomialSchedule(
        update_freq=EVERY, update_start_step=1, update_end_step=last
    )
    cosine = jsparse.RigL(last=last, every=EVERY, fraction=FRACTION, first=1)
    return {
        "gradual": (
            jsparse.Gradual(density=DENSITY, first=1, last=last, every=EVERY),
            pruner.MagnitudePruning(scheduler=cubic, **uniform),
        ),
        "SET": (
            jsparse.SET(last=last, every=EVERY, fraction=FRACTION, first=1),
            pruner.SET(scheduler=periodic, drop_fraction_fn=lambda _: FRACTION, **uniform),
        ),
        "RigL": (
            cosine,
            pruner.RigL(
                scheduler=periodic, drop_fraction_fn=lambda n: cosine.dropped(n + 1), **uniform
            ),
        ),
    }


def first_masks(prune: Any, weights: Any, seed: int) -> Any:
    """Those that jaxpruner starts with."""
    prune = dataclasses.replace(prune, rng_seed=jax.random.PRNGKey(seed))
    return prune.wrap_optax(optax.adam(1e-3)).init(weights).masks


def main(settings: Settings) -> None:
    """Train all with all seeds and print them side by side."""
    pruner = import_jaxpruner(settings.jaxpruner)
    images = datasets.first_samples(datasets.mnist(settings.data), settings.samples)
    flat = lambda x: jnp.asarray(x, jnp.float32).reshape(len(x), -1) / 255
    x, y = flat(images.train_x), jnp.asarray(images.train_y)
    test_x, test_y = flat(images.test_x), jnp.asarray(images.test_y)
    steps = settings.epochs * (len(x) // settings.batch)
    rows = []
    for name, (by, prune) in methods(pruner, steps).items():
        trainers = {"jsparse": ours(by), "jaxpruner": theirs(prune)}
        right: dict[str, list[float]] = {who: [] for who in trainers}
        kept: dict[str, list[np.ndarray]] = {who: [] for who in trainers}
        for seed in range(settings.seeds):
            random = np.random.default_rng(seed)
            order = np.concatenate([random.permutation(len(x)) for _ in range(settings.epochs)])
            order = order[: steps * settings.batch].reshape(steps, settings.batch)
            weights = start(seed)
            masks = first_masks(prune, weights, seed)
            for who, train in trainers.items():
                trained, numbers = train(weights, masks, x[order], y[order])
                right[who].append(float((logits(trained, test_x).argmax(-1) == test_y).mean()))
                kept[who].append(np.asarray(numbers))
        apart = np.abs(np.array(kept["jsparse"]) - np.array(kept["jaxpruner"])).max()
        final = kept["jsparse"][0][-1].sum() / sum(w.size for w in start(0).values())
        accuracy = [common.mean_std([100 * a for a in right[who]]) for who in trainers]
        rows.append([name, f"{100 * final:.2f}", f"{apart:.0f}", *accuracy])
    print(made_with())
    print(f"{images.name}, {len(x):,} samples, {steps} steps, {settings.seeds} seeds\n")
    header = ["method", "density [%]", "weights apart, at most", "jsparse [%]", "jaxpruner [%]"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
