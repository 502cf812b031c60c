"""Masks of seven pruning methods on the same networks: how similar they are, round by round.

Claim: methods that reach similar accuracies keep largely different weights, more so with each
    round; of all pairs L1 and L2 norms of units agree most; rewinding and fine-tuning lead to
    different masks.

Paper: Paganini and Forde, On Iterative Neural Network Pruning, Reinitialization, and the Similarity
    of Masks (2020), and the same authors' Bespoke vs. Prêt-à-Porter Lottery Tickets (2020), whose
    network and recipe these are: each round drops 20 % of what is left of each layer, 30 epochs of
    SGD at 0.01 with batches of 32, six seeds. Its figures are curves; there is no table to compare
    with.

Our choices: a unit is an input of a layer (the paper leaves the axis open), so that no class is
    cut off; of the paper's two spellings of the third norm, minus infinity, the smallest weight.

Number: not run at the defaults. `--quick`, three seeds, 8 rounds, 16.8 % left: L1 and L2 of units
    are 0.26 apart, L1 by layer and global 0.44, all other pairs 0.86 to 0.96, chance 0.91; rewound
    and fine-tuned masks 0.50 to 0.54 for single weights, 0.59 to 0.70 for units by a norm. Of the
    weights kept by methods on units, a sixth are on a path: 2.9 % of all.

Command: python -m experiments.mask_similarity            (the paper's LeNet, 20 rounds; hours)
         python -m experiments.mask_similarity --quick    (LeNet-300-100, part of MNIST, 2 cores)

Long because each study is one file.
"""

import dataclasses
import io
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from experiments.common.sweep import Runs
from experiments.networks.lenet import torch_init
from experiments.networks.operations import convolution, max_pool
from jsparse import Channel
from jsparse._storage.files import write_whole
from jsparse.prune import drop_lowest, drop_lowest_globally, noise, norm
from jsparse.report import effective, overlap, stability, structure

Restart = Literal["rewind", "fine-tune"]
RESTARTS: tuple[Restart, ...] = ("rewind", "fine-tune")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ImageSettings):
    """The defaults are the paper's recipe."""

    network: Literal["lenet", "lenet-300-100"] = "lenet"
    """The paper's small network, or a dense one."""
    rounds: int = 20
    """Times of pruning and training."""
    amount: float = 0.2
    """Fraction of what is left that each round drops."""
    seeds: int = 6
    epochs: int = 30
    batch: int = 32
    learning_rate: float = 0.01
    """Of SGD, constant."""
    quick: bool = False
    """LeNet-300-100, 8 rounds, a part of MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"--rounds got {self.rounds}; give 1 or more")
        if not 0 < self.amount < 1:
            raise ValueError(f"--amount is a fraction in (0, 1), got {self.amount}")


QUICK = Settings(
    network="lenet-300-100",
    rounds=8,
    seeds=3,
    epochs=3,
    batch=50,
    learning_rate=0.1,
    samples=3000,
    quick=True,
)


class LeNet(nnx.Module):
    """Convolutions of 6 and 16 windows 3x3 and layers 400-120-84-10; 59,838 weights."""

    def __init__(self, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, padding="VALID", conv_general_dilated=convolution(), rngs=rngs)
        linear = lambda a, b: nnx.Linear(a, b, rngs=rngs, **torch_init(a))
        self.conv1 = conv(1, 6, (3, 3), **torch_init(9))
        self.conv2 = conv(6, 16, (3, 3), **torch_init(54))
        self.fc1, self.fc2, self.fc3 = linear(400, 120), linear(120, 84), linear(84, 10)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        x = max_pool(nnx.relu(self.conv1(x[..., None])))
        x = max_pool(nnx.relu(self.conv2(x))[:, :10, :10])  # 11x11: PyTorch's pool leaves the rest
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc3(nnx.relu(self.fc2(x)))


NETWORKS = {"lenet": LeNet, "lenet-300-100": networks.LeNet300}
CHAINS = {
    "lenet": [f"{name}/kernel" for name in ("conv1", "conv2", "fc1", "fc2", "fc3")],
    "lenet-300-100": [f"{name}/kernel" for name in ("fc1", "fc2", "fc3")],
}
ALL = ".*/kernel"
Prune = Callable[[nnx.Module, float, jax.Array], nnx.Module]
METHODS: dict[str, Prune] = {
    "L1": lambda m, a, key: drop_lowest(m, ALL, a, norm(1)),
    "L1, global": lambda m, a, key: drop_lowest_globally(m, ALL, a, norm(1)),
    "random": lambda m, a, key: drop_lowest(m, ALL, a, noise(key)),
    "L1 of units": lambda m, a, key: drop_lowest(m, ALL, a, norm(1), Channel()),
    "L2 of units": lambda m, a, key: drop_lowest(m, ALL, a, norm(2), Channel()),
    "L-∞ of units": lambda m, a, key: drop_lowest(m, ALL, a, norm(-np.inf), Channel()),
    "random units": lambda m, a, key: drop_lowest(m, ALL, a, noise(key), Channel()),
}
PAIRS = [
    ("L1 of units", "L2 of units"),
    ("L1", "L1, global"),
    ("L1", "L1 of units"),
    ("L1 of units", "L-∞ of units"),
    ("L1", "random"),
    ("L1 of units", "random units"),
]
"""Whose distance is drawn round by round."""
Masks = Sequence[Mapping[str, np.ndarray]]
"""By path, of each seed."""


class Study(NamedTuple):
    """All that the methods have in common."""

    settings: Settings
    sweep: common.Sweep
    images: datasets.Images
    out: Path
    first: Runs

    def begin(self) -> Runs:
        """The networks before training, the same for all methods."""
        return copied(self.first)

    def train(self, run: common.Run, runs: Runs, number: int) -> Runs:
        """The epochs of one round."""
        x, y = jnp.asarray(self.images.train_x), jnp.asarray(self.images.train_y)
        for _ in range(self.settings.epochs):
            runs, trace = self.sweep.epoch(runs, x, y)
            common.check_finite(float(trace.loss.mean()), number, {}, run)
        return runs

    def accuracy(self, runs: Runs) -> np.ndarray:
        """On the test data, [seeds]."""
        x, y = jnp.asarray(self.images.test_x), jnp.asarray(self.images.test_y)
        return self.sweep.accuracy(runs, x, y)

    def dense(self) -> tuple[Runs, list[float]]:
        """Round 0, trained once for all methods, and its accuracies."""
        run = common.open_run(self.out / "dense", self.settings, dataset=self.images.name)
        if not run.complete:
            runs = self.train(run, self.begin(), 0)
            accuracy = self.accuracy(runs)
            run.save(1, runs)
            run.finish(accuracy=accuracy)
        return run.load(self.begin())[1], run.final()["accuracy"]

    def method(self, name: str, restart: Restart, dense: Runs) -> common.Run:
        """All rounds of a method, those that are not done yet; `dense` are the trained networks."""
        folder = self.out / f"{name}, {restart}"
        facts = {"dataset": self.images.name, "method": name, "restart": restart}
        run = common.open_run(folder, self.settings, **facts)
        if run.complete:
            return run
        starts = [self.sweep.model(self.begin(), n) for n in range(self.settings.seeds)]
        done, runs = run.load(copied(dense))
        progress = common.Epochs(done, self.settings.rounds, folder.name, "round")
        length = f"rounds {done + 1} to {self.settings.rounds}"
        common.header(folder, self.sweep.name, self.settings.seeds, length)
        for number in progress:

            def change(model: nnx.Module, n: int, number: int = number) -> nnx.Module:
                # only random masks depend on the key, and every draw gets a new one
                draw = jax.random.key(zlib.crc32(f"{n} {number} {name} {restart}".encode()))
                pruned = METHODS[name](model, self.settings.amount, draw)
                masks = jsparse.masks(pruned)
                return jsparse.hold(starts[n], masks) if restart == "rewind" else pruned

            runs = self.sweep.changed(runs, change)
            if restart == "rewind":
                first = self.begin()
                runs = runs._replace(optimizer=first.optimizer, step=first.step, key=first.key)
            runs = self.train(run, runs, number)
            models = [self.sweep.model(runs, n) for n in range(self.settings.seeds)]
            accuracy, density = self.accuracy(runs), [kept(model) for model in models]
            progress.show(accuracy=accuracy.mean(), density=np.mean(density))
            run.log(number, accuracy=accuracy, density=density)
            write_masks(run, number, models)
            run.save(number, runs)
        models = [self.sweep.model(runs, n) for n in range(self.settings.seeds)]
        shapes = [self.shape(*pair) for pair in zip(starts, models, strict=True)]
        columns = {key: [shape[key] for shape in shapes] for key in shapes[0]}
        last = run.rows()[-1]
        run.finish(accuracy=last["accuracy"], density=last["density"], **columns)
        return run

    def shape(self, start: nnx.Module, model: nnx.Module) -> dict[str, float]:
        """Of one network: weights on a path, inputs left empty and by chance, movement of
        weights."""
        masks, roles = jsparse.masks(model), jsparse.roles(model)
        used = effective(masks, roles, CHAINS[self.settings.network]).total
        empty = [kinds["channels"] for kinds in structure(masks, roles).rows.values()]
        units = sum(one.units for one in empty)
        way = stability(start, model).total
        return {
            "used": used.used / used.size,
            "empty": sum(one.empty for one in empty) / units,
            "chance": sum(one.chance for one in empty) / units,
            "same_sign": way.same_sign,
        }


def copied(runs: Runs) -> Runs:
    """The same runs for training, which uses them up."""
    return jax.tree.map(lambda leaf: leaf.copy(), runs)


def kept(model: nnx.Module) -> float:
    """Fraction of the weights that the masks keep."""
    masks = [np.asarray(mask) for mask in jsparse.masks(model).values()]
    return float(sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks))


def write_masks(run: common.Run, number: int, models: Sequence[nnx.Module]) -> None:
    """Keep the masks of a round."""
    arrays = {}
    for n, model in enumerate(models):
        for path, mask in jsparse.masks(model).items():
            arrays[f"{n}:{path}"] = np.asarray(mask) > 0
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_whole(run.folder / f"masks_{number:02d}.npz", file.getvalue())


def read_masks(run: common.Run, number: int, seeds: int) -> Masks:
    """The masks that `write_masks` kept."""
    with np.load(run.folder / f"masks_{number:02d}.npz") as arrays:
        return [
            {key.partition(":")[2]: arrays[key] for key in arrays if key.startswith(f"{n}:")}
            for n in range(seeds)
        ]


def distances(first: Masks, second: Masks) -> list[float]:
    """The Jaccard distance of each seed's masks."""
    return [overlap(*pair).distance for pair in zip(first, second, strict=True)]


def draw(
    between: np.ndarray,
    pairs: Mapping[str, np.ndarray],
    restarts: Mapping[str, np.ndarray],
    chance: np.ndarray,
    path: Path,
) -> None:
    """The pictures: curves over the rounds, and methods.png.

    Args:
      between: distance of methods after the last round, [methods, methods].
      pairs: distance of two methods by round, [rounds, seeds] by name.
      restarts: distance of rewound and fine-tuned masks by round, [rounds, seeds] by method.
      chance: distance of random masks of the same density by round, [rounds].
      path: the PNG file.
    """
    from matplotlib.figure import Figure

    names, rounds = list(METHODS), range(1, len(chance) + 1)
    panels = {
        title: {name: (rounds, values) for name, values in {**curves, "by chance": chance}.items()}
        for title, curves in (("pairs, rewound", pairs), ("rewound and fine-tuned", restarts))
    }
    common.draw(panels, path, "round", "Jaccard distance")
    figure = Figure(figsize=(5.6, 4.9), layout="constrained")
    axes = figure.add_subplot(title="methods, rewound, last round: Jaccard distance")
    figure.colorbar(axes.imshow(between, vmin=0, vmax=1), shrink=0.75)
    for row, column in itertools.product(range(len(names)), repeat=2):
        axes.text(column, row, f"{between[row, column]:.2f}", ha="center", va="center", color="red")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    common.save(figure, path.with_name("methods.png"))


def compare_masks(study: Study, found: Mapping[tuple[str, Restart], common.Run]) -> Path:
    """Write distances.json's numbers and the picture; its path."""
    seeds, last = study.settings.seeds, study.settings.rounds
    masks: dict[tuple[str, Restart], list[Masks]] = {
        key: [read_masks(run, n, seeds) for n in range(1, last + 1)] for key, run in found.items()
    }
    curve = lambda a, b: np.array([distances(*pair) for pair in zip(masks[a], masks[b])])  # noqa: B905
    between = np.zeros((len(METHODS), len(METHODS)))
    for (i, one), (j, other) in itertools.combinations(enumerate(METHODS), 2):
        ends = [masks[name, "rewind"][-1] for name in (one, other)]
        between[i, j] = between[j, i] = np.mean(distances(*ends))
    pairs = {f"{a} / {b}": curve((a, "rewind"), (b, "rewind")) for a, b in PAIRS}
    restarts = {name: curve((name, "rewind"), (name, "fine-tune")) for name in METHODS}
    ones = masks["L1", "rewind"]
    chance = np.array([overlap(one[0], one[0]).total.chance for one in ones])
    numbers: dict[str, Any] = {"between": between, "pairs": pairs, "restarts": restarts}
    run = common.open_run(study.out / "masks", study.settings, dataset=study.images.name)
    run.finish(**numbers, chance=chance, methods=list(METHODS))
    draw(between, pairs, restarts, chance, study.out / "similarity.png")
    return study.out / "similarity.png"


def main(settings: Settings) -> None:
    """Prune with all methods, print the table and draw the picture."""
    images = settings.images(datasets.mnist)
    settings, out = settings.in_folder(f"runs/mask_similarity/{settings.network}")
    network = NETWORKS[settings.network]
    make = lambda rngs: jsparse.sparsify(network(rngs), (ALL, jsparse.Held()))
    over = common.side_by_side if network is networks.LeNet300 else common.turns_on_cpu()
    sweep = common.Sweep(make, optax.sgd(settings.learning_rate), settings.batch, over)
    seeds = range(1, settings.seeds + 1)
    first = sweep.start(seeds, [0.0] * settings.seeds)
    study = Study(settings, sweep, images, out, first)
    dense, accuracy = study.dense()
    found = {(n, r): study.method(n, r, dense) for n in METHODS for r in RESTARTS}
    picture = compare_masks(study, found)
    restarts = common.Run(folder=out / "masks").final()["restarts"]
    rows = []
    for name in METHODS:
        rewound, tuned = (found[name, restart].final() for restart in RESTARTS)
        empty = f"{100 * np.mean(rewound['empty']):.1f} ({100 * np.mean(rewound['chance']):.1f})"
        rows.append(
            [
                name,
                *(common.percent(rewound[column]) for column in ("density", "used", "accuracy")),
                common.percent(tuned["accuracy"]),
                common.mean_std(restarts[name][-1]),
                empty,
                common.percent(rewound["same_sign"]),
            ]
        )
    what = f"{settings.network}, {settings.rounds} rounds of {settings.epochs} epochs"
    count = common.counted(settings.seeds, "seed")
    print(f"{images.name}, {what}, {count}, last round (test data):")
    print(f"dense {common.percent(accuracy)}\n")
    columns = ["density [%]", "on a path [%]", "rewound [%]", "fine-tuned [%]"]
    columns += ["distance of the two", "inputs empty (chance) [%]", "sign kept [%]"]
    print(common.table(["", *columns], rows))
    names = [f"{name}, {restart}" for name, restart in found]
    common.show_pages(names, out, picture, picture.with_name("methods.png"))


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
