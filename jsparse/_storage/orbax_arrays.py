"""Arrays on disk, by Orbax, which is imported on first use."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jsparse._storage.leaves import plain


def _orbax() -> ModuleType:
    import orbax.checkpoint

    return orbax.checkpoint


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by path; every process gives its part.

    Raises:
      OSError: the disk is full, or cannot be written to.
    """
    orbax = _orbax()
    filled = {name: array for name, array in arrays.items() if array.size}  # Orbax refuses others
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as writer:
        try:
            writer.save(path, args=orbax.args.PyTreeSave(filled))
        except ValueError as error:  # so TensorStore tells of a full disk
            if "os_error_code" not in str(error):
                raise
            raise OSError(f"the arrays cannot be written to {path}: {error}") from error


def read(path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by path; those of several devices on the devices of their leaves, others by numpy."""
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
        found = reader.restore(path, args=orbax.args.PyTreeRestore(item=item, restore_args=plans))
    return {**found, **empty}
