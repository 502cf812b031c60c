"""Several processes, as on several machines; as a script, one that trains the net of tests/sharded.

    python -m tests.support.processes LAYOUT PORT COUNT INDEX

Each process has one CPU device and its share of the batch. All print the same line of JSON: the
losses, and the masks as lists of 0 and 1.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str, count: int) -> list[dict]:
    """What each process of a module printed; it is given a port, the count and its index, too."""
    own = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", module, *arguments, str(free_port()), str(count)]
    started = [
        subprocess.Popen(
            [*command, str(index)],
            cwd=ROOT,
            env=own | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        printed = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in printed]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def join(port: str, count: int, index: int) -> None:
    """Become one of several processes, with one CPU device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", count, index)


def main(layout: str, port: str, count: int, index: int) -> None:
    join(port, count, index)

    from tests.support.sharded import AXES, LAYOUTS, data, on_mesh, start, train

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
