"""The folder of a run: reads its files, names what is missing, refuses what is damaged."""

import dataclasses
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jsparse.report._saving import FORMAT, VERSION

FRACTIONS = ("accuracy", "density")
SAVE = "jsparse.report.save(model, folder, x)"
PARTS = {"layers": dict, "total": dict, "dense": int, "learned": int, "versions": dict}
OF_LAYER = {"shape", "rule", "kept", "size", "density", "axes"}
OF_FORM = {"name", "parameters", "bytes", "flops", "seconds"}


@dataclasses.dataclass(frozen=True)
class Series:
    """A number over the course of a run, for all seeds.

    Attributes:
      steps: [n].
      values: [n, seeds]; NaN where a run diverged.
    """

    steps: np.ndarray
    values: np.ndarray

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
        apart = ("step", "steps", "trace", "layers", "runs")
        found = {n for row in self.rows for n, v in row.items() if n not in apart and _numbers(v)}
        known = (*FRACTIONS, "loss")
        return [n for n in known if n in found] + sorted(found - set(known))

    def series(self, name: str) -> dict[str, Series]:
        """One number by what its seeds have in common, such as "alpha 0.001"; "" for all.

        The rows' "runs" names it for each seed. A lone number, such as "seconds", is of all.

        Raises:
          ValueError: the number of runs changes within the log, or an accuracy or density is not a
            fraction.
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

    def layers(self) -> tuple[dict[str, Series], bool]:
        """Density of each layer over time, by path, and whether these are fine.

        Fine is a trace within the epochs, of the first run; else it is the mean over the seeds.

        Raises:
          ValueError: the rows have different layers.
        """
        fine = [row for row in self.rows if row.get("trace") and row.get("steps")]
        steps = [step for row in fine for step in row["steps"]]
        lines = [line for row in fine for line in row["trace"]]
        if not fine:
            rows = [row for row in self.rows if row.get("layers")]
            steps, lines = [row["step"] for row in rows], [row["layers"] for row in rows]
        try:
            if len(steps) != len(lines):
                raise ValueError(f"{len(steps)} steps, {len(lines)} lines of the trace")
            if not all(isinstance(line, dict) for line in lines):
                table = np.array([np.atleast_2d(_array(line)).mean(axis=0) for line in lines]).T
                known = list(self.model.get("layers", ()))
                numbered = [f"layer {n + 1}" for n in range(len(table))]
                names = known if len(known) == len(table) else numbered
            else:
                names = list(dict.fromkeys(path for line in lines for path in line))
                table = [[_array(line.get(path)).mean() for line in lines] for path in names]
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{self.path / "log.jsonl"}: "layers", or "steps" and "trace", do not fit together '
                f"({error}); give each row the same layers, with numbers"
            ) from error
        columns = zip(names, table, strict=True)
        return {n: Series(np.array(steps), _array(c)[:, None]) for n, c in columns}, bool(fine)


def read_run(path: str | Path) -> Run:
    """Read the folder of a run.

    Raises:
      FileNotFoundError: no such folder, or nothing of a run in it.
      ValueError: a file is damaged, or of another format.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; pass the folder of a run")
    if not (path / "log.jsonl").is_file() and not (path / "model.json").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/log.jsonl"))
        remedy = f"pass one of its folders: {', '.join(inside)}" if inside else f"write one: {SAVE}"
        raise FileNotFoundError(f"{path} has neither log.jsonl nor model.json; {remedy}")
    missing: list[str] = []
    settings, versions = _settings(path / "settings.json", missing)
    rows = _rows(path / "log.jsonl", missing)
    model = _model(path / "model.json", missing)
    return Run(
        path=path,
        settings=settings,
        versions=versions or ([model["versions"]] if model else []),
        rows=rows,
        model=model,
        masks=_masks(path / "masks.npz", model, missing),
        missing=missing,
    )


def _json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object; {remedy}")
    return content


def _settings(path: Path, missing: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not path.is_file():
        missing.append("settings: there is no settings.json; write one, any JSON object")
        return {}, []
    content = _json(path, "write it again, or delete it for a page without settings")
    if isinstance(content.get("held"), dict) and isinstance(content.get("free"), dict):
        environments = content.get("environments") or ()
        return content["held"] | content["free"], [e for e in environments if isinstance(e, dict)]
    return content, []


def _rows(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        missing.append("curves: there is no log.jsonl; write one JSON object per line, with a step")
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if n == len(lines):  # the run was killed in the middle of it
                missing.append("the last row of log.jsonl: it is cut off")
                continue
            raise ValueError(
                f"{path}, line {n} is not JSON ({line[:40]!r}); delete this line"
            ) from error
        step = row.get("step") if isinstance(row, dict) else None
        if not _is_number(step) or not math.isfinite(step):  # type: ignore[arg-type]
            raise ValueError(
                f'{path}, line {n} has no number "step" ({line[:40]!r}); give each row the step or '
                "epoch it was written after"
            )
        rows.append(row)
    if not rows:
        missing.append("curves: log.jsonl has no row yet")
    return rows


def _model(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.is_file():
        missing.append(
            f"masks, sizes, FLOPs and latency: there is no model.json; at the end call {SAVE}"
        )
        return {}
    content = _json(path, f"write it again with {SAVE}")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(
            f"{path} is not a file of {SAVE} in its version {VERSION} (it says "
            f"{content.get('format')!r}, {content.get('version')!r}); write it again"
        )
    lost = [name for name, kind in PARTS.items() if not isinstance(content.get(name), kind)]
    if not lost:
        layers, forms = content["layers"], content.get("forms", [])
        lost = [f"all about {name}" for name, one in layers.items() if not one.keys() >= OF_LAYER]
        lost += [f"all about form {n}" for n, one in enumerate(forms) if not one.keys() >= OF_FORM]
    if lost:
        raise ValueError(f"{path} lacks {', '.join(lost)}; write it again with {SAVE}")
    if "costs" not in content:
        missing.append(f"FLOPs: model.json was written without example inputs; call {SAVE}")
    if not content.get("forms"):
        missing.append(
            "latency: no form of the model was timed; give them to save: "
            'forms={"folded": jsparse.fold(model)}'
        )
    return content


def _masks(path: Path, model: dict[str, Any], missing: list[str]) -> dict[str, np.ndarray]:
    if not model or not model["layers"]:
        return {}
    if not path.is_file():
        missing.append(f"pictures of the masks: there is no masks.npz; write it with {SAVE}")
        return {}
    masks = {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            for name, layer in model["layers"].items():
                flat = np.unpackbits(file[f"masks/{name}"], count=layer["size"]).astype(bool)
                masks[name] = flat.reshape(layer["shape"])
                if masks[name].sum() != layer["kept"]:
                    raise ValueError(f"{name} keeps another number than model.json says")
    except Exception as error:  # a flipped byte makes zipfile raise nearly anything
        raise ValueError(
            f"{path} is damaged or of another run ({error}); write it again with {SAVE}, or delete "
            "it for a page without pictures"
        ) from error
    return masks


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
    """Whether this is a number, or a list with one (or null) for each run."""
    if isinstance(value, list):
        return bool(value) and all(_is_number(one) or one is None for one in value)
    return _is_number(value)


def _array(value: Any) -> np.ndarray:
    """Numbers, NaN for JSON's null."""
    return np.array(value, float)
