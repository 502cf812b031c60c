"""Dense against learned thresholds: the studies of Dynamic Sparse Training.

The dense network and the sparse ones (each alpha, or a target density) are trained over the same
seeds; a table puts the last epoch beside the published figures.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import optax
import tyro
from flax import nnx

import jsparse
from experiments.common.data.sources import Images
from experiments.common.run import Diverged, Run, open_run
from experiments.common.show import counted, mean_std, table
from experiments.common.sweep import PIXELS, Inputs, Sweep
from experiments.common.training import describe, results, train
from jsparse._storage.files import CorruptCheckpoint

FREE = {"free": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What every experiment that trains can set."""

    seeds: int = 5
    """Runs of each network, in the same program."""
    epochs: int
    """Passes over the training data."""
    batch: int
    """Samples a step."""
    learning_rate: float
    """At the start."""
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Folder with the official files; else $JSPARSE_DATA, a download, or scikit-learn's digits."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Run folder, by default runs/EXPERIMENT/NETWORK; a killed run goes on from there."""

    def __post_init__(self) -> None:
        at_least_one = {"seeds": self.seeds, "epochs": self.epochs, "batch": self.batch}
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"--{name} got {value}; give 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate got {self.learning_rate}; give a number above 0")

    @property
    def extent(self) -> str:
        """Epochs and seeds, for the line above a table."""
        return f"{counted(self.epochs, 'epoch')}, {counted(self.seeds, 'seed')}"

    def check_densities(self, densities: Sequence[float]) -> None:
        """Refuse densities at which nothing, or everything, would be left.

        Raises:
          ValueError: there are none, or one is not in (0, 1).
        """
        if not densities or not all(0 < d < 1 for d in densities):
            raise ValueError(f"--densities are fractions in (0, 1), got {densities}")

    def check_batch(self, images: Images) -> None:
        """Refuse a batch larger than the training set.

        Raises:
          ValueError: it is.
        """
        if self.batch > len(images.train_x):
            raise ValueError(
                f"--batch got {self.batch}; give at most the {len(images.train_x)} training "
                f"samples of {images.name}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(TrainSettings):
    """What every study of learned thresholds can set."""

    alphas: tuple[float, ...]
    """Weights of the regulariser; all are trained in one program."""
    density: float = 1.0
    """Below 1: steer alpha, from the one given, to end at this density."""
    decay: float = 0.0
    """Fraction of the run, at its end, over which the learning rate falls to 0 along a cosine."""
    dense: bool = dataclasses.field(default=True, metadata=FREE)
    """Train the dense network too; may also be done later, into the same folder."""
    first_seed: int = 1
    """Of the runs; to add seeds to a study that is done, with another --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.density <= 1:
            raise ValueError(f"--density is a fraction in (0, 1], got {self.density}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"--decay is a fraction of the run in [0, 1], got {self.decay}")
        names = {f"{alpha:g}" for alpha in self.alphas}  # under which results are kept
        right = all(0 <= alpha < math.inf for alpha in self.alphas)
        if not self.alphas or len(names) < len(self.alphas) or not right:
            raise ValueError(
                f"--alphas got {self.alphas}; give one or more, each once, 0 or more, with at most "
                "six digits"
            )
        if self.density < 1 and (len(self.alphas) > 1 or self.alphas[0] == 0):
            raise ValueError(
                f"--density {self.density} needs one alpha above 0, got --alphas {self.alphas}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the paper's table, in percent."""

    dense: str
    sparse: str
    density: str


def start(main: Callable, settings: type, text: str, *quick: TrainSettings) -> None:
    """Run an experiment from the command line; what it refuses is one line, not a traceback.

    Args:
      main: takes the settings.
      settings: their class.
      text: the experiment's description.
      *quick: the settings that --quick starts from, where there is such a flag.
    """
    try:
        default = {"default": quick[0]} if quick and "--quick" in sys.argv else {}
        called = sys.modules["__main__"].__spec__  # of `python -m experiments.NAME`
        prog = f"python -m {called.name}" if called else None
        main(tyro.cli(settings, prog=prog, description=text, **default))
    except (OSError, ValueError, ImportError, CorruptCheckpoint, Diverged) as error:
        sys.exit(f"error: {error}")


def learning_rate(settings: StudySettings, samples: int) -> optax.Schedule:
    """Constant, as in the paper, until it decays; by step."""
    steps = settings.epochs * (samples // settings.batch)
    tail = round(settings.decay * steps)
    flat = optax.constant_schedule(settings.learning_rate)
    if not tail:
        return flat
    fall = optax.cosine_decay_schedule(settings.learning_rate, tail)
    return optax.join_schedules([flat, fall], [steps - tail])


def _seeds(settings: StudySettings) -> range:
    return range(settings.first_seed, settings.first_seed + settings.seeds)


def study(
    settings: StudySettings,
    make: Callable[[nnx.Rngs], nnx.Module],
    pattern: str,
    tx: optax.GradientTransformation,
    images: Images,
    published: Sequence[Published],
    over: Callable[[Callable], Callable],
    inputs: Inputs = PIXELS,
) -> dict[str, dict]:
    """Train, plot and print.

    Args:
      settings: of the study.
      make: the dense network.
      pattern: of the paths of the weights that become sparse.
      tx: optax transform.
      images: data.
      published: the paper's figures, of one dense network; may be empty.
      over: how runs share a program: `side_by_side`, `in_turn` or `over_devices`.
      inputs: how images are prepared.

    Returns:
      Over the seeds, of each alpha (in "%g" format) and of "dense", where it was trained: accuracy
      and density of the last epoch and the best accuracy; and the mean density of each layer.
    """
    settings.check_batch(images)
    out = Path(settings.out)
    lines = [["published", "dense", "", one.dense, ""] for one in published[:1]]
    found: dict[str, dict] = {}
    run = open_run(out / "sparse", settings, dataset=images.name)  # refused before hours of dense
    if settings.dense:
        dense = dataclasses.replace(settings, alphas=(0.0,), density=1.0)
        dense_run = open_run(out / "dense", dense, dataset=images.name)
        sweep = Sweep(make, tx, settings.batch, over, inputs=inputs)
        found["dense"] = finish(dense_run, sweep, images, settings, [0.0])["0"]
        lines.append(_line("here", "dense", found["dense"]))

    def sparse(rngs: nnx.Rngs) -> nnx.Module:
        return jsparse.sparsify(make(rngs), (pattern, jsparse.Threshold(alpha=settings.alphas[0])))

    controls = []
    if settings.density < 1:
        steps = settings.epochs * (len(images.train_x) // settings.batch)
        controls = [jsparse.TargetDensity(density=settings.density, steps=steps)]
    sweep = Sweep(sparse, tx, settings.batch, over, controls, inputs)
    final = finish(run, sweep, images, settings, settings.alphas)
    lines += [["published", "sparse", one.density, one.sparse, ""] for one in published]
    for alpha in settings.alphas:
        what = f"alpha {alpha:g}" if settings.density == 1 else f"target {settings.density:.1%}"
        lines.append(_line("here", what, final[f"{alpha:g}"]))
    print(f"{images.name}, {settings.extent}, last epoch (test data):\n")
    print(table(["", "network", "density [%]", "accuracy [%]", "best epoch [%]"], lines))
    for alpha in settings.alphas:
        layers = dict(zip(sweep.layers, final[f"{alpha:g}"]["layers"], strict=True))
        kept = ", ".join(f"{name} {density:.2%}" for name, density in layers.items())
        print(f"\nlayers at alpha {alpha:g}: {kept}")
    pages = [run.folder / "page.html"]
    if settings.dense:
        folders = [out / "dense", out / "sparse"]
        pages.insert(0, jsparse.report.compare(folders, out / "compare.html"))
    print(f"\npage: {', '.join(map(str, pages))}")
    return found | final


def finish(
    run: Run,
    sweep: Sweep,
    images: Images,
    settings: StudySettings,
    alphas: Sequence[float],
) -> dict:
    """Train to the end unless that is done, write the page and the final numbers."""
    if run.complete:
        return run.final()
    pairs = [(alpha, seed) for alpha in alphas for seed in _seeds(settings)]
    start = lambda: sweep.start([seed for _, seed in pairs], [alpha for alpha, _ in pairs])
    names = [f"alpha {alpha:g}" for alpha, _ in pairs] if len(alphas) > 1 else []
    state = train(run, sweep, images, start=start, epochs=settings.epochs, names=names)
    numbers = {}
    for n, alpha in enumerate(alphas):
        which = range(n * settings.seeds, (n + 1) * settings.seeds)
        numbers[f"{alpha:g}"] = results(run, which)
    describe(run, sweep, state, images)
    run.finish(**numbers)
    return numbers


def _line(source: str, what: str, numbers: dict) -> list[str]:
    percent = {
        name: [100 * value for value in numbers[name]] for name in ("density", "accuracy", "best")
    }
    sparse = min(numbers["density"]) < 1
    density = mean_std(percent["density"]) if sparse else ""
    return [source, what, density, mean_std(percent["accuracy"]), mean_std(percent["best"])]
