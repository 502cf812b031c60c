"""Structured pruning in one call: trained networks at a half and a quarter of their operations.

Claim: `jsparse.prune.units` takes networks of every kind to a part of their operations with no list
    of layers; with training after the cut most of the accuracy comes back, and latency follows the
    operations: the gain is at least 0.85 of the ideal one.

Paper: Fang et al., DepGraph: Towards any structural pruning, CVPR 2023, table 1: ResNet-56 on
    CIFAR-10, dense 93.53, 93.77 at 2.57 times fewer operations. That size is --networks resnet
    --depth 56 --steps 80000 on a GPU; not run.

Command: python -m experiments.structured_one_call            (a GPU; CIFAR-10, MNIST, text)
         python -m experiments.structured_one_call --quick    (two cores, ten minutes: ResNet-8 on
    MNIST and a transformer on text)

Number: none published at these sizes.

Each network is trained dense, and then three ways start from it and train as many steps again as
the dense one does too: one shot; in rounds, a part of the cut in each; a group lasso for half of
these steps, then the cut.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common
from experiments.common.settings import environment
from jsparse._timing import latencies
from jsparse.report import costs

Name = Literal["resnet", "densenet", "vit", "transformer", "lstm"]
Batch = tuple[Array, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """One seed; the networks are trained one after another."""

    networks: tuple[Name, ...] = ("resnet", "densenet", "vit", "transformer", "lstm")
    """Which to prune."""
    budgets: tuple[float, ...] = (0.5, 0.25)
    """Parts of the operations to keep."""
    depth: int = 20
    """Of the ResNet."""
    width: int = 128
    """Of the ViT, the transformer and the LSTM."""
    steps: int = 4000
    """Of the dense training, and of each way after it."""
    rounds: int = 3
    """Cuts, where there are several."""
    strength: float = 1e-3
    """Of the group lasso."""
    round_to: int = 8
    """Widths become multiples of it."""
    batch: int = 128
    learning_rate: float = 2e-3
    """Of Adam, falling to 0 along a cosine; half as high after a cut."""
    samples: int = 50_000
    """Train on the first so many images."""
    timed: int = 32
    """Inputs of a call that is timed."""
    quick: bool = False
    """Two small networks, MNIST in place of CIFAR-10, and a short run."""

    def __post_init__(self) -> None:
        self.check_positive("depth", "width", "steps", "rounds", "round_to", "batch", "timed")
        if not self.budgets or not all(0 < b < 1 for b in self.budgets):
            raise ValueError(f"--budgets are fractions in (0, 1), got {self.budgets}")


QUICK = Settings(
    networks=("resnet", "transformer"), budgets=(0.5,), depth=8, width=64, steps=200,
    strength=3e-3, batch=64, samples=5000, quick=True,
)  # fmt: skip
TESTED = 1000
"""Test images, or stretches of text."""
SETTLED = 8
"""Batches from which batch normalisation takes its statistics after training."""
CONTEXT = 64
"""Characters that the transformer sees."""


class DenseNet(nnx.Module):
    """Stages of layers that each add channels to a concatenation."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 4, growth: int = 12):
        self.stem = nnx.Conv(3, 2 * growth, (3, 3), rngs=rngs)
        width, stages = 2 * growth, []
        for _ in range(3):
            widths = [width + growth * n for n in range(layers + 1)]
            norms = [nnx.BatchNorm(w, rngs=rngs) for w in widths]
            convs = [nnx.Conv(w, growth, (3, 3), rngs=rngs) for w in widths[:-1]]
            width = widths[-1] // 2
            convs.append(nnx.Conv(widths[-1], width, (1, 1), rngs=rngs))
            stages.append(nnx.List([nnx.List(norms), nnx.List(convs)]))
        self.stages, self.head = nnx.List(stages), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Images [n, h, w, 3] to logits [n, 10]."""
        x = self.stem(x)
        for norms, convs in self.stages:
            *layers, last = zip(norms, convs, strict=True)
            for norm, conv in layers:
                x = jnp.concatenate([x, conv(nnx.relu(norm(x)))], -1)
            x = nnx.avg_pool(last[1](nnx.relu(last[0](x))), (2, 2), (2, 2))
        return self.head(nnx.relu(x).mean((1, 2)))


class Encoder(nnx.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[n, patches, width] to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(nnx.gelu(self.wide(self.norm2(x))))


class ViT(nnx.Module):
    """A vision transformer on patches of 4x4."""

    def __init__(self, rngs: nnx.Rngs, width: int, side: int, blocks: int = 4):
        self.patches = nnx.Conv(3, width, (4, 4), strides=4, rngs=rngs)
        start = 0.02 * jax.random.normal(rngs.params(), ((side // 4) ** 2, width))
        self.places = nnx.Param(start)
        self.blocks = nnx.List([Encoder(width, rngs) for _ in range(blocks)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Images [n, side, side, 3] to logits [n, 10]."""
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1]) + self.places[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class LSTM(nnx.Module):
    """Reads an image row by row."""

    def __init__(self, rngs: nnx.Rngs, width: int, inputs: int):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(inputs, width, rngs=rngs))
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Images [n, h, w, 3] to logits [n, 10]."""
        return self.head(self.rnn(x.reshape(*x.shape[:2], -1))[:, -1])


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network learns.

    Attributes:
      data: what it is.
      make: the network.
      draw: a batch.
      test: a batch to test on.
      lasso: a pattern of groups, for the group lasso.
    """

    data: str
    make: Callable[[nnx.Rngs], nnx.Module]
    draw: Callable[[np.random.Generator], Batch]
    test: Batch
    lasso: str = ".*"


def task(name: Name, settings: Settings) -> Task:
    """A network with its data: text for the transformer, images for the others."""
    if name == "transformer":
        known, new, characters, source = common.shakespeare(settings.data)
        draw = lambda key, text, n: common.stretches(key, text, n, CONTEXT + 1)
        cut = lambda text: (text[:, :-1], text[:, 1:])
        make = lambda rngs: common.Transformer(
            characters, rngs, width=settings.width, blocks=2, heads=4, context=CONTEXT
        )
        batch = lambda random: cut(
            draw(jax.random.key(int(random.integers(2**31))), known, settings.batch)
        )
        tested = cut(draw(jax.random.key(0), new, TESTED // 10))
        return Task(source, make, batch, tested, r".*wide/kernel:1")
    images = (common.mnist if settings.quick or name == "lstm" else common.cifar10)(settings.data)
    images = common.first_samples(images, settings.samples)
    prepare = common.standardised(images).test

    def shown(x: np.ndarray) -> Array:
        ready = prepare(jnp.asarray(x))
        return ready if ready.ndim == 4 else jnp.repeat(ready[..., None], 3, -1)

    def some(random: np.random.Generator) -> Batch:
        rows = random.integers(len(images.train_x), size=settings.batch)
        return shown(images.train_x[rows]), jnp.asarray(images.train_y[rows])

    side = images.train_x.shape[1]
    makes: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
        "resnet": lambda rngs: common.ResNet(settings.depth, rngs),
        "densenet": DenseNet,
        "vit": lambda rngs: ViT(rngs, settings.width, side),
        "lstm": lambda rngs: LSTM(rngs, settings.width, 3 * side),
    }
    test = shown(images.test_x[:TESTED]), jnp.asarray(images.test_y[:TESTED])
    return Task(images.name, makes[name], some, test, "blocks/.*wide.*" if name == "vit" else ".*")


def loss(model: Any, batch: Batch) -> Array:
    """Cross-entropy, the mean over all predictions."""
    return optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]).mean()


def accuracy(model: nnx.Module, test: Batch) -> float:
    """The part of the predictions that are right, in eval mode."""
    model = nnx.clone(model)
    model.eval()
    return float((nnx.jit(lambda m, x: m(x).argmax(-1))(model, test[0]) == test[1]).mean())


def train(
    model: nnx.Module,
    one: Task,
    settings: Settings,
    steps: int,
    seed: int,
    around: Callable[[Any], Any] = lambda tx: tx,
) -> nnx.Module:
    """The model, trained in place; with the statistics of the last weights, if it has any."""
    peak = settings.learning_rate * (1.0 if seed == 0 else 0.5)
    tx = around(optax.adam(optax.cosine_decay_schedule(peak, steps)))
    model.train()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer, batch: Batch) -> None:
        optimizer.update(model, nnx.grad(loss)(model, batch))

    random = np.random.default_rng(seed)
    for _ in range(steps):
        step(model, optimizer, one.draw(random))
    if not jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        return model
    return jsparse.recalibrate(model, [one.draw(random)[0] for _ in range(SETTLED)])


def pruned(way: str, dense: nnx.Module, one: Task, settings: Settings, budget: float) -> nnx.Module:
    """The network after a way to the budget, with as many train steps."""
    x, steps = one.test[0][:2], settings.steps
    cut = lambda model, part: jsparse.prune.units(
        model, x, budget=part, round_to=settings.round_to, least_width=settings.round_to
    )[0]
    model = nnx.clone(dense)
    if way == "one shot":
        return train(cut(model, budget), one, settings, steps, 1)
    if way == "in rounds":
        for n in range(settings.rounds):
            part = _part(dense, model, x, budget ** ((n + 1) / settings.rounds))
            model = cut(model, part) if part < 1 else model  # rounding has done it before
            model = train(model, one, settings, steps // settings.rounds, 1 + n)
        return model
    groups = jsparse.groups(model, x)
    lasso = lambda tx: jsparse.prune.group_lasso(tx, groups, (one.lasso, settings.strength))
    model = train(model, one, settings, steps // 2, 1, lasso)
    return train(cut(model, budget), one, settings, steps - steps // 2, 2)


def _part(dense: nnx.Module, model: nnx.Module, x: Array, budget: float) -> float:
    """The budget as a part of what a smaller model takes."""
    return min(1.0, budget * costs(dense, x).flops / costs(model, x).flops)


WAYS = ("one shot", "in rounds", "group lasso")


def rows(name: Name, settings: Settings) -> list[dict[str, Any]]:
    """What became of a network in each way."""
    one = task(name, settings)
    dense = train(one.make(nnx.Rngs(0)), one, settings, settings.steps, 0)
    longer = train(nnx.clone(dense), one, settings, settings.steps, 1)
    models = {("dense", 1.0): longer}
    for budget in settings.budgets:
        for way in WAYS:
            models[way, budget] = pruned(way, dense, one, settings, budget)
            print(f"{name}, {way}, {budget:g}: {accuracy(models[way, budget], one.test):.4f}",
                  flush=True)  # fmt: skip
    x = jnp.repeat(one.test[0][:1], settings.timed, 0)
    times = latencies({str(key): model for key, model in models.items()}, x)
    whole, slow = costs(longer, x).flops, times[str(("dense", 1.0))]["median"]
    found = []
    for (way, budget), model in models.items():
        left, seconds = costs(model, x).flops / whole, times[str((way, budget))]["median"]
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
        found.append({
            "network": name, "data": one.data, "way": way, "budget": budget, "operations": left,
            "parameters": sum(sizes), "accuracy": accuracy(model, one.test), "seconds": seconds,
            "of the ideal": slow / seconds * left,
        })  # fmt: skip
    return found


def main(settings: Settings) -> None:
    """Prune each network in each way and print the table."""
    out = Path(settings.out or f"runs/structured_one_call{'/quick' * settings.quick}")
    out.mkdir(parents=True, exist_ok=True)
    found = []
    with common.stock_operations():
        for name in settings.networks:
            found += rows(name, settings)
            about = {"settings": dataclasses.asdict(settings), "environment": environment()}
            (out / "rows.json").write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    table = [
        [r["network"], r["way"], f"{r['budget']:g}", f"{100 * r['operations']:.1f}",
         f"{r['parameters']:,}", f"{100 * r['accuracy']:.1f}", f"{1e3 * r['seconds']:.2f}",
         f"{r['of the ideal']:.2f}"]
        for r in found
    ]  # fmt: skip
    header = ["network", "way", "budget", "operations [%]", "parameters", "accuracy [%]", "ms"]
    print(common.table([*header, "of the ideal"], table))
    print(f"\nrows: {out / 'rows.json'}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
