"""LAMB against LARS, AdamW and Nesterov SGD as the batch grows, for dense and sparse networks.

Claim (the papers'): with a rate in proportion to each layer's weights, and to the square root of
    the batch, training on the same samples in ever fewer steps loses little. Nado et al. (2021)
    found that well-tuned Nesterov SGD and Adam keep up, so both are here.

Papers: You et al., Large batch optimization for deep learning (LAMB), ICLR 2020; You et al., Large
    batch training of convolutional networks (LARS), 2017. No figure is published for such a small
    transformer or for ResNet-20, so the table has none.

Every run sees the same number of samples. Rates are those of batch 256, times the square root of
the batch over 256; the warm-up is that of batch 256, in proportion to the batch (`batch_schedule`).
Thresholds, biases and norms take no part in ratios or decay (`jsparse.route`). Sparse networks end
at one density: Top keeps it from the start, learned thresholds are steered there, and miss it if
there are too few steps: the table shows where they end. A batch larger than --part is read in parts
whose gradients are summed, so norms see one part at a time.

Command: python -m experiments.large_batch            (a GPU)
         python -m experiments.large_batch --quick    (two cores, two minutes)

Long because each study is one file.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks

Task = Literal["text", "images"]
Way = Literal["LAMB", "LARS", "AdamW", "Nesterov SGD"]
Network = Literal["dense", "top", "thresholds"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """One run for each task, network, optimizer, batch and seed."""

    tasks: tuple[Task, ...] = ("text", "images")
    """A small transformer on tinyshakespeare; a ResNet on CIFAR-10."""
    networks: tuple[Network, ...] = ("dense", "top", "thresholds")
    ways: tuple[Way, ...] = ("LAMB", "LARS", "AdamW", "Nesterov SGD")
    batches: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    density: float = 0.2
    """Of the kernels of the blocks, in sparse networks."""
    seeds: int = 3
    stretches: int = 524_288
    """Of text, in all of a run."""
    width: int = 128
    """Of the transformer."""
    context: int = 128
    """Characters that it sees."""
    blocks: int = 4
    depth: int = 20
    """Of the ResNet."""
    epochs: int = 60
    """Passes over the images."""
    samples: int = 50_000
    """Number of training images to use, the first ones."""
    tested: int = 10_000
    """Stretches of text, or images at most, to test on; a tenth is read at once."""
    warmup: float = 1 / 160
    """Part of the run, at batch 256."""
    rates: tuple[float, ...] = ()
    """At batch 256, one for each of --ways; empty for those of `WAYS`."""
    part: int = 1024
    """Samples that fit in memory at once."""
    quick: bool = False
    """Small networks, few samples, two batches."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "stretches", "width", "context", "blocks", "epochs", "part")
        if not self.batches or any(b < 1 or b % min(b, self.part) for b in self.batches):
            raise ValueError(
                f"--batches got {self.batches}; give at least one, each at most --part "
                f"{self.part} or a multiple of it"
            )
        if self.rates and (len(self.rates) != len(self.ways) or min(self.rates) <= 0):
            raise ValueError(
                f"--rates got {self.rates} for {len(self.ways)} --ways; give one above 0 for each"
            )
        if self.tested < 10 or self.tested % 10:
            raise ValueError(f"--tested got {self.tested}; give a multiple of 10")
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")


QUICK = Settings(
    networks=("dense", "thresholds"),
    batches=(128, 512),
    seeds=1,
    stretches=8192,
    width=32,
    context=32,
    blocks=1,
    depth=8,
    epochs=2,
    samples=4096,
    tested=1000,
    part=128,
    quick=True,
)
AT = 256
"""The batch that the rates are for."""
HEADS = 4
SPARSE = "blocks/.*/kernel"
REST = 3e-3
"""Rate, at batch 256, of the Adam that trains everything but weights of layers under LARS and
SGD."""
SAVES = 10
"""Checkpoints of a run."""
Tx = Callable[[nnx.Module, optax.Schedule, optax.Schedule], optax.GradientTransformation]


def nesterov(model: nnx.Module, rate: optax.Schedule, rest: optax.Schedule) -> Any:
    """SGD with Nesterov's momentum and decay for the weights of layers, Adam for the rest."""
    sgd = optax.sgd(rate, momentum=0.9, nesterov=True)
    weights = optax.chain(optax.add_decayed_weights(1e-4), sgd)
    return jsparse.route(model, weights, optax.adam(rest))


def adamw(model: nnx.Module, rate: optax.Schedule, rest: optax.Schedule) -> Any:
    """AdamW for the weights of layers, the same without decay for the rest."""
    return jsparse.route(model, optax.adamw(rate, weight_decay=0.01), optax.adam(rate))


WAYS: dict[str, tuple[float, Tx]] = {
    "LAMB": (0.01, lambda model, rate, rest: jsparse.lamb(model, rate)),
    "LARS": (10.0, lambda model, rate, rest: jsparse.lars(model, rate, rest_learning_rate=rest)),
    "AdamW": (3e-3, adamw),
    "Nesterov SGD": (0.1, nesterov),
}
"""Rate at batch 256, and the transform."""


class Course(NamedTuple):
    """What is learned.

    Attributes:
      make: builds the dense network.
      draw: from a key and a number of samples, the model's input and its labels.
      tested: samples to test on.
      mark: the quality, from logits and labels, [].
      samples: in all of a run.
      name: of the data.
      marked: what the mark measures.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    draw: Callable[[Array, int], tuple[Array, Array]]
    tested: tuple[Array, Array]
    mark: Callable[[Array, Array], Array]
    samples: int
    name: str
    marked: str


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean, []."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def text(settings: Settings) -> Course:
    """Which character comes next."""
    data = datasets.shakespeare(settings.data)

    def some(key: Array, number: int, source: Array) -> tuple[Array, Array]:
        stretch = datasets.stretches(key, source, number, settings.context + 1)
        return stretch[:, :-1], stretch[:, 1:]

    make = partial(
        networks.Transformer,
        data.characters,
        width=settings.width,
        blocks=settings.blocks,
        heads=HEADS,
        context=settings.context,
    )
    return Course(
        make,
        jax.jit(partial(some, source=data.train), static_argnums=1),
        some(jax.random.key(0), settings.tested, data.test),
        cross_entropy,
        settings.stretches,
        data.name,
        "cross-entropy of a character [nats]",
    )


def images(settings: Settings) -> Course:
    """What an image of CIFAR-10 shows."""
    data = datasets.first_samples(datasets.cifar10(settings.data), settings.samples)
    prepare = datasets.standardize_channels(data.train_x)
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)
    last = min(settings.tested, len(data.test_x)) // 10 * 10

    def draw(key: Array, number: int) -> tuple[Array, Array]:
        which, changed = jax.random.split(key)
        index = jax.random.randint(which, (number,), 0, len(x))
        return datasets.pad_crop_flip(changed, prepare(x[index])), y[index]

    return Course(
        lambda rngs: networks.ResNet(settings.depth, rngs),
        jax.jit(draw, static_argnums=1),
        (prepare(jnp.asarray(data.test_x[:last])), jnp.asarray(data.test_y[:last])),
        lambda logits, labels: 100 * (logits.argmax(-1) == labels).mean(),
        settings.epochs * len(x),
        data.name,
        "accuracy [%]",
    )


COURSES = {"text": text, "images": images}


def made(settings: Settings, network: Network, course: Course, seed: int) -> nnx.Module:
    """The network, dense or sparse."""
    rules = {
        "top": jsparse.Top(density=settings.density),
        "thresholds": jsparse.Threshold(alpha=1e-4),
    }

    def build() -> nnx.Module:
        model = course.make(nnx.Rngs(seed))
        return model if network == "dense" else jsparse.sparsify(model, (SPARSE, rules[network]))

    return nnx.jit(build)()  # one program instead of one for each kind of layer


def optimizer_of(
    settings: Settings, model: nnx.Module, network: Network, way: Way, batch: int, course: Course
) -> jsparse.Optimizer:
    """The optimizer at a batch, with the control of thresholds where there are some."""
    usual, tx = WAYS[way]
    peak = settings.rates[settings.ways.index(way)] if settings.rates else usual
    rate, rest = (
        jsparse.batch_schedule(
            batch,
            samples=course.samples,
            epochs=1,
            learning_rate=highest,
            at_batch=AT,
            warmup_epochs=settings.warmup,
        )
        for highest in (peak, REST)
    )
    steps = course.samples // batch
    control = jsparse.TargetDensity(density=settings.density, steps=steps, every=1)
    controls = (control,) if network == "thresholds" else ()
    return jsparse.Optimizer(model, tx(model, rate, rest), controls=controls)


@nnx.jit
def gradients(model: nnx.Module, x: Array, y: Array) -> tuple[Array, Any]:
    """The loss of the task and the gradients of all, of a part of a batch."""

    def loss(model: Any) -> tuple[Array, Array]:
        task = cross_entropy(model(x), y)
        return task + jsparse.cost(model), task

    (_, task), grads = nnx.value_and_grad(loss, has_aux=True)(model)
    return task, grads


@nnx.jit
def move(model: nnx.Module, optimizer: jsparse.Optimizer, grads: Any) -> None:
    """A train step, in place."""
    optimizer.update(model, grads)


@jax.jit
def mean(parts: list[Any]) -> Any:
    """Of trees of the same structure."""
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *parts)


def train(
    settings: Settings,
    course: Course,
    model: nnx.Module,
    optimizer: jsparse.Optimizer,
    batch: int,
    seed: int,
    run: common.Run,
) -> float:
    """All steps from the last checkpoint on; the mark, NaN where the run was lost."""
    state = lambda: {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
    steps, part = course.samples // batch, min(batch, settings.part)
    done, found = run.load(state())
    nnx.update(model, found["model"])
    nnx.update(optimizer, found["optimizer"])
    model.train()
    progress = common.Epochs(0, 1, run.folder.name)
    common.header(run.folder, course.name, 1, f"steps {done + 1} to {steps} at batch {batch}")
    for step in range(done, steps):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), batch // part)
        losses, grads = zip(
            *(gradients(model, *course.draw(key, part)) for key in keys), strict=True
        )
        move(model, optimizer, mean(list(grads)))
        loss = float(mean(list(losses)))
        if not np.isfinite(loss):
            return float("nan")
        progress.within(step + 1, steps)
        if (step + 1) % max(1, steps // SAVES) == 0:
            run.log(step + 1, loss=loss)
            run.save(step + 1, state())
    return mark(course, model)


def mark(course: Course, model: nnx.Module) -> float:
    """Of a model, on the test data."""
    model.eval()
    judge = nnx.jit(lambda model, x, y: course.mark(model(x), y))
    x, y = (jnp.split(part, 10) for part in course.tested)
    model = jsparse.fold(model)
    return float(np.mean([judge(model, *at) for at in zip(x, y, strict=True)]))


class Result(NamedTuple):
    """Of all seeds: marks, NaN where a run was lost, and densities of what can be sparse."""

    marks: list[float]
    densities: list[float]


Results = dict[tuple[Task, Network, Way, int], Result]


def race(settings: Settings, task: Task, course: Course) -> Results:
    """Do the remaining runs of a task; the results of all."""
    results: Results = {}
    for network in settings.networks:
        for way in settings.ways:
            for batch in settings.batches:
                found = []
                for seed in range(1, settings.seeds + 1):
                    folder = Path(settings.out) / task / f"{network}, {way}, {batch}, {seed}"
                    run = common.open_run(folder, settings, dataset=course.name)
                    if not run.complete:
                        model = made(settings, network, course, seed)
                        tx = optimizer_of(settings, model, network, way, batch, course)
                        score = train(settings, course, model, tx, batch, seed, run)
                        density = jsparse.summary(model).density if network != "dense" else 1.0
                        run.finish(mark=str(score), density=density)
                        print(f"{folder}: {score:.3f}", flush=True)
                    final = run.final()
                    found.append((float(final["mark"]), final["density"]))
                results[task, network, way, batch] = Result(*map(list, zip(*found, strict=True)))
    return results


def shown(result: Result) -> str:
    """Mean and deviation over the seeds, with the density of what can be sparse; what was lost."""
    lost = int(np.isnan(result.marks).sum())
    if lost:
        return f"{lost} of {len(result.marks)} lost"
    density = float(np.mean(result.densities))
    return common.mean_std(result.marks) + (f" at {density:.1%}" if density < 1 else "")


def main(settings: Settings) -> None:
    """Train, print a table for each task and network, and draw the pictures."""
    settings, out = settings.in_folder(f"runs/large_batch{'/quick' * settings.quick}")
    results: Results = {}
    labels = {}
    for task in settings.tasks:
        course = COURSES[task](settings)
        labels[task] = course.marked
        found = race(settings, task, course)
        results |= found
        for network in settings.networks:
            rows = [
                [way, *(shown(found[task, network, way, b]) for b in settings.batches)]
                for way in settings.ways
            ]
            seeds = common.counted(settings.seeds, "seed")
            what = f"{course.name}, {course.samples:,} samples, {seeds}, {network}"
            print(f"\n{what}; {course.marked} by batch (test data):\n")
            print(common.table(["", *map(str, settings.batches)], rows))
    for task in settings.tasks:
        panels = {
            f"{task}, {network}": {
                way: (
                    [f"{b}" for b in settings.batches],
                    [results[task, network, way, b].marks for b in settings.batches],
                )
                for way in settings.ways
            }
            for network in settings.networks
        }
        common.draw(panels, out / f"large_batch_{task}.png", "batch", labels[task])
    pictures = [out / f"large_batch_{task}.png" for task in settings.tasks]
    common.show_pages(common.logged(out), out, *pictures)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
