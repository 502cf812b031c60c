"""Rounds on disk: whole or absent, whatever kills the process; nothing is pickled.

1. `round_003.npz` holds every variable of the model that round 3 trained, masks and weights.
2. `round_003.json` is written after it: density, check sums of the arrays and of the round before.
3. A round counts if both are there and it follows from the round before that is there now.

Numbers: no figure of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flax import nnx

from jsparse._storage import tree_file
from jsparse._storage.described import described
from jsparse._storage.files import write_whole

Model = TypeVar("Model", bound=nnx.Module)


class Keep(Protocol):
    """Where rounds are kept: `Folder` or `Nowhere`."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Refuse what was kept under other settings."""
        ...

    def has(self, number: int, asked: float) -> bool:
        """Whether a round is there."""
        ...

    def load(self, number: int, like: Model) -> Model:
        """The model that a round trained; `like` gives structure and devices."""
        ...

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Keep the model that a round trained."""
        ...


@dataclass(frozen=True)
class Nowhere:
    """Nothing is kept: a run that is killed starts from the beginning."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Nothing to check."""

    def has(self, number: int, asked: float) -> bool:
        """Never."""
        return False

    def load(self, number: int, like: Model) -> Model:
        """Nothing to load.

        Raises:
          FileNotFoundError: always.
        """
        raise FileNotFoundError("rounds were not kept; give keep=jsparse.prune.Folder('runs/a')")

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Nothing is written."""


@dataclass(frozen=True)
class Folder:
    """Rounds are kept in a folder: of each its density, its masks and its weights.

    A run with the same settings goes on with the first round that is not there. More rounds may be
    asked for than last time, or fewer. Results are the same as without a kill if `train` gives the
    same for the same model and round.

    Args:
      path: made where it does not exist.
      facts: what results depend on and the method cannot see, such as {"epochs": 20}; held to like
        the settings.

    Raises:
      ValueError: other settings, or a damaged file; when the method starts or reads a round.

    Example:
      >>> keep = Folder("runs/lottery", {"epochs": 20, "data": "MNIST"})
    """

    path: str | Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Write the settings down, or compare them with those that are there."""
        path = Path(self.path) / "settings.json"
        now = json.loads(json.dumps({**settings, "facts": described(self.facts)}))
        if not path.exists():
            left = sorted(file.name for file in path.parent.glob("round_*"))
            if left:
                raise ValueError(
                    f"{path.parent} holds {left[0]} but no settings.json, so it is not known what "
                    "run it belongs to; choose another folder or delete this one"
                )
            write_whole(path, json.dumps(now, indent=1).encode())
            return
        there = _json(path, f"choose another folder or delete {path.parent}")
        for name in sorted(now.keys() | there.keys()):
            old, new = there.get(name, "absent"), now.get(name, "absent")
            if old != new:
                raise ValueError(
                    f"{path.parent} holds rounds with other settings: {name} is {old!r} there and "
                    f"{new!r} now; choose another folder or delete this one"
                )

    def has(self, number: int, asked: float) -> bool:
        """Whether the round is there, whole, and follows the one before it.

        Raises:
          ValueError: it is damaged, or has another density.
        """
        if not self._note(number).exists():
            return False
        note = self._read(number)
        if note["asked"] != asked:
            raise ValueError(
                f"{self._note(number)} is a round at density {note['asked']}, now it is {asked}; "
                "choose another folder or delete this one"
            )
        return note["after"] == self._before(number)

    def load(self, number: int, like: Model) -> Model:
        """The model that the round trained, a copy of `like` with its variables."""
        self._read(number)
        path, copy = self._note(number).with_suffix(".npz"), nnx.clone(like)
        advice = "train must return a model of the same structure"
        nnx.update(copy, tree_file.fill(nnx.state(copy), tree_file.read(path), path, advice))
        return copy

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Write the round; until its last file is in place there is no such round."""
        arrays = tree_file.content(nnx.state(model))
        digest = hashlib.sha256(arrays).hexdigest()
        note = {**facts, "after": self._before(number), "sha256": digest}
        path = self._note(number)
        path.unlink(missing_ok=True)
        write_whole(path.with_suffix(".npz"), arrays)
        write_whole(path, json.dumps(note, indent=1).encode())

    def _note(self, number: int) -> Path:
        return Path(self.path) / f"round_{number:03d}.json"

    def _before(self, number: int) -> str:
        return self._read(number - 1)["sha256"] if number else "start"

    def _read(self, number: int) -> dict[str, Any]:
        """What is noted of a round, its arrays checked."""
        path = self._note(number)
        advice = f"delete {path.stem}.*: this round and those after it are then run again"
        note = _json(path, advice)
        arrays = path.with_suffix(".npz")
        for name, kind in (("asked", Real), ("after", str), ("sha256", str)):
            if not isinstance(note.get(name), kind):
                raise ValueError(f"{path} is damaged: {name} is {note.get(name)!r}; {advice}")
        if not arrays.exists() or hashlib.sha256(arrays.read_bytes()).hexdigest() != note["sha256"]:
            raise ValueError(
                f"{arrays} is damaged: its check sum is not that of the json; {advice}"
            )
        return note


def _json(path: Path, advice: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from error
    return found
