"""Structured pruning in one call: trained networks at a half and a quarter of their operations.

Claim: `jsparse.prune.units` takes networks of every kind to a fraction of their operations with no
    list of layers. For each, the accuracy regained by training after the cut and the realized gain
    in time are measured.

Paper: Fang et al., DepGraph: Towards any structural pruning, CVPR 2023, table 1: ResNet-56 on
    CIFAR-10, dense 93.53, 93.77 at 2.57 times fewer operations. That size is --networks resnet
    --depth 56 --steps 80000 on a GPU; not run.

Command: python -m experiments.structured_one_call            (a GPU; CIFAR-10, MNIST, text)
         python -m experiments.structured_one_call --quick    (two cores, ten minutes: ResNet-8 on
    MNIST and a transformer on text)

Number: none published at these sizes; ours at those of two cores are in docs/results.md. At half
    the operations, with widths in multiples of 16, a transformer of width 256 has 0.96 of the
    ideal gain in time and ResNet-20 0.67, once 1.00.

Each network is trained dense; then five methods start from it and train for as many steps again, as
does the dense one: one shot; in rounds, a part of the cut in each; and, for half of these steps
before the cut, a group lasso, learned thresholds (DST) or gates (L0) on coupled units, the last two
steered to as many units as the budget leaves. Finished parts are not repeated after a kill; latency
is measured whenever the table is printed.

Long because each study is one file.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from experiments.common.settings import environment
from jsparse._timing import latencies
from jsparse.export import Record
from jsparse.report import costs

Name = Literal["resnet", "densenet", "vit", "transformer", "lstm"]
Batch = tuple[Array, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """One seed; the networks are trained one after another."""

    networks: tuple[Name, ...] = dataclasses.field(
        default=("resnet", "densenet", "vit", "transformer", "lstm"), metadata=common.FREE
    )
    """Which to prune."""
    budgets: tuple[float, ...] = (0.5, 0.25)
    """Parts of the operations to keep."""
    depth: int = 20
    """Of the ResNet."""
    width: int = 128
    """Of the ViT, the transformer and the LSTM."""
    steps: int = 4000
    """Of the dense training, and of each method after it."""
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
    """Number of training images to use, the first ones."""
    timed: int = dataclasses.field(default=32, metadata=common.FREE)
    """Inputs of a call that is timed."""
    quick: bool = False
    """Two small networks, MNIST instead of CIFAR-10, and a short run."""

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
"""Batches from which batch normalization takes its statistics after training."""
PART = 100
"""Steps from one line of the log to the next."""
CONTEXT = 64
"""Characters that the transformer sees."""
START, RAMP = 0.9, 0.7
"""Of gates: how open they are at first, and the fraction of their steps until the goal is
constant."""
REACH = {"thresholds": 1.5, "gates": 20.0}
"""How far Adam can move them, and the logits of gates, in all of their steps."""
WAYS = ("one shot", "in rounds", "group lasso", "thresholds", "gates")


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
        known, new, characters, source = datasets.shakespeare(settings.data)
        draw = lambda key, text, n: datasets.stretches(key, text, n, CONTEXT + 1)
        cut = lambda text: (text[:, :-1], text[:, 1:])
        make = lambda rngs: networks.Transformer(
            characters, rngs, width=settings.width, blocks=2, heads=4, context=CONTEXT
        )
        batch = lambda random: cut(
            draw(jax.random.key(int(random.integers(2**31))), known, settings.batch)
        )
        tested = cut(draw(jax.random.key(0), new, TESTED // 10))
        return Task(source, make, batch, tested, r".*wide/kernel:1")
    load = datasets.mnist if settings.quick or name == "lstm" else datasets.cifar10
    images = datasets.first_samples(load(settings.data), settings.samples)
    prepare = common.standardized(images).test

    def shown(x: np.ndarray) -> Array:
        ready = prepare(jnp.asarray(x))
        return ready if ready.ndim == 4 else jnp.repeat(ready[..., None], 3, -1)

    def some(random: np.random.Generator) -> Batch:
        rows = random.integers(len(images.train_x), size=settings.batch)
        return shown(images.train_x[rows]), jnp.asarray(images.train_y[rows])

    side = images.train_x.shape[1]
    makes: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
        "resnet": lambda rngs: networks.ResNet(settings.depth, rngs),
        "densenet": networks.DenseNet,
        "vit": lambda rngs: networks.ViT(rngs, settings.width, side),
        "lstm": lambda rngs: LSTM(rngs, settings.width, 3 * side),
    }
    test = shown(images.test_x[:TESTED]), jnp.asarray(images.test_y[:TESTED])
    return Task(images.name, makes[name], some, test, "blocks/.*wide.*" if name == "vit" else ".*")


@dataclasses.dataclass(frozen=True)
class Price:
    """A control that steers the price of L0 gates so that a given fraction is open at the end.

    Attributes:
      density: of gates to leave open.
      steps: of the training.
    """

    density: float
    steps: int

    def init(self, model: nnx.Module) -> Array:
        """The memory, [1]: the integral part of the price of all gates."""
        return jnp.zeros(1)

    def apply(
        self, model: nnx.Module, memory: Array, step: Array, gradients: Mapping[str, Array]
    ) -> Array:
        """Set the prices in proportion to the weights behind each gate."""
        parts = _units(model)
        expected = sum(
            part.rule.cost({"logits": part.logits[...], "price": jnp.ones_like(part.price[...])})
            for part in parts
        )
        left = 1 - (1 - self.density) * jnp.minimum(1.0, step / (RAMP * self.steps))
        price = jsparse.optim.Multiplier(1.0, start=memory[0])
        price = price.update(expected / sum(part.logits[...].size for part in parts) / left)
        entries = [part.entries * jnp.ones_like(part.price[...]) for part in parts]
        for part, own in zip(parts, entries, strict=True):
            part.price[...] = price.value * own / sum(one.sum() for one in entries)
        return price.total[None]


def _units(model: nnx.Module) -> list[Any]:
    """The groups under rules."""
    return [part for _, part in nnx.iter_graph(model) if hasattr(part, "entries")]


def loss(model: Any, batch: Batch) -> Array:
    """Cross-entropy, the mean over all predictions, and the cost of rules, if there are any."""
    task = optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]).mean()
    return task + jsparse.cost(model)


def accuracy(model: nnx.Module, test: Batch) -> float:
    """The fraction of predictions that are right, in eval mode."""
    model = nnx.clone(model)
    model.eval()
    return float((nnx.jit(lambda m, x: m(x).argmax(-1))(model, test[0]) == test[1]).mean())


def train(
    model: nnx.Module,
    one: Task,
    settings: Settings,
    steps: int,
    seed: int,
    run: common.Run,
    around: Callable[[Any], Any] = lambda tx: tx,
    controls: tuple[Any, ...] = (),
) -> nnx.Module:
    """The model, trained in place; with the statistics of the last weights, if it has any."""
    peak = settings.learning_rate * (1.0 if seed == 0 else 0.5)
    tx = around(optax.adam(optax.cosine_decay_schedule(peak, steps)))
    model.train()
    optimizer = jsparse.Optimizer(model, tx, controls=controls)

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer, batch: Batch) -> Array:
        found, grads = nnx.value_and_grad(loss)(model, batch)
        optimizer.update(model, grads)
        return found

    random, before = np.random.default_rng(seed), run.rows()
    done = before[-1]["step"] if before else 0
    common.header(run.folder, one.data, 1, common.counted(steps, "step"))
    progress = common.Epochs(0, -(-steps // PART), run.folder.name, f"{PART} steps")
    for part in progress:
        end, found = min(part * PART, steps), jnp.inf
        for _ in range((part - 1) * PART, end):
            found = step(model, optimizer, one.draw(random))
        run.log(done + end, loss=float(found))
        progress.show(loss=found)
    if not jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        return model
    return jsparse.recalibrate(model, [one.draw(random)[0] for _ in range(SETTLED)])


def pruned(
    way: str, dense: nnx.Module, one: Task, settings: Settings, budget: float, run: common.Run
) -> tuple[nnx.Module, Record]:
    """The network after one method, with equally many train steps, and what was cut."""
    x, steps = one.test[0][:2], settings.steps
    cut = functools.partial(
        jsparse.prune.units, round_to=settings.round_to, least_width=settings.round_to
    )
    model, record = nnx.clone(dense), Record()
    if way == "one shot":
        model, record = cut(model, x, budget=budget)
        return train(model, one, settings, steps, 1, run), record
    if way == "in rounds":
        for n in range(settings.rounds):
            part = budget ** ((n + 1) / settings.rounds)
            part *= costs(dense, x).flops / costs(model, x).flops
            if part < 1:  # or rounding has done it before
                model, later = cut(model, x, budget=part)
                record = record.then(later)
            model = train(model, one, settings, steps // settings.rounds, 1 + n, run)
        return model, record
    groups, scope = jsparse.groups(model, x), jsparse.Whole()
    if way == "group lasso":
        lasso = lambda tx: jsparse.prune.group_lasso(tx, groups, (one.lasso, settings.strength))
        model = train(model, one, settings, steps // 2, 1, run, lasso)
    else:  # groups end as wide as the masks have made them
        model = masked(way, model, groups, one, settings, budget, run)
        scope = jsparse.WholeModel()
    model, record = cut(model, x, budget=budget, scope=scope)
    return train(model, one, settings, steps - steps // 2, 2, run), record


def masked(
    way: str,
    model: nnx.Module,
    groups: Any,
    one: Task,
    settings: Settings,
    budget: float,
    run: common.Run,
) -> nnx.Module:
    """The network with masks on its coupled units, trained half the steps."""
    steps, density = settings.steps // 2, budget**0.5  # on both sides of a kernel
    if way == "thresholds":
        rule: Any = jsparse.Threshold(unit=jsparse.Group())
        control: Any = jsparse.TargetDensity(density=density, steps=steps)
    else:
        rule = jsparse.HardConcrete(lam=1e-9, unit=jsparse.Group(), start=START)
        control = Price(density, steps)

    def around(tx: Any) -> Any:
        learned = lambda path: any(str(key.key) in rule.learned for key in path if _named(key))
        kinds = lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "masks" if learned(path) else "weights", params
        )
        return optax.partition({"masks": optax.adam(REACH[way] / steps), "weights": tx}, kinds)

    model = jsparse.couple(model, groups, (".*", rule))
    model = train(model, one, settings, steps, 1, run, around, (control,))
    open_ = [part.read_final_mask() for part in _units(model)]
    print(f"{way} for {budget:g}: {sum(m.sum() for m in open_):.0f} of "
          f"{sum(m.size for m in open_)} units are open", flush=True)  # fmt: skip
    return model


def _named(key: Any) -> bool:
    return isinstance(key, jax.tree_util.DictKey)


def rows(name: Name, settings: Settings, out: Path) -> list[dict[str, Any]]:
    """The results of each method on a network; missing ones are trained."""
    one, found = task(name, settings), []
    opened = lambda folder: common.open_run(out / name / folder, settings, source=one.data)
    run = opened("dense")
    done, dense = run.load(one.make(nnx.Rngs(0)))
    if not done:
        dense = train(dense, one, settings, settings.steps, 0, run)
        run.save(settings.steps, dense)
    for way, budget in [("dense", 1.0), *((way, b) for b in settings.budgets for way in WAYS)]:
        run = opened(f"{way} {budget:g}")
        if not run.complete:
            run.forget_after(0)
            if way == "dense":
                model = train(nnx.clone(dense), one, settings, settings.steps, 1, run)
                record = Record()
            else:
                model, record = pruned(way, dense, one, settings, budget, run)
            left = costs(model, one.test[0][:1]).flops / costs(dense, one.test[0][:1]).flops
            (run.folder / "record.json").write_text(json.dumps(record.to_dict()))
            run.finish(
                accuracy=accuracy(model, one.test), operations=left,
                parameters=sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))),
            )  # fmt: skip
        row = {"network": name, "data": one.data, "way": way, "budget": budget, **run.final()}
        print(f"{name}, {way}, {budget:g}: {row['accuracy']:.4f}", flush=True)
        found.append(row)
    return found


def timed(found: list[dict[str, Any]], settings: Settings, out: Path) -> None:
    """Add the latency of each network of a kind to its row, all measured in turns."""
    one = task(found[0]["network"], settings)
    notes = [out / r["network"] / f"{r['way']} {r['budget']:g}" / "record.json" for r in found]
    records = [Record.from_dict(json.loads(note.read_text())) for note in notes]
    models = [jsparse.export.rebuild(one.make(nnx.Rngs(0)), record) for record in records]
    x = jnp.repeat(one.test[0][:1], settings.timed, 0)
    times = latencies({str(n): model for n, model in enumerate(models)}, x)
    seconds = [times[str(n)]["median"] for n in range(len(found))]
    for row, own in zip(found, seconds, strict=True):
        row |= {"seconds": own, "of the ideal": seconds[0] / own * row["operations"]}


def main(settings: Settings) -> None:
    """Prune each network by each method, print the table and draw the picture."""
    settings, out = settings.in_folder(f"runs/structured_one_call{'/quick' * settings.quick}")
    with networks.stock_operations():
        kinds = {name: rows(name, settings, out) for name in settings.networks}
        for found in kinds.values():
            timed(found, settings, out)
    flat = [row for found in kinds.values() for row in found]
    about = {"settings": dataclasses.asdict(settings), "environment": environment()}
    (out / "rows.json").write_text(json.dumps(about | {"rows": flat}, indent=1) + "\n")
    table = [
        [r["network"], r["way"], f"{r['budget']:g}", f"{100 * r['operations']:.1f}",
         f"{r['parameters']:,}", f"{100 * r['accuracy']:.1f}", f"{1e3 * r['seconds']:.2f}",
         f"{r['of the ideal']:.2f}"]
        for r in flat
    ]  # fmt: skip
    header = ["network", "way", "budget", "operations [%]", "parameters", "accuracy [%]", "ms"]
    text = common.table([*header, "of the ideal"], table)
    print(text)
    panels = {
        name: {way: _curve([row for row in found if row["way"] in (way, "dense")]) for way in WAYS}
        for name, found in kinds.items()
    }
    picture = out / "accuracy.png"
    common.draw(panels, picture, "operations [%]", "accuracy [%]")
    print(f"\nrows: {out / 'rows.json'}")
    common.show_pages(common.logged(out), out, picture, tables=text)


def _curve(found: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [100 * row["operations"] for row in found], [100 * row["accuracy"] for row in found]


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
