"""Rounds on disk: whole or absent, even if the process is killed; nothing is pickled.

1. `round_003.npz` holds all variables of the model trained by round 3, masks and weights alike.
2. `round_003.json` is written after it: density, check sums of the arrays and of the round before.
3. A round counts if both files exist and it follows from the current previous round.

Numbers: no figure of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flax import nnx

from jsparse._storage import sealed_json
from jsparse._storage.files import CorruptCheckpoint, write_whole
from jsparse._storage.settings import described
from jsparse._storage.tree_file import Stored, fill, read, write

Model = TypeVar("Model", bound=nnx.Module)
SETTINGS = "settings.json"
ANOTHER = "choose another folder or delete this one"
FIELDS = {"asked": int | float, "after": str, "arrays": str}  # of a round's JSON


class Keep(Protocol):
    """Where rounds are stored: `Folder` or `Nowhere`."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Refuse rounds that were stored under other settings."""
        ...

    def has(self, number: int, asked: float) -> bool:
        """Whether a round is stored."""
        ...

    def load(self, number: int, like: Model) -> Model:
        """The model that a round trained; `like` gives its structure and devices."""
        ...

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Store the model that a round trained."""
        ...


@dataclass(frozen=True)
class Nowhere:
    """Nothing is stored: a run that is killed starts again from the beginning."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Nothing to check."""

    def has(self, number: int, asked: float) -> bool:
        """Never."""
        return False

    def load(self, number: int, like: Model) -> Model:
        """Nothing can be loaded.

        Raises:
          FileNotFoundError: always.
        """
        raise FileNotFoundError("rounds were not stored; pass keep=jsparse.prune.Folder('runs/a')")

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Nothing is written."""


@dataclass(frozen=True)
class Folder:
    """Stores the rounds in a folder: the density, masks and weights of each.

    A run with the same settings resumes with the first round that is missing. It may ask for more
    or fewer rounds than before. A killed run gives the same results as one without interruption if
    `train` is deterministic for a given model and round.

    Args:
      path: the folder, created if it does not exist.
      facts: what the results depend on and the method cannot see, such as {"epochs": 20}; compared
        like the settings.

    Raises:
      ValueError: other settings, or a damaged file; when the method starts or reads a round.

    Example:
      >>> keep = Folder("runs/lottery", {"epochs": 20, "data": "MNIST"})
    """

    path: str | Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, or compare them with the stored ones."""
        folder = Path(self.path)
        now = json.loads(json.dumps({**settings, "facts": described(self.facts)}))
        if not (folder / SETTINGS).exists():
            left = sorted(file.name for file in folder.glob("round_*"))
            if left:
                raise ValueError(
                    f"{folder} holds {left[0]} but no {SETTINGS}, so its run is unknown; {ANOTHER}"
                )
            write_whole(folder / SETTINGS, json.dumps(now, indent=1).encode())
            return
        try:
            there = sealed_json.read_object(folder, SETTINGS)
        except CorruptCheckpoint as error:
            raise ValueError(f"{error}; {ANOTHER}") from error
        for name in sorted(now.keys() | there.keys()):
            old, new = there.get(name, "absent"), now.get(name, "absent")
            if old != new:
                raise ValueError(
                    f"{folder} holds rounds with other settings: {name} is {old!r} there and "
                    f"{new!r} now; {ANOTHER}"
                )

    def has(self, number: int, asked: float) -> bool:
        """Whether the round is stored and follows from the one before it.

        Raises:
          ValueError: it is damaged, or has another density.
        """
        if not self._note(number).exists():
            return False
        note = self._read(number)
        if note["asked"] != asked:
            raise ValueError(
                f"{self._note(number)} is a round at density {note['asked']}, now it is {asked}; "
                f"{ANOTHER}"
            )
        return note["after"] == self._before(number)

    def load(self, number: int, like: Model) -> Model:
        """The model that the round trained: a copy of `like` with the stored variables."""
        self._read(number)
        path = self._note(number).with_suffix(".npz")
        try:
            return with_stored(like, read(path), path, _again(path))
        except CorruptCheckpoint as error:
            raise ValueError(f"{error}; {_again(path)}") from error

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Write the round; it does not count until its last file is in place."""
        content, note = write(nnx.state(model)), self._note(number)
        sums = {"after": self._before(number), "arrays": hashlib.sha256(content).hexdigest()}
        note.unlink(missing_ok=True)
        write_whole(note.with_suffix(".npz"), content)
        sealed_json.write(note, {**facts, **sums})

    def _note(self, number: int) -> Path:
        return Path(self.path) / f"round_{number:03d}.json"

    def _before(self, number: int) -> str:
        return self._read(number - 1)["arrays"] if number else "start"

    def _read(self, number: int) -> dict[str, Any]:
        """The JSON of a round, after comparing the check sum of its arrays."""
        path = self._note(number)
        arrays = path.with_suffix(".npz")
        try:
            note = sealed_json.read(path.parent, path.name, FIELDS)
            if not arrays.exists():
                raise CorruptCheckpoint(f"{path.parent} is damaged: {arrays.name} is missing")
            if hashlib.sha256(arrays.read_bytes()).hexdigest() != note["arrays"]:
                raise CorruptCheckpoint(
                    f"{path.parent} is damaged: {arrays.name}: its check sum is wrong"
                )
        except CorruptCheckpoint as error:
            raise ValueError(f"{error}; {_again(path)}") from error
        return note


def _again(path: Path) -> str:
    return f"delete {path.stem}.*, and this round and the later ones will run again"


def with_stored(like: Model, stored: Stored, where: Path | str, advice: str) -> Model:
    """A copy of a model with stored variables; arguments as for `tree_file.fill`."""
    copy = nnx.clone(like)
    nnx.update(copy, fill(nnx.state(copy), stored, where, advice))
    return copy
