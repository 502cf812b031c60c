"""One of several processes that save into one folder and go on from it.

    python -m tests.support.shared_folder FOLDER POSITIONS STEPS PORT COUNT INDEX

Trains the net of sharded.py, its weights split, until STEPS steps are done. POSITIONS is
`own` for a data position of each process, `common` for one that all have. Prints a line of JSON:
the step and position it began with, the checksum of each array at the end, and what was refused.
"""

import hashlib
import json
import sys

import jax
import numpy as np
from flax import nnx

from jsparse._paths import named
from jsparse._storage.leaves import is_key
from tests.support.processes import join

LAYOUT = "split weights"


def sums(run: dict) -> dict[str, str]:
    """Check sum of each array of a run, by path."""
    from tests.support.sharded import whole

    found = {}
    for name, leaf in named({n: nnx.state(module) for n, module in run.items()}).items():
        array = whole(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        found[name] = hashlib.sha256(np.asarray(array).tobytes()).hexdigest()
    return found


def main(folder: str, positions: str, last: int, port: str, count: int, index: int) -> None:
    join(port, count, index)

    import jsparse as js
    from tests.support.sharded import AXES, LAYOUTS, data, on_mesh, start, step

    mesh = jax.make_mesh((count, 1), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    checkpoints = js.Checkpoints(folder)
    with jax.set_mesh(mesh):
        net, _, _ = on_mesh(LAYOUTS[LAYOUT], mesh)
        batch = jax.NamedSharding(mesh, LAYOUTS[LAYOUT].batch)
        shares = (a.reshape(count, -1, *a.shape[1:])[index] for a in data())
        begun = start(net, *(jax.make_array_from_process_local_data(batch, s) for s in shares))
        run = {"model": begun.net, "optimizer": begun.optimizer}
        refused = []
        for into, tree in (folder, {**run, "mine": np.int32(index)}), (f"{folder}{index}", run):
            try:
                js.Checkpoints(into).save(1, tree)
            except (ValueError, OSError) as error:
                refused.append(str(error))
        first, run, position = checkpoints.restore(run, data="at the start")
        for _ in range(first, last):
            step(*begun)
        here = {"read": 8 * last, **({"process": index} if positions == "own" else {})}
        checkpoints.save(last, run, data=here)
        found = {"first": first, "position": position, "refused": refused, "sums": sums(run)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), sys.argv[4], *map(int, sys.argv[5:]))
