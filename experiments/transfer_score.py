"""Which pruned network transfers best: LogME, LEEP and NCE against fine-tuning.

Claim: LogME ranks networks pruned to between 20 and 0.5 % by the accuracy they reach when
    fine-tuned on other classes, in less time than fine-tuning takes.

Paper: You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML
    2021, and Ranking and Tuning Pre-trained Models, JMLR 2022. PUBLISHED has the weighted Kendall
    tau of the authors' library between a score and fine-tuned accuracy, over ten ImageNet models;
    the JMLR paper gives 3,000 times the speed of fine-tuning, of networks far larger than these.

Our choice is the set of networks. Networks 784-width-width-5 learn the digits 0 to 4, are pruned by
    magnitude and trained again; 500 images of 5 to 9 are the new data, and the other test images of
    these classes measure what fine-tuning reaches. The density alone is a score too, as a control.

Number (12 networks, 3 fine-tunings): weighted tau of LogME 0.763, Kendall tau 0.758, Pearson r
    0.903; LEEP 0.694, NCE 0.532. The density alone has 0.878, 0.795 and 0.465: for one network
    pruned further and further it is hard to beat. Fine-tuning takes 5.3 times as long as LogME, not
    thousands: it lasts a third of a second for networks this small. --quick: weighted tau 0.847,
    2.9 times.

Command: python -m experiments.transfer_score            (12 networks, 3 trainings, 4 minutes)
         python -m experiments.transfer_score --quick    (8 networks, 1 training, a minute)
         --authors FOLDER, a checkout of github.com/thuml/LogME, adds the authors' value
"""

import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments import common, datasets, networks
from experiments.common.authors import authors_logme


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.TrainSettings):
    """Each group of the zoo has a width, epochs on the old classes, and all densities."""

    widths: tuple[int, ...] = (300, 100)
    """Units of both hidden layers, a group for each."""
    source_epochs: tuple[int, ...] = (8, 2)
    """Epochs on the old classes before pruning and again after it, for each group."""
    densities: tuple[float, ...] = (1.0, 0.2, 0.05, 0.02, 0.01, 0.005)
    """Of both hidden kernels together."""
    source_samples: int = 10_000
    """Images of the old classes."""
    target_samples: int = 500
    """Images of the new classes, for scores and fine-tuning."""
    seeds: int = 3
    """Fine-tunings of each network."""
    epochs: int = 30
    """Of fine-tuning."""
    batch: int = 50
    learning_rate: float = 0.1
    """Of SGD."""
    authors: str = ""
    """Checkout of github.com/thuml/LogME."""
    quick: bool = False
    """Fewer networks, images and trainings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != len(self.source_epochs) or not self.widths:
            raise ValueError(
                f"--widths and --source-epochs go together; got {self.widths} and "
                f"{self.source_epochs}"
            )
        if not self.densities or not all(0 < d <= 1 for d in self.densities):
            raise ValueError(f"--densities are fractions in (0, 1], got {self.densities}")
        for name in ("source_samples", "target_samples"):
            if getattr(self, name) < self.batch:
                value, option = getattr(self, name), name.replace("_", "-")
                raise ValueError(f"--{option} got {value}; give {self.batch} or more")


QUICK = Settings(
    densities=(1.0, 0.05, 0.01, 0.005),
    source_samples=4000,
    seeds=1,
    quick=True,
)
OLD = 5
"""Classes that the networks learn; the others are new."""
PUBLISHED = {
    "Aircraft": (0.595, -0.264, 0.002),
    "Caltech101": (0.697, 0.127, 0.810),
    "CIFAR-10": (0.785, 0.638, 0.714),
    "CIFAR-100": (0.790, 0.659, 0.654),
    "DTD": (0.550, -0.004, 0.083),
    "Pets": (0.502, -0.143, 0.119),
    "Cars": (0.654, 0.703, 0.750),
    "SUN397": (0.748, 0.581, 0.873),
}
"""Weighted tau of LogME, LEEP and NCE, by the authors' library."""
SPARSE = ".*/(fc1|fc2)/kernel"


class Net(nnx.Module):
    """784-width-width-5 with ReLU."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        linear = lambda a, b: nnx.Linear(a, b, rngs=rngs, **networks.torch_init(a))
        self.fc1, self.fc2, self.head = linear(784, width), linear(width, width), linear(width, OLD)

    def features(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to what the head reads, [n, width]."""
        return nnx.relu(self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1)))))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 5]."""
        return self.head(self.features(x))


def split(images: datasets.Images, settings: Settings) -> tuple[datasets.Images, datasets.Images]:
    """The old classes, and the new ones, counted from 0."""
    parts = []
    for old, samples in ((True, settings.source_samples), (False, settings.target_samples)):
        arrays = {}
        for kind in ("train", "test"):
            x, y = getattr(images, f"{kind}_x"), getattr(images, f"{kind}_y")
            mine = (y < OLD) == old
            arrays |= {f"{kind}_x": x[mine], f"{kind}_y": y[mine] - (0 if old else OLD)}
        name = f"{images.name}, classes {'0 to 4' if old else '5 to 9'}"
        parts.append(datasets.first_samples(datasets.Images(**arrays, name=name), samples))
    return parts[0], parts[1]


def trained(
    model: common.Seeds, training: common.SeedTraining, rate: float, epochs: int, number: int
) -> tuple[common.Seeds, float]:
    """All networks after some epochs, and the processor seconds of all epochs but the first."""
    params, rest = training.start(model)
    count, start = len(common.networks(model)), time.process_time()
    rates = jnp.full((count, training.steps), rate)
    progress = common.Epochs(0, epochs, ("dense", "pruned", "fine-tuned")[number])
    for epoch in progress:
        if epoch == 2:  # the first one also compiles
            start = time.process_time()
        order = training.shuffled(count, number, epoch - 1)
        params, losses = training.epoch(params, rest, rates, order)
        progress.show(loss=losses.mean())
        if not np.isfinite(losses).all():
            raise common.Diverged(f"the loss is {losses.tolist()}; try a smaller --learning-rate")
    jax.block_until_ready(params)
    return training.put(model, params), time.process_time() - start


def zoo(width: int, epochs: int, settings: Settings, source: datasets.Images) -> common.Seeds:
    """A network for each density, trained on the old classes before and after it is pruned."""
    training = common.SeedTraining(source, settings.batch)
    dense = jsparse.sparsify(common.Seeds([Net(width, nnx.Rngs(1))]), (SPARSE, jsparse.Held()))
    dense, _ = trained(dense, training, settings.learning_rate, epochs, 0)
    (one,) = common.networks(dense)
    pruned = [jsparse.prune.magnitude(one, density=d) for d in settings.densities]
    return trained(common.Seeds(pruned), training, settings.learning_rate, epochs, 1)[0]


def fine_tuned(
    models: list[nnx.Module], settings: Settings, target: datasets.Images
) -> tuple[np.ndarray, float]:
    """Test accuracy of each network and seed, and the processor seconds of one fine-tuning."""
    training = common.SeedTraining(target, settings.batch)
    several = []
    for model in models:
        for seed in range(settings.seeds):
            copy = nnx.clone(model)
            copy.head = Net(model.head.in_features, nnx.Rngs(100 + seed)).head
            several.append(copy)
    made, seconds = trained(
        common.Seeds(several), training, settings.learning_rate, settings.epochs, 2
    )
    right = training.accuracy(made, target.test_x, target.test_y)
    whole = seconds * settings.epochs / max(1, settings.epochs - 1)
    return np.array(right).reshape(len(models), -1), whole / len(several)


def scores(
    model: nnx.Module, target: datasets.Images, authors: Callable | None
) -> tuple[dict[str, float], float]:
    """All scores of one network on the new data, and the processor seconds of LogME's."""
    x, y = common.to_float(jnp.asarray(target.train_x)), target.train_y
    features = nnx.jit(Net.features)

    def ranked() -> jsparse.report.Transfer:
        return jsparse.report.transfer({"": model}, features, x, y)

    ranked()  # compiles
    start = time.process_time()
    row = ranked().rows[""]
    seconds = time.process_time() - start
    logits = model(x)
    found = {
        "LogME": row.score,
        "LEEP": jsparse.report.leep(nnx.softmax(logits), y),
        "NCE": jsparse.report.nce(logits.argmax(-1), y),
        "density": row.density,
        "live": row.live / row.features,
    }
    if authors:
        found["LogME, authors"] = authors(features(model, x), y)
    return found, seconds


def group(n: int, settings: Settings, source: datasets.Images, target: datasets.Images) -> dict:
    """Scores and accuracies of a group, by name of the network; from its folder if it is done."""
    width, epochs = settings.widths[n], settings.source_epochs[n]
    folder = Path(settings.out) / f"{n + 1}, width {width}, {common.counted(epochs, 'epoch')}"
    run = common.open_run(folder, settings, dataset=target.name, group=n)
    if run.complete:
        return run.final()
    common.header(folder, f"MLP of width {width}", len(settings.densities), "pruned, fine-tuned")
    run.forget_after(0)
    models = common.networks(zoo(width, epochs, settings, source))
    accuracies, tuning = fine_tuned(models, settings, target)
    authors = authors_logme(settings.authors) if settings.authors else None
    rows: dict[str, Any] = {}
    for k, (density, model) in enumerate(zip(settings.densities, models, strict=True)):
        found, seconds = scores(model, target, authors)
        name = f"width {width}, {100 * density:g} %"
        accuracy = accuracies[k].tolist()
        rows[name] = found | {"accuracy": accuracy, "seconds": seconds, "tuning": tuning}
        run.log(k + 1, accuracy=accuracy, density=[density] * len(accuracy), logme=found["LogME"])
    run.finish(rows=rows)
    return run.final()


def agreement(rows: dict[str, dict]) -> dict[str, list[float]]:
    """Kendall's tau, its weighted form and Pearson's r of each score with mean accuracy.

    NaN where a score is the same for all.
    """
    from scipy import stats

    accuracy = [np.mean(row["accuracy"]) for row in rows.values()]
    measures = (stats.kendalltau, stats.weightedtau, stats.pearsonr)
    found = {}
    for name in ("LogME", "LogME, authors", "LEEP", "NCE", "density", "live"):
        if all(name in row for row in rows.values()):
            values = [row[name] for row in rows.values()]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", stats.ConstantInputWarning)
                found[name] = [float(measure(values, accuracy)[0]) for measure in measures]
    return found


def show(rows: dict[str, dict], settings: Settings, target: datasets.Images) -> None:
    """Print the tables."""
    found = agreement(rows)
    place = {n: k + 1 for k, n in enumerate(sorted(rows, key=lambda n: -rows[n]["LogME"]))}
    best = sorted(rows, key=lambda n: -np.mean(rows[n]["accuracy"]))
    columns = [name for name in found if name not in ("density", "live")]
    lines = [
        [name, common.percent(rows[name]["accuracy"]), k + 1, place[name]]
        + [f"{rows[name][column]:.4f}" for column in columns]
        + [f"{rows[name]['live']:.0%}"]
        for k, name in enumerate(best)
    ]
    seeds = common.counted(settings.seeds, "fine-tuning")
    print(f"\n{target.name}, {settings.epochs} epochs, {seeds}, other test images:\n")
    head = ["network", "accuracy [%]", "rank", "by LogME", *columns, "live features"]
    print(common.table(head, lines))
    print("\nAgreement with the accuracy reached:\n")
    body = [[name, *(f"{value:.3f}" for value in values)] for name, values in found.items()]
    print(common.table(["score", "Kendall tau", "weighted tau", "Pearson r"], body))
    print("\nPublished weighted tau, ten ImageNet models:\n")
    body = [[name, *(f"{one:.3f}" for one in values)] for name, values in PUBLISHED.items()]
    print(common.table(["data", "LogME", "LEEP", "NCE"], body))
    scoring = sum(row["seconds"] for row in rows.values())
    tuning = sum(row["tuning"] for row in rows.values())
    print(
        f"\nProcessor seconds for {len(rows)} networks, compiling left out: LogME {scoring:.2f}, "
        f"one fine-tuning of each {tuning:.2f}, {tuning / scoring:.1f} times as long"
    )


def draw(rows: dict[str, dict], path: Path) -> None:
    """Accuracy over each score; a line joins the densities of a width."""
    panels: dict[str, dict] = {}
    for score in ("LogME", "LEEP", "NCE"):
        for width in dict.fromkeys(name.split(",")[0] for name in rows):
            mine = [row for name, row in rows.items() if name.startswith(f"{width},")]
            mine.sort(key=lambda row: row[score])
            accuracies = [100 * np.array(row["accuracy"]) for row in mine]
            panels.setdefault(score, {})[width] = ([row[score] for row in mine], accuracies)
    common.draw(panels, path, "score before fine-tuning [nats]", "accuracy after it [%]")


def main(settings: Settings) -> None:
    """Build, score and fine-tune the zoo; print the tables and draw the picture."""
    source, target = split(datasets.mnist(settings.data), settings)
    settings.check_batch(target)
    name = "quick" if settings.quick else "zoo"
    settings, out = settings.in_folder(f"runs/transfer_score/{name}")
    rows: dict[str, dict] = {}
    for n in range(len(settings.widths)):
        rows |= group(n, settings, source, target)["rows"]
    show(rows, settings, target)
    path = out / "transfer.png"
    draw(rows, path)
    common.show_pages(common.logged(out), out, path)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
