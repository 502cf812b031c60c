"""Reads the folder of a run: what is there, and what is not."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jsparse.report.saving import FORMAT, VERSION

SAVE = "jsparse.report.save(model, folder, x)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A number over the course of a run, for all seeds.

    Attributes:
      steps: [n].
      values: [n, seeds]; NaN where a run lost its way.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds, [n]."""
        return self.values.mean(axis=1)

    @property
    def spread(self) -> np.ndarray:
        """Sample standard deviation over the seeds, [n]; empty for one seed."""
        many = self.values.shape[1] > 1
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

    def names(self) -> list[str]:
        """Numbers that the log has of the whole run, accuracy and density first."""
        known = ("accuracy", "density", "loss")
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
          ValueError: the log has another number of runs from some row on.
        """
        rows = [row for row in self.rows if _numbers(row.get(name))]
        if not rows:
            return {}
        values = [np.atleast_1d(np.array(_plain(row[name]), float)) for row in rows]
        many = isinstance(rows[0][name], list)
        labels = rows[0].get("runs", [""] * len(values[0])) if many else [""]
        for row, value in zip(rows, values, strict=True):
            if len(value) != len(labels):
                raise ValueError(
                    f"{self.path / 'log.jsonl'}: step {row['step']} has {len(value)} numbers for "
                    f"{name!r}, there are {len(labels)} runs; give each row one for each run"
                )
        steps, table = np.array([row["step"] for row in rows]), np.array(values)
        which = {label: [n for n, own in enumerate(labels) if own == label] for label in labels}
        return {label: Series(steps=steps, values=table[:, own]) for label, own in which.items()}

    def layers(self) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
        """Density of each layer over time: steps [n], values [n] by path, and if these are fine.

        Fine is a trace within the epochs, of the first run; else it is the mean over the seeds.
        """
        fine = [row for row in self.rows if row.get("trace") and row.get("steps")]
        if fine:
            steps = [step for row in fine for step in row["steps"]]
            table = np.array([line for row in fine for line in row["trace"]], float)
            return np.array(steps), self._named(table), True
        rows = [row for row in self.rows if row.get("layers")]
        if not rows:
            return np.zeros(0), {}, False
        steps = np.array([row["step"] for row in rows])
        if isinstance(rows[0]["layers"], dict):
            named = {
                path: np.array([np.mean(row["layers"].get(path, math.nan)) for row in rows])
                for path in rows[0]["layers"]
            }
            return steps, named, False
        table = np.array([np.atleast_2d(row["layers"]).mean(axis=0) for row in rows])
        return steps, self._named(table), False

    def _named(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Columns by layer; by number where model.json does not know as many."""
        names = list(self.model.get("layers", ()))
        if len(names) != table.shape[1]:
            names = [f"layer {n + 1}" for n in range(table.shape[1])]
        return dict(zip(names, table.T, strict=True))


def read_folder(path: str | Path) -> Folder:
    """Read a run.

    Raises:
      FileNotFoundError: no such folder, or nothing of a run in it.
      ValueError: a file is damaged, or of another format.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder; give the folder of a run")
    if not (path / "log.jsonl").is_file() and not (path / "model.json").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/log.jsonl"))
        remedy = f"give one of its folders: {', '.join(inside)}" if inside else f"write one: {SAVE}"
        raise FileNotFoundError(f"{path} has neither log.jsonl nor model.json; {remedy}")
    missing: list[str] = []
    settings, environments = _settings(path / "settings.json", missing)
    rows = _rows(path / "log.jsonl", missing)
    model = _model(path / "model.json", missing)
    if model:
        environments = environments or [model["versions"]]
    masks = _masks(path / "masks.npz", model, missing)
    return Folder(
        path=path,
        settings=settings,
        versions=environments,
        rows=rows,
        model=model,
        masks=masks,
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
    content = _json(path, "write it anew, or delete it for a page without settings")
    if isinstance(content.get("held"), dict) and isinstance(content.get("free"), dict):
        return content["held"] | content["free"], list(content.get("environments", ()))
    return content, []


def _rows(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        missing.append("curves: there is no log.jsonl; write a JSON object a line, with its step")
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    rows = []
    for n, line in enumerate([*lines, rest]):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if n == len(lines):  # the run was killed in the middle of it
                missing.append("the last row of log.jsonl: it is cut off")
                continue
            raise ValueError(
                f"{path}, line {n + 1} is not JSON ({line[:40]!r}); delete this line"
            ) from error
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            raise ValueError(
                f'{path}, line {n + 1} has no number "step" ({line[:40]!r}); give each row the '
                "step or epoch it was written after"
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
    content = _json(path, f"write it anew with {SAVE}")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(
            f"{path} is no file of {SAVE} in its version {VERSION} (it says "
            f"{content.get('format')!r}, {content.get('version')!r}); write it anew"
        )
    lost = [n for n in ("layers", "total", "dense", "learned", "versions") if n not in content]
    if lost:
        raise ValueError(f"{path} lacks {', '.join(lost)}; write it anew with {SAVE}")
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
            f"{path} is damaged or of another run ({error}); write it anew with {SAVE}, or delete "
            "it for a page without pictures"
        ) from error
    return masks


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
    """Whether this is a number, or a list with one for each run."""
    if isinstance(value, list):
        return bool(value) and all(_is_number(one) or one is None for one in value)
    return _is_number(value)


def _plain(value: Any) -> Any:
    """JSON's null is no number."""
    return [math.nan if one is None else one for one in value] if isinstance(value, list) else value
