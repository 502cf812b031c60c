"""A run as its files tell it: its numbers over time, for all seeds."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

FRACTIONS = ("accuracy", "density")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A number over the course of a run, for all seeds.

    Attributes:
      steps: [n].
      values: [n, seeds]; NaN where a run diverged.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds, [n]."""
        with np.errstate(invalid="ignore"):  # of infinities
            return self.values.mean(axis=1)

    @property
    def spread(self) -> np.ndarray:
        """Sample standard deviation over the seeds, [n]; empty for one seed."""
        many = self.values.shape[1] > 1
        with np.errstate(invalid="ignore"):
            return self.values.std(axis=1, ddof=1) if many else np.zeros(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """A run, read from its files.

    Attributes:
      path: of the folder.
      settings: by name.
      versions: the environments it ran in, oldest first.
      rows: of the log.
      model: of model.json; empty where that is missing.
      masks: bool, by path.
      missing: what a page cannot show, and what to do about it.
    """

    path: Path
    settings: dict[str, Any]
    versions: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    model: dict[str, Any]
    masks: dict[str, np.ndarray]
    missing: list[str]

    @property
    def unit(self) -> str:
        """What a step of the log is."""
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
        known = (*FRACTIONS, "loss")
        found = {
            name
            for row in self.rows
            for name, value in row.items()
            if name not in ("step", "steps", "trace", "layers", "runs") and _numbers(value)
        }
        return [n for n in known if n in found] + sorted(found - set(known))

    def series(self, name: str) -> dict[str, Series]:
        """One number by what its seeds have in common, such as "alpha 0.001"; "" for all.

        The rows' "runs" names it for each seed. A lone number, such as "seconds", is of all.

        Raises:
          ValueError: the log has another number of runs from some row on, or an accuracy or
            density that is not a fraction.
        """
        rows = [row for row in self.rows if _numbers(row.get(name))]
        if not rows:
            return {}
        values = [np.atleast_1d(np.array(_plain(row[name]), float)) for row in rows]
        many = isinstance(rows[0][name], list)
        runs = rows[0].get("runs")
        labels = [str(label) for label in runs] if isinstance(runs, list) else [""] * len(values[0])
        labels = labels if many else [""]
        for row, value in zip(rows, values, strict=True):
            if len(value) != len(labels):
                raise ValueError(
                    f"{self.path / 'log.jsonl'}: step {row['step']} has {len(value)} numbers for "
                    f"{name!r}, but there are {len(labels)} runs; give each row one per run"
                )
        steps, table = np.array([row["step"] for row in rows]), np.array(values)
        if (
            name in FRACTIONS
            and (wrong := table[np.isfinite(table) & ((table < 0) | (table > 1 + 1e-6))]).size
        ):
            raise ValueError(
                f"{self.path / 'log.jsonl'}: {name} {wrong[0]:g} is not a fraction in [0, 1]; "
                "divide percentages by 100, or use another name"
            )
        which = {label: [n for n, own in enumerate(labels) if own == label] for label in labels}
        return {label: Series(steps=steps, values=table[:, own]) for label, own in which.items()}

    def layers(self) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
        """Density of each layer over time: steps [n], values [n] by path, and if these are fine.

        Fine is a trace within the epochs, of the first run; else it is the mean over the seeds.

        Raises:
          ValueError: the rows have different layers.
        """
        try:
            return self._layers()
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{self.path / "log.jsonl"}: "layers", or "steps" and "trace", do not fit together '
                f"({error}); give each row the same layers, with numbers"
            ) from error

    def _layers(self) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
        fine = [row for row in self.rows if row.get("trace") and row.get("steps")]
        if fine:
            steps = [step for row in fine for step in row["steps"]]
            table = np.array([line for row in fine for line in row["trace"]], float)
            if len(steps) != len(table):
                raise ValueError(f"{len(steps)} steps, {len(table)} lines of the trace")
            return np.array(steps), self._named(table), True
        rows = [row for row in self.rows if row.get("layers")]
        if not rows:
            return np.zeros(0), {}, False
        steps = np.array([row["step"] for row in rows])
        if isinstance(rows[0]["layers"], dict):
            paths = dict.fromkeys(path for row in rows for path in row["layers"])
            table = [[_mean(row["layers"].get(path)) for path in paths] for row in rows]
            named = dict(zip(paths, np.array(table, float).T, strict=True))
            return steps, named, False
        table = np.array([np.atleast_2d(row["layers"]).mean(axis=0) for row in rows])
        return steps, self._named(table), False

    def _named(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Columns by layer; by number where model.json does not know as many."""
        names = list(self.model.get("layers", ()))
        if len(names) != table.shape[1]:
            names = [f"layer {n + 1}" for n in range(table.shape[1])]
        return dict(zip(names, table.T, strict=True))


def is_number(value: Any) -> bool:
    """Whether JSON holds a number here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
    """Whether this is a number, or a list with one for each run."""
    if isinstance(value, list):
        return bool(value) and all(is_number(one) or one is None for one in value)
    return is_number(value)


def _mean(value: Any) -> Any:
    """Of a list with one for each run."""
    value = _plain(value)
    return np.mean(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """JSON's null as NaN."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return math.nan if value is None else value
