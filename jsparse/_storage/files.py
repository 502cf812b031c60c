"""Files that are whole or absent, even if the process is killed while writing."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a full disk, a full quota, and a file larger than allowed."""


class CorruptCheckpoint(RuntimeError):
    """A checkpoint cannot be read back whole."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to disk, then move it to `path` in one step.

    Raises:
      OSError: the disk is full, and nothing was written; or the folder cannot be written to.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write some files: all under temporary names first, so that a full disk changes none."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    folders = {path.parent for path in contents}
    with contextlib.ExitStack() as made:
        for folder in folders:
            made.enter_context(make_folders(folder))
        try:
            for path, part in parts.items():
                with explain_full_disk(path, len(contents[path])), part.open("wb") as file:
                    file.write(contents[path])
                    file.flush()
                    os.fsync(file.fileno())
            for path, part in parts.items():
                os.replace(part, path)
        finally:
            for part in parts.values():
                with contextlib.suppress(OSError):
                    part.unlink()
    for folder in folders:
        to_disk(folder)


def add_line(path: Path, line: bytes) -> None:
    """Append a line to a file and force it to disk, whole or not at all."""
    there = path.exists()
    before = path.stat().st_size if there else 0
    with explain_full_disk(path, len(line)):
        try:
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(path, before)  # no torn line
                if not there:
                    path.unlink()
            raise


@contextlib.contextmanager
def make_folders(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after an OSError in the block, remove those it made.

    Folders that hold something by then stay.
    """
    new = missing(folder)
    try:
        with explain_full_disk(folder, 0):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError:
        remove_empty(new)
        raise


def missing(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist, innermost first."""
    return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of the folders that hold nothing; innermost first."""
    for one in folders:
        with contextlib.suppress(OSError):
            one.rmdir()


@contextlib.contextmanager
def explain_full_disk(path: Path, size: int) -> Iterator[None]:
    """Turn the error of a full disk into one that says what did not fit; others pass unchanged.

    A size of 0 bytes is one that is not known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise full_disk_error(path, size, error.errno) from None


def full_disk_error(path: Path, size: int, number: int) -> OSError:
    """The error of a full disk; `number` is that of the system."""
    what = f"{size:,} bytes" if size else "it"
    why = f"{os.strerror(number)}: there is no room for {what}, and nothing was written; free some"
    return OSError(number, f"{why} and run again", str(path))


def to_disk(path: Path) -> None:
    """Force a file, or the list of files in a folder, to disk."""
    with contextlib.suppress(OSError):  # some systems cannot open a folder
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
