"""Files that are whole or absent, whatever kills the process."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")


class CorruptCheckpoint(RuntimeError):
    """A checkpoint cannot be read back whole."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to disk, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Force a file, or the list of files of a folder, to disk."""
    with contextlib.suppress(OSError):  # some systems cannot open a folder
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def newest_whole(
    paths: Sequence[Path],
    read: Callable[[Path], Content],
    tell: Callable[[str], None],
    advice: str,
) -> tuple[Path, Content] | None:
    """The last of some checkpoints that can be read, and what it holds.

    Args:
      paths: oldest first.
      read: raises `CorruptCheckpoint` for a damaged one.
      tell: what to do with a line about each that is refused.
      advice: for the user, if none is left.

    Returns:
      Path and content; None where there are no checkpoints.

    Raises:
      CorruptCheckpoint: there are some and all are damaged.
    """
    faults = []
    for path in reversed(paths):
        try:
            return path, read(path)
        except CorruptCheckpoint as error:
            faults.append(str(error))
            tell(f"refused: {error}; trying the one before")
    if faults:
        raise CorruptCheckpoint(f"no checkpoint is left: {'; '.join(faults)}; {advice}")
    return None
