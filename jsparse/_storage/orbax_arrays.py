"""Arrays by path, written and read by Orbax, which is imported on first use."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.leaves import plain


def _orbax() -> ModuleType:
    import orbax.checkpoint

    return orbax.checkpoint


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by path; each process writes its own shards.

    Raises:
      OSError: the disk is full or not writable.
    """
    orbax = _orbax()
    filled = {name: one for name, one in arrays.items() if one.size}  # Orbax refuses empty ones
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as writer:
        try:
            writer.save(path, args=orbax.args.PyTreeSave(filled))
        except ValueError as error:  # how TensorStore reports a full disk
            if "os_error_code" not in str(error):
                raise
            raise OSError(f"the arrays cannot be written to {path}: {error}") from error


def read(path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by path: on the devices of their leaves if these are several, else in numpy.

    Raises:
      CorruptCheckpoint: Orbax cannot find or decode an array.
    """
    if not (path / "_METADATA").is_file():  # without it Orbax's threads fail one after another
        raise CorruptCheckpoint(f"{path} is damaged: Orbax cannot read it: no _METADATA")
    orbax = _orbax()
    plans, empty = {}, {}
    for name, leaf in leaves.items():
        array = plain(name, leaf)
        if array.size == 0:
            empty[name] = np.asarray(array)
        elif isinstance(array, jax.Array) and len(array.sharding.device_set) > 1:
            plans[name] = orbax.ArrayRestoreArgs(
                sharding=array.sharding, global_shape=array.shape, dtype=array.dtype
            )
        else:
            plans[name] = orbax.RestoreArgs(restore_type=np.ndarray)
    item = dict.fromkeys(plans, 0)
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
        try:
            found = reader.restore(
                path, args=orbax.args.PyTreeRestore(item=item, restore_args=plans)
            )
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptCheckpoint(f"{path} is damaged: Orbax cannot read it: {error}") from error
    return {**found, **empty}
