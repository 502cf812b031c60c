"""Arrays by path, written and read by Orbax, which is imported on first use."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsparse._storage.files import FULL, CorruptCheckpoint, full_disk_error
from jsparse._storage.leaves import plain

OS_ERROR = re.compile(r"os_error_code='(\d+)'")
"""How TensorStore reports the system's error number."""


def _unnamed(paths: Iterable[str]) -> str:
    """The names of arrays with an empty path, which Orbax up to 0.11.36 refuses: the longest.

    Example:
      >>> _unnamed([""]), _unnamed(["", "array"])
      ('array', 'array_')
    """
    return "array".ljust(1 + max(map(len, paths), default=0), "_")


def check_kinds(arrays: Mapping[str, Any]) -> None:
    """Refuse arrays of a type that Orbax files cannot store."""
    import tensorstore

    for path, array in arrays.items():
        try:
            tensorstore.dtype(array.dtype.name)
        except ValueError as error:
            raise TypeError(
                f"{path} is {array.dtype}, which Orbax cannot write; store it as another type, "
                "such as uint8, or leave it out of the tree"
            ) from error


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by path; each process writes its own shards.

    Raises:
      OSError: the disk is full or not writable.
    """
    from orbax import checkpoint as orbax

    unnamed = _unnamed(arrays)  # Orbax refuses empty names, and empty arrays
    filled = {name or unnamed: one for name, one in arrays.items() if one.size}
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as writer:
        log = logging.getLogger("absl")
        log.addFilter(_says_more)
        try:
            writer.save(path, args=orbax.args.PyTreeSave(filled))
        except Exception as error:  # how TensorStore reports a full disk depends on its version
            number = _system_error(error)
            if not number:
                raise
            size = sum(one.nbytes for one in filled.values())
            if number in FULL:
                raise full_disk_error(path, size, number) from None
            raise OSError(number, os.strerror(number), str(path)) from error
        finally:
            log.removeFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    """Whether a log line says more than our error will: Orbax's threads log theirs at length."""
    return OS_ERROR.search(record.getMessage()) is None


def _system_error(error: BaseException) -> int:
    """The number of the system's error in one of Orbax; 0 if there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


def read(path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by path: on the devices of their leaves if there are several, else in numpy.

    Raises:
      CorruptCheckpoint: Orbax cannot find or decode an array.
    """
    from orbax import checkpoint as orbax

    if not (path / "_METADATA").is_file():  # without it Orbax's threads fail one after another
        raise CorruptCheckpoint(f"{path} is damaged: Orbax cannot read it: no _METADATA")
    plans, empty, unnamed = {}, {}, _unnamed(leaves)
    for name, leaf in leaves.items():
        array = plain(name, leaf)
        if array.size == 0:
            empty[name] = np.asarray(array)
        elif isinstance(array, jax.Array) and len(array.sharding.device_set) > 1:
            plans[name or unnamed] = orbax.ArrayRestoreArgs(
                sharding=array.sharding, global_shape=array.shape, dtype=array.dtype
            )
        else:
            plans[name or unnamed] = orbax.RestoreArgs(restore_type=np.ndarray)
    item = dict.fromkeys(plans, 0)
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
        try:
            found = reader.restore(
                path, args=orbax.args.PyTreeRestore(item=item, restore_args=plans)
            )
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptCheckpoint(f"{path} is damaged: Orbax cannot read it: {error}") from error
    return {name: empty[name] if name in empty else found[name or unnamed] for name in leaves}
