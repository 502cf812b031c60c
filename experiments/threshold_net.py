"""Dense, harmonic and threshold wiring: parameters, links, multiply-adds, memory, time and error.

Claim (the papers'): a harmonic network reads few of the earlier layers' outputs and so needs less
    memory traffic than a dense one of equal depth; one that is dense below a threshold of depth
    and harmonic above it is as accurate with less computation.

Paper: Chao et al., HarDNet, ICCV 2019; Ju et al., ThresholdNet (arXiv 2108.12604, later ThreshNet,
    IEEE Access 2022). PUBLISHED is the authors' table for CIFAR-10: 200 epochs of Adam at 1e-3,
    halved at 75 and 150, batch 100, flips only, the best epoch on the test data, milliseconds per
    image on an RTX 3050. Here the last epoch counts and the halvings are at the same fractions of
    the run.

Our choices: the threshold's number is not in any code; 57 convolutions gives both of the authors'
    networks. The three trained here are ThreshNet79 with thresholds infinity, 0 and 57: equal
    depth, blocks of the same numbers of convolutions. Where the authors' first blocks turn harmonic
    they grow as HarDNet68's do.

Number (counts, at 224 x 224): HarDNet68 has 17,565,348 parameters, 115 links in its blocks, 4.25
    billion multiply-adds and 4,826 KiB of activations at most; with dense links 28,713,576, 454,
    8.20 and 5,929. ThreshNet79 has 14,371,858, 199, 3.42 and 7,840: its dense blocks need more
    memory than HarDNet68's harmonic ones, and all harmonic it would need 4,826 KiB. Trained for 15
    epochs on 5,000 images at a quarter of the widths, one seed: errors of 59.80 (dense), 60.15
    (harmonic) and 60.55 % (threshold), standard error 1.1. --quick, on the digits, one seed: 23.06,
    23.89 and 23.33 %, in 72 seconds on two cores.

Command: python -m experiments.threshold_net            (5,000 images, a quarter of the widths)
         python -m experiments.threshold_net --quick    (counts and times, one short training each)
         --narrow 1 --epochs 200 --samples 50000 is the paper's recipe (GPU; not run)
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import common, datasets
from experiments.common.train import results
from experiments.networks import hardnet as zoo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The defaults are a quarter of the widths on a tenth of the data."""

    networks: tuple[str, ...] = ("dense", "harmonic", "threshold")
    """Which to train: ThreshNet79 with threshold infinity, 0 or 57."""
    narrow: int = 4
    """Divisor of all widths of those that are trained."""
    shallow: int = 1
    """Divisor of the depth of their blocks, and of the threshold."""
    seeds: int = 3
    epochs: int = 15
    batch: int = 100
    learning_rate: float = 1e-3
    """Of Adam, halved after 3/8 and 3/4 of the run."""
    samples: int = 5000
    tested: int = 2000
    """Number of test images to use, the first ones."""
    rounds: int = 11
    """Timed forward passes of each."""
    quick: bool = False
    """Shallow and narrow networks, one seed, few images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("narrow", "shallow", "samples", "tested", "rounds")
        if not self.networks or set(self.networks) - set(THRESHOLDS):
            raise ValueError(f"--networks are of {', '.join(THRESHOLDS)}; got {self.networks}")


THRESHOLDS = {"dense": math.inf, "harmonic": 0.0, "threshold": float(zoo.THRESHOLD)}
QUICK = Settings(
    narrow=4, shallow=6, seeds=1, epochs=4, samples=2000, tested=500, rounds=3, quick=True
)
PUBLISHED = {  # parameters [M], GFLOPs at 224 x 224, error [%], ms
    "HarDNet68": (17.57, 4.26, 14.66, 0.44),
    "HarDNet85": (36.67, 9.10, 13.89, 0.50),
    "ThreshNet79": (14.31, 3.46, 13.66, 0.42),
    "ThreshNet95": (16.19, 4.07, 13.31, 0.46),
}
HEAD = ["network", "parameters", "links", "multiply-adds [M]", "peak [KiB]"]
TIMED = 64
"""Images of a timed forward pass."""


def networks() -> dict[str, list[zoo.Node]]:
    """All that are counted, at full width."""
    return {
        "HarDNet68": zoo.hardnet(68),
        "HarDNet68, dense links": zoo.densely(zoo.hardnet(68)),
        "HarDNet85": zoo.hardnet(85),
        "ThreshNet79": zoo.threshnet(79),
        "ThreshNet79, all harmonic": zoo.threshnet(79, threshold=0),
        "ThreshNet79, all dense": zoo.threshnet(79, threshold=math.inf),
        "ThreshNet95": zoo.threshnet(95),
    }


def counted(name: str, nodes: Sequence[zoo.Node], side: int, classes: int = 10) -> list:
    """A row of the table of counts."""
    costs = zoo.count(nodes, side, classes)
    return [
        name,
        f"{zoo.parameters(nodes, classes):,}",
        costs.links,
        f"{costs.multiply_adds / 1e6:,.1f}",
        f"{costs.peak / 1024:,.0f}",
    ]


def full() -> str:
    """The table of all networks at full width, with the published figures."""
    rows = []
    for name, nodes in networks().items():
        row = counted(name, nodes, 224, 1000 if name.startswith("HarDNet") else 10)
        rows.append([*row, *PUBLISHED.get(name, ("", "", "", ""))])
    known = ["published [M]", "GFLOPs", "error [%]", "ms"]
    return common.table([*HEAD, *known], rows)


def timed(calls: dict[str, Callable[[], jax.Array]], rounds: int) -> dict[str, float]:
    """Processor milliseconds of a call of each, in turns: the median."""
    for call in calls.values():
        jax.block_until_ready(call())
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call())
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: float(np.median(one)) for name, one in taken.items()}


def forward(nodes: Sequence[zoo.Node], side: int) -> Callable[[], jax.Array]:
    """A compiled forward pass of random images through a network that is not trained."""
    model = zoo.Wired(nodes, nnx.Rngs(0))
    model.eval()
    x = jnp.asarray(np.random.default_rng(0).random((TIMED, side, side, 3), np.float32))
    graphdef, state = nnx.split(model)
    call = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda: call(state, x)


def learning_rate(settings: Settings, samples: int) -> optax.Schedule:
    """Halved after 3/8 and 3/4 of the run, as at 75 and 150 of 200 epochs."""
    steps = settings.epochs * (samples // settings.batch)
    falls = {round(part * steps): 0.5 for part in (0.375, 0.75)}
    return optax.piecewise_constant_schedule(settings.learning_rate, falls)


def trained(name: str, nodes: list[zoo.Node], settings: Settings, images: datasets.Images) -> dict:
    """Accuracy of the last epoch and the best, by seed; from the run folder if it is done."""
    folder = Path(settings.out) / name
    run = common.open_run(folder, settings, dataset=images.name, network=name)
    if not run.complete:
        flipped = lambda key, x: datasets.pad_crop_flip(key, common.to_float(x), pad=0)
        sweep = common.Sweep(
            partial(zoo.Wired, nodes),
            optax.adam(learning_rate(settings, len(images.train_x))),
            settings.batch,
            common.turns_on_cpu(),
            inputs=common.Inputs(train=flipped),
        )
        seeds = range(1, settings.seeds + 1)
        start = lambda: sweep.start(seeds, [0.0] * settings.seeds)
        common.train(run, sweep, images, start=start, epochs=settings.epochs)
        found = results(run, range(settings.seeds))
        curve = [row["accuracy"] for row in run.rows()]
        run.finish(accuracy=found["accuracy"], best=found["best"], curve=curve)
    return run.final()


def divided(settings: Settings) -> str:
    """How much smaller the trained networks are."""
    deep = f", depth of blocks / {settings.shallow}" if settings.shallow > 1 else ""
    return f"widths / {settings.narrow}{deep}"


def main(settings: Settings) -> None:
    """Count, time and train; print the tables and draw the picture."""
    images = settings.images(datasets.cifar10)
    images = datasets.first_tests(images, settings.tested)
    size = "quick" if settings.quick else "study"
    settings, out = settings.in_folder(f"runs/threshold_net/{size}")
    side = images.train_x.shape[1]
    print("\nFull width, an image of 224 x 224; HarDNets with 1000 classes, ThreshNets with 10:\n")
    print(full(), flush=True)
    small = partial(zoo.threshnet, 79, settings.narrow, shallow=settings.shallow)
    made = {name: small(threshold=THRESHOLDS[name]) for name in settings.networks}
    times = timed({n: forward(nodes, side) for n, nodes in made.items()}, settings.rounds)
    curves, rows = {}, []
    for name, nodes in made.items():
        found = trained(name, nodes, settings, images)
        curves[name] = (range(1, len(found["curve"]) + 1), 100 * np.array(found["curve"]))
        errors = [100 * (1 - np.array(found[key])) for key in ("accuracy", "best")]
        cells = [f"{times[name]:.1f}", *map(common.mean_std, errors)]
        rows.append([*counted(name, nodes, side), *cells])
    print(f"\n{images.name}, ThreshNet79, {divided(settings)}, {settings.extent}:\n")
    print(common.table([*HEAD, f"ms / {TIMED} images", "error [%]", "best epoch"], rows))
    print("\nTimes are processor time of thin convolutions, and say nothing about a GPU.")
    path = out / "threshold.png"
    panel = {f"ThreshNet79, {divided(settings)}": curves}
    common.draw(panel, path, "epoch", "test accuracy [%]")
    common.show_pages(list(made), path.parent, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
