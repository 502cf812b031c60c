"""The settings of experiments, their JSON form, and the machine of a run."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import numpy as np
import optax
import tyro

import jsparse
from experiments.common.show import counted
from experiments.datasets.sources import Images, first_samples
from jsparse.report import versions

FREE = {"free": True}


class Diverged(RuntimeError):
    """The loss or a weight is no longer a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of every experiment; neither affects results, so both may change later."""

    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Folder with the official files; else $JSPARSE_DATA, a download, or scikit-learn's digits."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Run folder, by default runs/EXPERIMENT/...; a killed run continues from there."""

    def in_folder(self, folder: str) -> tuple[Self, Path]:
        """The settings with a run folder, which is `folder` unless they name one; and its path."""
        out = Path(self.out or folder)
        return dataclasses.replace(self, out=str(out)), out

    def check_positive(self, *names: str) -> None:
        """Refuse settings of these names that are below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} got {getattr(self, name)}; give 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmSettings(RunSettings):
    """Arms are trained one after another, all seeds of one in the same program."""

    arms: tuple[str, ...] = dataclasses.field(metadata=FREE)
    """What is trained."""
    seeds: int = 5
    quick: bool = False
    """One seed, two arms."""

    def check_arms(self, known: Iterable[str]) -> None:
        """Refuse unknown arms, and none."""
        if not self.arms or not set(self.arms) <= set(known):
            raise ValueError(f"--arms got {self.arms}; give some of {', '.join(known)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """What every experiment that trains can set."""

    seeds: int = 5
    """Runs of each network, in the same program."""
    epochs: int
    """Passes over the training data."""
    batch: int
    """Samples per step."""
    learning_rate: float
    """At the start."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "epochs", "batch")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate got {self.learning_rate}; give a number above 0")

    @property
    def extent(self) -> str:
        """Epochs and seeds, for a table's caption."""
        return f"{counted(self.epochs, 'epoch')}, {counted(self.seeds, 'seed')}"

    def check_densities(self, densities: Sequence[float]) -> None:
        """Refuse densities at which nothing, or everything, would be left, and none."""
        if not densities or not all(0 < d < 1 for d in densities):
            raise ValueError(f"--densities are fractions in (0, 1), got {densities}")

    def check_batch(self, images: Images) -> None:
        """Refuse a batch larger than the training set."""
        if self.batch > len(images.train_x):
            raise ValueError(
                f"--batch got {self.batch}; give at most the {len(images.train_x)} training "
                f"samples of {images.name}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(TrainSettings):
    """What experiments on images can set."""

    samples: int = 60_000
    """Number of training images to use, the first ones."""

    def images(self, load: Callable[[str], Images]) -> Images:
        """The first training images, of which a batch is needed, and all test images."""
        images = first_samples(load(self.data), self.samples)
        self.check_batch(images)
        return images


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(TrainSettings):
    """What every study of learned thresholds can set."""

    alphas: tuple[float, ...]
    """Weights of the regularizer; all are trained in one program."""
    density: float = 1.0
    """Below 1: steer alpha, from the one given, to end at this density."""
    decay: float = 0.0
    """Fraction of the run, at its end, over which the learning rate falls to 0 along a cosine."""
    dense: bool = dataclasses.field(default=True, metadata=FREE)
    """Train the dense network too; this may also be done later, into the same folder."""
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


def start(main: Callable, settings: type, text: str, *quick: TrainSettings) -> None:
    """Run an experiment from the command line; refused input gives one line, not a traceback.

    Args:
      main: takes the settings.
      settings: their class.
      text: the experiment's description.
      *quick: the settings that --quick starts from, if there is such a flag.
    """
    try:
        default = {"default": quick[0]} if quick and "--quick" in sys.argv else {}
        called = sys.modules["__main__"].__spec__  # of `python -m experiments.NAME`
        prog = f"python -m {called.name}" if called else None
        main(tyro.cli(settings, prog=prog, description=text, **default))
    except (OSError, ValueError, ImportError, jsparse.CorruptCheckpoint, Diverged) as error:
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


def plain(value: Any, name: str) -> Any:
    """`value` in a form that JSON preserves; a TypeError that names it if there is none."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **plain(fields, name)}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(
        f"{name} is a {type(value).__name__}; allowed are numbers, texts, arrays, paths, lists, "
        "mappings, dataclasses, classes and functions: turn it into one of these"
    )


def flatten(settings: Any, prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings by dotted name: fixed ones, and those marked `metadata={"free": True}`.

    A dataclass inside is opened, and its class counts as a setting. Anything but an instance of a
    dataclass is a TypeError.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings is a {type(settings).__name__}; give an instance of a dataclass")
    held: dict[str, Any] = {}
    free: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner, loose = flatten(value, name + ".")
            inner = {name: type(value).__qualname__, **inner}
        else:
            inner, loose = {name: plain(value, name)}, {}
        (free if field.metadata.get("free", False) else held).update(inner)
        free |= loose
    return held, free


def environment() -> dict[str, Any]:
    """Versions, devices and the commit of a run, with `-dirty` where files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.check_output(
            command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True, timeout=20
        ).strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {**versions(), "devices": jax.device_count(), "commit": commit}
