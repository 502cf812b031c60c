"""What a path of sparse heads costs, against the authors' PyTorch code.

Claim: on 8,000 x 512 features the path takes at most a fifth of the time of the authors' GLM-SAGA,
    compiling included, and each head is closer to its optimum than theirs.
Command: python -m experiments.bench.heads --authors PYTHON
    a Python with torch and glm_saga (pip install glm_saga torch numpy tqdm), which may be this one.
Minutes: 5 on one core.

Features are those of random ReLU units on images of MNIST, standardized by us for both; no row is
held out. Both have one core. The authors' code stops where the loss of an epoch has not fallen by
1e-4 for three epochs. How far a head is from its optimum is the largest violation of the optimality
conditions in units of lambda, taken here from the weights of either in float64. Ratios are of
processor seconds, which other work on the machine disturbs less than the clock.
"""

import dataclasses
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments import common, datasets
from experiments.bench.rounds import Load, answer, clocked, made_with
from jsparse import heads

SCRIPT = Path(__file__).with_name("official_saga.py")
MIX = 0.99
CONVERGED = 0.01
"""Largest violation of an optimum, in units of lambda."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rows: int = 8000
    """Of features."""
    width: int = 512
    """Features."""
    points: int = 20
    """Heads of a path."""
    tolerance: float = 0.01
    """Of our heads."""
    authors: str = ""
    """A Python with torch and glm_saga."""
    data: str = ""
    """Folder with the files of MNIST."""


def draw(settings: Settings) -> tuple[np.ndarray, np.ndarray, str]:
    """Standardized features [rows, width], labels [rows], and the name of the data."""
    images = datasets.first_samples(datasets.mnist(settings.data), settings.rows)
    pixels = images.train_x.reshape(len(images.train_x), -1) / 255
    units = np.random.default_rng(0).standard_normal((pixels.shape[1], settings.width))
    features = np.maximum(pixels @ units, 0).astype(np.float32)
    spread = features.std(0, ddof=1)
    features = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    return features, images.train_y, images.name


def judged(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, lam: float
) -> tuple[float, float]:
    """The largest violation of the optimality conditions, in units of lambda, and the loss with
    its penalties; in float64."""
    outputs = features.astype(np.float64) @ weight + bias
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    share = odds / odds.sum(axis=1, keepdims=True)
    residual = share - np.eye(weight.shape[1])[labels]
    smooth = features.T @ residual / len(features) + lam * (1 - MIX) * weight
    cut = lam * MIX
    alive = np.abs(smooth + cut * np.sign(weight))
    dead = np.maximum(np.abs(smooth) - cut, 0)
    worst = max(np.where(weight, alive, dead).max(), np.abs(residual.mean(axis=0)).max())
    penalty = cut * np.abs(weight).sum() + lam * (1 - MIX) / 2 * (weight**2).sum()
    return worst / lam, penalty - np.log(share[np.arange(len(labels)), labels]).mean()


def ours(features: np.ndarray, labels: np.ndarray, settings: Settings) -> tuple[Any, float, float]:
    """The path, its seconds and its processor seconds."""
    options = {"points": settings.points, "tolerance": settings.tolerance, "validation": 0.0}
    solve = partial(heads.elastic_net_path, mix=MIX, key=jax.random.key(0), **options)
    return clocked(lambda: solve(features, labels))


def theirs(folder: Path, settings: Settings) -> tuple[dict[str, np.ndarray], float, float]:
    """The authors' path, likewise."""
    case, out = folder / "case.npz", folder / "out.npz"
    printed = answer([settings.authors, SCRIPT, case, out, settings.points])
    seconds, used = map(float, printed.split()[-2:])
    return dict(np.load(out)), seconds, used


def main(settings: Settings) -> None:
    """Measure in turns; print both paths and the ratio."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the other process inherits it
    features, labels, name = draw(settings)
    load = Load()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "case.npz"), features=features, labels=labels)
        _, *first = ours(features, labels, settings)
        path, *second = ours(features, labels, settings)
        taken = {"jsparse, first call": first, "jsparse, second call": second}
        other: dict[str, np.ndarray] = {}
        if settings.authors:
            other, *taken["the authors' code"] = theirs(Path(folder), settings)
    print(made_with())
    print(f"{name}: {features.shape[0]} x {features.shape[1]} features; {load}\n")
    rows, worse, gaps = [], 0, []
    for n, point in enumerate(path.points):
        own, loss = judged(features, labels, point.weight, point.bias, point.lam)
        row = [f"{point.lam:.3g}", f"{point.features_per_class:.1f}", f"{own:.4f}"]
        if settings.authors:
            lam, weight, bias = (other[k][n] for k in ("lams", "weights", "biases"))
            assert abs(lam / point.lam - 1) < 1e-3, (lam, point.lam)
            worst, their_loss = judged(features, labels, weight.T, bias, point.lam)
            row += [f"{np.mean(np.abs(weight) > 1e-5) * weight.shape[1]:.1f}", f"{worst:.4f}"]
            row += [f"{their_loss - loss:.1e}"]
            worse += own > worst and own > settings.tolerance
            gaps += [abs(their_loss - loss)] if worst < CONVERGED else []
        rows.append(row)
    columns = ["lambda", "per class", "violation"]
    print(common.table([*columns, *columns[1:], "loss above ours"][: len(rows[0])], rows))
    rival = taken.get("the authors' code")
    shown = [
        [name, f"{s:.1f}", f"{p:.1f}", f"{rival[1] / p:.1f}" if rival else ""]
        for name, (s, p) in taken.items()
    ]
    print("\n" + common.table(["", "s", "processor s", "authors' / this"], shown))
    if settings.authors:
        print(f"\nheads farther from their optimum than theirs and the tolerance: {worse}")
        print(f"theirs converged, to {CONVERGED} lambda, in {len(gaps)} of {len(rows)} heads")
        if gaps:
            print(f"there the losses differ by at most {max(gaps):.1e}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
