"""What one of several processes does for all, and what they must agree on."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

FAILED = -2  # a result that no task has
SHOWN = 8  # leaves in one error


def by_first(task: Callable[[], int]) -> int:
    """What the first process returns from a task, while all others wait for it."""
    if jax.process_count() == 1:
        return task()
    errors: list[Exception] = []
    result = FAILED
    if jax.process_index() == 0:
        try:
            result = task()
        except Exception as error:  # told to the others, which would wait for ever
            errors.append(error)
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if errors:
        raise errors[0]
    if result == FAILED:
        raise RuntimeError("the first process could not go on; its error says why")
    return result


def check_seen(path: Path) -> None:
    """Refuse a path of the first process that another one does not see, on all of them.

    Raises:
      OSError: one does not.
    """
    if jax.process_count() == 1:
        return
    seen = np.asarray(multihost_utils.process_allgather(np.int32(path.exists()))).ravel()
    blind = [n for n, sees in enumerate(seen.tolist()) if not sees]
    if blind:
        raise OSError(
            f"{path} is there for process 0 and not for {blind}; give all processes one shared "
            "folder, by the same path"
        )


def shared(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays as Orbax takes them: those that each process has for itself by numpy.

    Raises:
      ValueError: one of those is not the same on all processes.
    """
    if jax.process_count() == 1:
        return dict(arrays)
    own: dict[str, np.ndarray] = {
        name: np.asarray(array)
        for name, array in arrays.items()
        if not isinstance(array, jax.Array) or array.is_fully_addressable
    }
    sums = np.array([zlib.crc32(array.tobytes()) for array in own.values()], np.uint32)
    everywhere = np.asarray(multihost_utils.process_allgather(sums))
    differ = [name for n, name in enumerate(own) if len(set(everywhere[:, n].tolist())) > 1]
    if differ:
        raise ValueError(
            f"each process has its own {', '.join(differ[:SHOWN])}, and they differ; make it one "
            "array over the devices of all processes, or leave it out of the tree"
        )
    return {**arrays, **own}
