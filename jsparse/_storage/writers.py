"""One writer per folder, by a lock that ends with its process, however that ends.

The lock is a file named `lock` that the system locks (`flock`, which NFS also supports) and that
says who holds it. It belongs to the process: all its writers to the folder share the lock, so a run
can be resumed in the same process; a process forked from it does not hold the lock. On systems
without such locks (Windows, some network file systems) no writer is refused.
"""

import contextlib
import dataclasses
import os
import socket
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from jsparse._storage.files import explain_full_disk, make_folders, missing, remove_empty

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"


@dataclasses.dataclass
class _Held:
    """The open file of a lock, the folders made for it, and who shares it, by identity."""

    file: int
    made: list[Path]
    owners: set[int]


_held: dict[str, _Held] = {}
_mutex = threading.RLock()  # a finalizer may run while this thread holds it


def claim(folder: Path, owner: object) -> None:
    """Make this process the writer of a folder, made where needed, for as long as `owner` lives.

    Claiming twice does no harm.

    Raises:
      BlockingIOError: another process writes to the folder; it says which.
    """
    if fcntl is None:
        return
    path = os.path.realpath(folder)
    with _mutex:
        held = _held.get(path)
        if held is None or not _is_there(held.file, path):
            owners = held.owners if held else set()
            if held:
                os.close(held.file)  # the folder was deleted and recreated
                del _held[path]
            made = missing(Path(path))
            held = _held[path] = _Held(_locked(Path(path)), made, owners)
        if id(owner) not in held.owners:
            held.owners.add(id(owner))
            weakref.finalize(owner, _release, path, id(owner))


@contextlib.contextmanager
def abandon_on_error(folder: Path) -> Iterator[None]:
    """After an OSError in the block, give up a claimed folder in which nothing was written."""
    try:
        yield
    except OSError:
        abandon(folder)
        raise


def abandon(folder: Path) -> None:
    """Remove the lock of a claimed folder and the folders made for it, if it holds nothing else."""
    path = os.path.realpath(folder)
    with _mutex:
        held = _held.get(path)
        if held is None or not _is_there(held.file, path) or os.listdir(path) != [LOCK]:
            return
        os.unlink(os.path.join(path, LOCK))
        remove_empty(held.made)
        os.close(held.file)
        del _held[path]


def _is_there(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(os.path.join(path, LOCK)))
    except OSError:
        return False


def _locked(folder: Path) -> int:
    """The open file of a lock that this process now has."""
    assert fcntl is not None
    with make_folders(folder), explain_full_disk(folder / LOCK, 0):
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise BlockingIOError(
            f"{folder} is being written by {who}; wait until it ends or end it, or choose another "
            "folder"
        ) from None
    except OSError:  # this file system has no locks
        return file
    if os.fstat(file).st_nlink == 0 and not _is_there(file, str(folder)):  # just abandoned
        os.close(file)
        return _locked(folder)
    with contextlib.suppress(OSError):  # a full disk: the file cannot say who holds the lock
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return file


def _release(path: str, owner: int) -> None:
    with _mutex:
        held = _held.get(path)
        if held is None:
            return
        held.owners.discard(owner)
        if not held.owners:
            os.close(held.file)
            del _held[path]


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread is in this block with the same folder.

    It leaves no file. Where a folder cannot be locked, it does not wait.
    """
    file = -1
    if fcntl is not None:
        with contextlib.suppress(OSError):
            file = os.open(folder, os.O_RDONLY)
            fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if file >= 0 and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # a fork may have the file open, too
            os.close(file)


def _forget() -> None:
    """In a forked process: the locks stay with the parent."""
    global _mutex
    _mutex = threading.RLock()
    for held in _held.values():
        os.close(held.file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
