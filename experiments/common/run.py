"""A run's folder: settings.json, log.jsonl, checkpoints/ and, when all is done, final.json.

A run killed at any moment is opened again with the same settings and continues from its last
checkpoint (`jsparse.Checkpoints`) as if nothing had happened:

    run = open_run(settings.out, settings, data=images.name)
    if not run.complete:
        step, state = run.load(state)           # (0, state) in a new folder
        for epoch in range(step + 1, settings.epochs + 1):
            state, loss, accuracy = train(state)
            check_finite(loss, epoch, densities, run)
            run.log(epoch, accuracy=accuracy)   # log first, then save
            run.save(epoch, state)
        run.finish(accuracy=accuracy)
    print(run.final())
"""

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsparse
from experiments.common.settings import Diverged, environment, flatten, plain
from jsparse._storage.files import add_line, write_whole
from jsparse._storage.writers import abandon_on_error, claim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The folder of one run; all its state is in the files. Made by `open_run`."""

    folder: Path

    @property
    def complete(self) -> bool:
        """Whether `finish` was called."""
        return (self.folder / "final.json").is_file()

    def final(self) -> dict[str, Any]:
        """The numbers given to `finish`; a FileNotFoundError if the run is not complete."""
        if not self.complete:
            raise FileNotFoundError(f"{self.folder} has no final.json: the run is not complete")
        return json.loads((self.folder / "final.json").read_text())

    def finish(self, **numbers: Any) -> None:
        """Writes final.json: the run is complete."""
        write_whole(self.folder / "final.json", _json(numbers, indent=1))

    def log(self, step: int, **numbers: Any) -> None:
        """Adds one line to log.jsonl; call it before `save` of the same step."""
        add_line(self.folder / "log.jsonl", _json({"step": int(step), **numbers}))

    def rows(self) -> list[dict[str, Any]]:
        """The logged lines, oldest first, without a torn last one; others raise a ValueError."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        lines = path.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines[:-1], 1):  # what follows the last line end was torn
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is not JSON ({line[:40]!r}); delete this line, or "
                    "delete the folder and run again"
                ) from error
        return rows

    @functools.cached_property
    def checkpoints(self) -> jsparse.Checkpoints:
        """The last two states."""
        return jsparse.Checkpoints(self.folder / "checkpoints")

    def save(self, step: int, tree: Any) -> None:
        """Save a state, whole or not at all: modules, arrays, typed keys and numbers in a tree."""
        self.checkpoints.save(step, tree)

    def load(self, tree: Any) -> tuple[int, Any]:
        """The newest valid checkpoint, or `(0, tree)` if nothing was saved.

        `tree` gives structure, shapes, dtypes and devices. Rows logged after the checkpoint are
        dropped, so no step is logged twice.

        Raises:
            CorruptCheckpoint: There are checkpoints and all are damaged.
            ValueError: A checkpoint has other paths, shapes or dtypes than `tree`.
        """
        step, tree, _ = self.checkpoints.restore(tree)
        self.forget_after(step)
        return step, tree

    def forget_after(self, step: int) -> None:
        """Drops the rows logged after the step from which the run continues, and reports it."""
        self._keep([row for row in self.rows() if row["step"] <= step])
        if step:
            print(f"{self.folder}: continues after step {step}", file=sys.stderr)

    def tidy(self) -> None:
        """Removes unfinished work of a killed run: a torn log line, files not yet in place."""
        for path in self.folder.glob(".*.part"):
            path.unlink()
        log = self.folder / "log.jsonl"
        if log.is_file() and not log.read_bytes().endswith(b"\n"):
            self._keep(self.rows())

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        write_whole(self.folder / "log.jsonl", b"".join(_json(row) for row in rows))


def open_run(folder: str | Path, settings: Any, **facts: Any) -> Run:
    """Opens a run's folder, new or from a run with the same settings.

    Args:
        folder: Made where it does not exist.
        settings: A dataclass. Fields with `metadata={"free": True}` (the output folder, the number
            of epochs) may change between openings; all others are fixed.
        facts: Further facts the results depend on, fixed like settings: `data=images.name`.

    Raises:
        BlockingIOError: Another process writes to the folder.
        ValueError: The folder holds a run with other settings, or files of no known run.
    """
    run = Run(folder=Path(folder))
    claim(run.folder, run)
    held, free = flatten(settings)
    both = sorted(facts.keys() & (held.keys() | free.keys()))
    if both:
        raise ValueError(f"{both[0]} is a setting and a fact; give the fact another name")
    held |= {name: plain(fact, name) for name, fact in facts.items()}
    path = run.folder / "settings.json"
    now = environment()
    if path.is_file():
        old = _read_settings(path)
        _compare(old, held, free, run.folder)
        environments = old["environments"]
        if environments[-1] != now:
            print(f"{run.folder}: the environment has changed, see {path}", file=sys.stderr)
            environments.append(now)
    else:
        known = ("log.jsonl", "final.json", "checkpoints")
        left = [name for name in known if (run.folder / name).exists()]
        if left:
            raise ValueError(
                f"{run.folder} holds {', '.join(left)} but no settings.json, so it is not known "
                "what run they belong to; choose another --out or delete the folder"
            )
        environments = [now]
    settings_now = {"held": held, "free": free, "environments": environments}
    with abandon_on_error(run.folder):
        write_whole(path, _json(settings_now, indent=1))
    run.tidy()
    if run.complete:
        print(f"{run.folder} holds a complete run: {run.final()}", file=sys.stderr)
    return run


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        old = json.loads(path.read_text())
        return {name: old[name] for name in ("held", "free", "environments")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a settings file of this version ({error!r}); choose another --out or "
            f"delete {path.parent}"
        ) from error


def _compare(old: dict[str, Any], held: dict[str, Any], free: dict[str, Any], folder: Path) -> None:
    before = {**old["free"], **old["held"]}
    gone = [name for name in old["held"] if name not in held and name not in free]
    lines = []
    for name in [*held, *gone]:
        there = repr(before[name]) if name in before else "absent"
        here = repr(held[name]) if name in held else "absent"
        if name not in before or name not in held or before[name] != held[name]:
            lines.append(f"  {name}: {there} there, {here} now")
    if lines:
        raise ValueError(
            "\n".join([f"{folder} holds a run with other settings:", *lines])
            + f"\nchoose another --out, or delete {folder}"
        )


def check_finite(
    value: Any, step: int, densities: Mapping[str, Any], run: Run, name: str = "the loss"
) -> None:
    """Stops a run (`Diverged`) whose loss, or another named value, is no longer finite.

    Call it before `Run.save`, so that only good states are saved.
    """
    if math.isfinite(value):
        return
    layers = ", ".join(f"{path} {float(density):.2%}" for path, density in densities.items())
    saved = run.checkpoints.steps()
    kept = f"step {saved[-1]} is kept in {run.checkpoints.folder}" if saved else "nothing was saved"
    raise Diverged(
        f"{name} is {float(value)} at step {step}; densities: {layers or 'not given'}; {kept}; "
        "try a smaller learning rate or a smaller alpha"
    )


def _json(value: Any, **options: Any) -> bytes:
    return (json.dumps(plain(value, "value"), **options) + "\n").encode()
