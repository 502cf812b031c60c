"""Trains the net of tests/sharded.py in one of several processes, as on several machines.

    python -m tests.processes LAYOUT PORT COUNT INDEX

Each process has one CPU device and its share of the batch. All print the same line of JSON: the
losses, and the masks as lists of 0 and 1.
"""

import json
import sys

import jax


def main(layout: str, port: str, count: int, index: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", count, index)

    from tests.sharded import AXES, LAYOUTS, data, on_mesh, start, train

    mesh = jax.make_mesh((count, 1), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        net, _, _ = on_mesh(LAYOUTS[layout], mesh)
        batch = jax.NamedSharding(mesh, LAYOUTS[layout].batch)
        shares = (a.reshape(count, -1, *a.shape[1:])[index] for a in data())
        x, y = (jax.make_array_from_process_local_data(batch, share) for share in shares)
        losses, masks = train(start(net, x, y))
    print(json.dumps({"losses": losses, "masks": {k: m.tolist() for k, m in masks.items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
