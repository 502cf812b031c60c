"""Files that are whole or absent, even if the process is killed while writing."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")


class CorruptCheckpoint(RuntimeError):
    """A checkpoint cannot be read back whole."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to disk, then move it to `path` in one step."""
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
    """Force a file, or the list of files in a folder, to disk."""
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
    """The newest checkpoint that can be read, and its content.

    Args:
      paths: checkpoints, oldest first.
      read: raises `CorruptCheckpoint` if a checkpoint is damaged.
      tell: receives one line for each checkpoint that is refused.
      advice: what the user can do if all are damaged.

    Returns:
      Path and content; None if there are no checkpoints.

    Raises:
      CorruptCheckpoint: there are checkpoints and all are damaged.
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
