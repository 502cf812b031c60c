"""Work that the first of several processes does for all, and checks that they agree."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jsparse._paths import listed

FAILED = -2  # not the result of any task


def by_first(task: Callable[[], int | None]) -> int:
    """Run a task in the first process while the others wait; return its result, 0 for None."""
    if jax.process_count() == 1:
        return task() or 0
    errors: list[Exception] = []
    result = FAILED
    if jax.process_index() == 0:
        try:
            result = task() or 0
        except Exception as error:  # the others must be told, or they would wait forever
            errors.append(error)
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if errors:
        raise errors[0]
    if result == FAILED:
        raise RuntimeError("the first process failed; see its error")
    return result


def check_seen(path: Path) -> None:
    """Check on every process that all of them see a path of the first one.

    Raises:
      OSError: one does not see it.
    """
    if jax.process_count() == 1:
        return
    seen = np.asarray(multihost_utils.process_allgather(np.int32(path.exists()))).ravel()
    blind = [n for n, sees in enumerate(seen.tolist()) if not sees]
    if blind:
        raise OSError(
            f"process 0 sees {path} and {blind} do not; give all processes one shared folder, "
            "by the same path"
        )


def shared(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays in the form that Orbax takes: numpy for arrays that each process has whole.

    Raises:
      ValueError: such an array differs between processes.
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
            f"each process has its own {listed(differ)}, and they differ; make it one "
            "array over the devices of all processes, or leave it out of the tree"
        )
    return {**arrays, **own}
