"""Several processes, as on several machines; as a script, one that trains the net of tests/sharded.

    python -m tests.support.processes LAYOUT PORT COUNT INDEX

Each process has one CPU device and its share of the batch. All print the same line of JSON: the
losses, and the masks as lists of 0 and 1.
"""

import json
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax

ROOT = Path(__file__).parents[2]

# Processes are forked from one that has imported JAX and Flax, which takes two seconds of
# processor time, and has started no backend.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["jsparse", "orbax.checkpoint"])


def _become(
    module: str, arguments: tuple[str, ...], flags: str, config: dict, out: Connection, errors: str
) -> None:
    os.dup2(out.fileno(), sys.stdout.fileno())
    os.dup2(os.open(errors, os.O_WRONLY), sys.stderr.fileno())
    os.environ["XLA_FLAGS"] = flags
    for name, value in config.items():
        jax.config.update(name, value)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


class Started(NamedTuple):
    """A process, what it prints, and the file of its errors."""

    process: BaseProcess
    out: TextIO
    errors: Path


@contextmanager
def started(module: str, *arguments: str, flags: str, **config: Any) -> Iterator[Started]:
    """`python -m MODULE ARGUMENTS` under XLA's flags and JAX's settings; killed at the end."""
    with tempfile.NamedTemporaryFile() as errors:
        reads, writes = _FORKS.Pipe(duplex=False)
        given = (module, arguments, flags, config, writes, errors.name)
        process = _FORKS.Process(target=_become, args=given)
        process.start()
        writes.close()
        with reads, open(reads.fileno(), encoding="utf-8", closefd=False) as out:
            try:
                yield Started(process, out, Path(errors.name))
            finally:
                process.kill()
                process.join()


def quick_flags() -> str:
    """XLA's flags as the tests have them, without their eight devices."""
    flags = os.environ["XLA_FLAGS"].split()
    return " ".join(flag for flag in flags if "device_count" not in flag)


def run(module: str, *arguments: str, count: int) -> list[dict]:
    """What each process of a module printed; it is given a port, the count and its index, too."""
    common = (module, *arguments, str(free_port()), str(count))
    found = []
    with ThreadPoolExecutor(count) as readers, ExitStack() as stack:
        many = [
            stack.enter_context(started(*common, str(n), flags=quick_flags())) for n in range(count)
        ]
        texts = [readers.submit(one.out.read) for one in many]
        for one, text in zip(many, texts, strict=True):
            lines = text.result(timeout=600).splitlines()
            one.process.join(timeout=600)
            assert one.process.exitcode == 0, one.errors.read_text()[-3000:]
            found.append(json.loads(lines[-1]))
    return found


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
