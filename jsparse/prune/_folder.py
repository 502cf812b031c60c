"""Rounds on disk: whole or absent, even if the process is killed; nothing is pickled.

1. `round_003.npz` holds all variables of the model trained by round 3, masks and weights alike, and
   notes: its density, and the checksum of the round before.
2. A round counts if it follows from the round before that is there now.
3. `tried.jsonl` holds what a search evaluated, one JSON object per line, each written at once.

Numbers: no figure of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flax import nnx

from jsparse._storage.checked_json import check_fields, parse
from jsparse._storage.described import described
from jsparse._storage.files import CorruptCheckpoint, add_line, write_whole
from jsparse._storage.tree_file import Stored, fill, read, write
from jsparse._storage.writers import abandon_on_error, claim
from jsparse._surgery import Model
from jsparse._values import check_folder, check_mapping, shown

ANOTHER = "choose another folder or delete this one"
ROWS = "tried.jsonl"
FIELDS = {"asked": int | float, "after": str}  # in the notes of a round
COST, SCORE = {"cost": int | float}, {"times": int, "score": int | float}  # in a row


class RoundStore(Protocol):
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

    def rows(self) -> list[dict[str, Any]]:
        """The rows stored by a search."""
        ...

    def add(self, row: Mapping[str, Any]) -> None:
        """Store one more row."""
        ...


def check_keep(keep: RoundStore) -> None:
    """Refuse anything but a place for rounds."""
    if isinstance(keep, type) or not hasattr(keep, "open"):
        raise TypeError(
            f"keep must be jsparse.prune.Folder('runs/a') or Nowhere(); got {shown(keep)}"
        )


@dataclass(frozen=True)
class Nowhere:
    """Nothing is stored: a run that is killed starts again from the beginning."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Nothing to check."""

    def has(self, number: int, asked: float) -> bool:
        """Never."""
        return False

    def load(self, number: int, like: Model) -> Model:
        """Nothing can be loaded: a FileNotFoundError."""
        raise FileNotFoundError("rounds were not stored; pass keep=jsparse.prune.Folder('runs/a')")

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def rows(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def add(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""


NOWHERE = Nowhere()


@dataclass(frozen=True)
class Folder:
    """Stores the rounds in a folder: the density, masks and weights of each.

    Of a search it stores each score and cost.

    A run with the same settings resumes with the first round that is missing. It may ask for more
    or fewer rounds than before. A killed run gives the same results as one without interruption if
    `train` is deterministic for a given model and round.

    Args:
      path: the folder, created if it does not exist.
      facts: what the results depend on and the method cannot see, such as {"epochs": 20}; compared
        like the settings.

    Raises:
      BlockingIOError: another process stores rounds there; when the method starts.
      ValueError: other settings, or a damaged file; when the method starts or reads a round.

    Example:
      >>> keep = Folder("runs/lottery", {"epochs": 20, "data": "MNIST"})
    """

    path: str | Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_folder(path=self.path)
        check_mapping("what results depend on, by name", facts=self.facts)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, or compare them with the stored ones; refuse a second writer."""
        folder = Path(self.path)
        claim(folder, self)
        now = json.loads(json.dumps({**settings, "facts": described(self.facts)}))
        path = folder / "settings.json"
        if not path.exists():
            if left := sorted(file.name for file in folder.glob("round_*")):
                raise ValueError(f"{folder} holds {left[0]} but no settings.json; {ANOTHER}")
            with abandon_on_error(folder):
                write_whole(path, json.dumps(now, indent=1).encode())
            return
        try:
            there = parse(path.read_bytes(), f"{path} is damaged")
            check_fields(there, {}, f"{path} is damaged")
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
        if not self._path(number).exists():
            return False
        facts = self._read(number).facts
        if facts["asked"] != asked:
            raise ValueError(
                f"{self._path(number)} is a round at density {facts['asked']}, now it is {asked}; "
                f"{ANOTHER}"
            )
        return facts["after"] == self._before(number)

    def load(self, number: int, like: Model) -> Model:
        """The model that the round trained: a copy of `like` with the stored variables."""
        path = self._path(number)
        try:
            return with_stored(like, self._read(number), path, _again(path))
        except CorruptCheckpoint as error:
            raise ValueError(f"{error}; {_again(path)}") from error

    def save(self, number: int, model: nnx.Module, facts: Mapping[str, Any]) -> None:
        """Write the round, whole or not at all."""
        content = write(nnx.state(model), {**facts, "after": self._before(number)})
        write_whole(self._path(number), content)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of a search, as far as they are whole.

        Raises:
          ValueError: a row is damaged.
        """
        path = Path(self.path) / ROWS
        content = path.read_bytes() if path.exists() else b""
        *lines, torn = content.split(b"\n")
        if torn:  # the search was killed in the middle of it
            write_whole(path, content[: len(content) - len(torn)])
        found = []
        for n, line in enumerate(lines, 1):
            where = f"{path} is damaged: line {n}"
            try:
                found.append(parse(line, where))
                check_fields(found[-1], {"kept": list[int]}, where)
                check_fields(found[-1], COST if "cost" in found[-1] else SCORE, where)
            except CorruptCheckpoint as error:
                raise ValueError(f"{error}; delete this line, and it is evaluated again") from error
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is there even if the process is killed."""
        add_line(Path(self.path) / ROWS, json.dumps(dict(row)).encode() + b"\n")

    def _path(self, number: int) -> Path:
        return Path(self.path) / f"round_{number:03d}.npz"

    def _before(self, number: int) -> str:
        return self._read(number - 1).sha256 if number else "start"

    def _read(self, number: int) -> Stored:
        path = self._path(number)
        try:
            stored = read(path)
            check_fields(stored.facts, FIELDS, f"{path} is damaged: facts")
        except CorruptCheckpoint as error:
            raise ValueError(f"{error}; {_again(path)}") from error
        return stored


def _again(path: Path) -> str:
    return f"delete {path.name}, and this round and the later ones will run again"


def with_stored(like: Model, stored: Stored, where: Path | str, advice: str) -> Model:
    """A copy of a model with stored variables; arguments as for `tree_file.fill`."""
    copy = nnx.clone(like)
    nnx.update(copy, fill(nnx.state(copy), stored, where, advice))
    return copy
