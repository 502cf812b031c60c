"""A run as its files describe it: its numbers over time, for all seeds."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from jsparse._values import is_number

FRACTIONS = ("accuracy", "density")


@dataclasses.dataclass(frozen=True)
class Series:
    """A number over the course of a run, for all seeds."""

    steps: np.ndarray  # [n]
    values: np.ndarray  # [n, seeds]; NaN where a run diverged

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Over the seeds, [n]."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.values.mean(axis=1)

    @functools.cached_property
    def spread(self) -> np.ndarray | None:
        """Sample standard deviation over the seeds, [n]; None for one seed."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.values.std(axis=1, ddof=1) if self.values.shape[1] > 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run, read from its files."""

    path: Path
    settings: dict[str, Any]
    versions: list[dict[str, Any]]  # of the environments it ran in, oldest first
    rows: list[dict[str, Any]]  # of the log
    model: dict[str, Any]  # of model.json; empty where that is missing
    masks: dict[str, np.ndarray]
    tables: list[dict[str, Any]]  # title, columns and rows of each, as the experiment wrote them
    pictures: dict[str, bytes]  # PNG files by their stem
    missing: list[str]  # what a page cannot show, and what to do about it

    @property
    def unit(self) -> str:
        """The unit of a step of the log."""
        epochs = self.settings.get("epochs", 0)
        counts = isinstance(epochs, int) and bool(self.rows) and self.rows[-1]["step"] <= epochs
        return "epoch" if counts else "step"

    @property
    def end(self) -> str:
        """Where the log ends, such as "epoch 8 of 20"; empty where it has no row."""
        if not self.rows:
            return ""
        step, epochs = self.rows[-1]["step"], self.settings.get("epochs")
        early = self.unit == "epoch" and step < epochs
        return f"{self.unit} {step:,}" + (f" of {epochs:,}" if early else "")

    @functools.cached_property
    def names(self) -> list[str]:
        """Numbers that the log has of the whole run, accuracy and density first."""
        apart = ("step", "steps", "trace", "layers", "runs")
        found = {n for row in self.rows for n, v in row.items() if n not in apart and _numbers(v)}
        known = (*FRACTIONS, "loss")
        return [n for n in known if n in found] + sorted(found - set(known))

    def series(self, name: str) -> dict[str, Series]:
        """One number by what its seeds have in common, such as "alpha 0.001"; "" for all.

        The rows' "runs" names it for each seed. A single number, such as "seconds", is for all.
        """
        rows = [row for row in self.rows if _numbers(row.get(name))]
        if not rows:
            return {}
        log = self.path / "log.jsonl"
        values = [np.atleast_1d(np.array(row[name], float)) for row in rows]  # null becomes NaN
        labels, runs = [""], rows[0].get("runs")
        if isinstance(rows[0][name], list):
            labels = [str(one) for one in runs] if isinstance(runs, list) else [""] * len(values[0])
        for row, value in zip(rows, values, strict=True):
            if len(value) != len(labels):
                raise ValueError(
                    f"{log}: step {row['step']} has {len(value)} numbers for {name!r} but the log "
                    f"has {len(labels)} runs; give each row one number for each run"
                )
        steps, table = np.array([row["step"] for row in rows]), np.array(values)
        wrong = table[np.isfinite(table) & ((table < 0) | (table > 1 + 1e-6))]
        if name in FRACTIONS and wrong.size:
            raise ValueError(
                f"{log}: {name} {wrong[0]:g} is not a fraction in [0, 1]; divide percentages by "
                "100, or use another name"
            )
        which = {label: [n for n, own in enumerate(labels) if own == label] for label in labels}
        return {label: Series(steps, table[:, own]) for label, own in which.items()}

    def diverged(self) -> list[str]:
        """Notes where some of several runs have no number at the end, so their mean has none."""
        lines = []
        for name in self.names:
            for label, series in self.series(name).items():
                lost = ~np.isfinite(series.values)
                if lost[-1].any() and lost.shape[1] > 1:
                    first = series.steps[lost.any(axis=1).argmax()]
                    what = f"{name}, {label}" if label else name
                    many = f"{lost[-1].sum()} of {lost.shape[1]} runs"
                    lines.append(f"{what}: {many} diverged, the first at {self.unit} {first:g}")
        return lines

    def layers(self) -> tuple[dict[str, Series], bool]:
        """Density of each layer over time, by path, and whether these are fine.

        A fine one is a trace within the epochs, of the first run; otherwise it is the mean over the
        seeds.
        """
        fine = [row for row in self.rows if row.get("trace") and row.get("steps")]
        try:
            steps = [step for row in fine for step in row["steps"]]
            lines = [line for row in fine for line in row["trace"]]
            if not fine:
                rows = [row for row in self.rows if row.get("layers")]
                steps, lines = [row["step"] for row in rows], [row["layers"] for row in rows]
            if len(steps) != len(lines):
                raise ValueError(f"{len(steps)} steps, {len(lines)} lines of the trace")
            if not all(isinstance(line, dict) for line in lines):
                table = np.array([np.atleast_2d(_array(line)).mean(axis=0) for line in lines]).T
                known = list(self.model.get("layers", ()))
                numbered = [f"layer {n + 1}" for n in range(len(table))]
                names = known if len(known) == len(table) else numbered
            else:
                names = list(dict.fromkeys(path for line in lines for path in line))
                table = [[_mean(line.get(path)) for line in lines] for path in names]
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{self.path / "log.jsonl"}: "layers", or "steps" and "trace", do not fit together '
                f"({error}); give each row the same layers, with numbers"
            ) from error
        columns = zip(names, table, strict=True)
        return {n: Series(np.array(steps), _array(c)[:, None]) for n, c in columns}, bool(fine)


def _numbers(value: Any) -> bool:
    """Whether this is a number, or a list with one (or null) for each run."""
    if isinstance(value, list):
        return bool(value) and all(is_number(one) or one is None for one in value)
    return is_number(value)


def _mean(value: Any) -> float:
    """Over the seeds."""
    array = _array(value)
    if not array.size:
        raise ValueError("a list is empty")
    return float(array.mean())


def _array(value: Any) -> np.ndarray:
    """Numbers, NaN for JSON's null."""
    return np.array(value, float)
