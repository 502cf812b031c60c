"""LogME against its authors' NumPy code: processor seconds, and values.

Claim: where the rank is full both give the same score, and ours takes under a third of the time on
    5,000 samples of 512 features in 10 classes; where it is not full theirs differs. A fifth cannot
    be reached in float64 on one thread: of their 189 processor ms the product F^T F takes 29, F^T y
    3 and the tridiagonal form 8, together 0.21; eigenvectors and the search for the maximum are the
    other 17 of our 57.
Command: python -m experiments.bench.logme --authors FOLDER
    with a checkout of github.com/thuml/LogME; without numba its compiled part is plain NumPy.
Minutes: 1 on two cores.

Features are those of a random ReLU layer, some of which indicate the class. Both take turns; times
are processor seconds of one thread, which other work on the machine disturbs less than the clock:
set OPENBLAS_NUM_THREADS=1.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable

import numpy as np
import tyro

from experiments import common
from experiments.bench.rounds import Load, clocked, made_with, ratio, turns
from experiments.common.authors import authors_logme
from jsparse.report import logme


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    authors: str
    """Checkout of github.com/thuml/LogME."""
    samples: int = 5000
    features: int = 512
    classes: int = 10
    rounds: int = 11
    """Runs of each."""


def draw(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Features of a random layer, and classes."""
    rng = np.random.default_rng(0)
    n, d = settings.samples, settings.features
    labels = rng.integers(0, settings.classes, n)
    labels[: settings.classes] = range(settings.classes)
    raw = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / d**0.5
    features = np.maximum(raw + 0.2, 0)
    features[:, : settings.classes] += np.eye(settings.classes)[labels]
    return features, labels


def cases(features: np.ndarray) -> dict[str, np.ndarray]:
    """Features of full rank, and of less."""
    d = features.shape[1]
    dead, copied = features.copy(), features.copy()
    dead[:, d // 2 :] = 0
    copied[:, d // 2 :] = features[:, : d - d // 2]
    return {
        "full rank": features,
        "half of them dead": dead,
        "half of them copies": copied,
        "fewer samples": features[: d // 2],
        "full rank, 1000 times as large": 1000 * features,
    }


def main(settings: Settings) -> None:
    """Time both and print the tables."""
    features, labels = draw(settings)
    theirs = authors_logme(settings.authors)
    both: dict[str, Callable[[], float]] = {
        "jsparse": lambda: logme(features, labels).score,
        "authors": lambda: theirs(features, labels),
    }
    load = Load()
    samples = {name: lambda run=run: clocked(run)[2] for name, run in both.items()}
    taken = turns(samples, settings.rounds)
    print(made_with())
    numba = "with" if importlib.util.find_spec("numba") else "without"
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    print(f"authors' code {numba} numba, threads {threads}; {load}\n")
    size = f"{settings.samples} x {settings.features}, {settings.classes} classes"
    rows = [
        [n, f"{1e3 * np.median(one):.1f}", *ratio(taken["authors"], one)]
        for n, one in taken.items()
    ]
    print(common.table([size, "processor ms", "authors / this", "quartiles"], rows))
    rows = []
    for name, f in cases(features).items():
        y = labels[: len(f)]
        if len(np.unique(y)) == settings.classes:
            ours, other = logme(f, y).score, theirs(f, y)
            rows.append([name, f"{ours:.6f}", f"{other:.6f}", f"{other - ours:.1e}"])
    print("\n" + common.table(["score", "jsparse", "authors", "apart"], rows))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
