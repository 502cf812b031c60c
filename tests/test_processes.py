"""Several processes, as on several machines, train as one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.sharded import LAYOUTS, Net, data, start, train

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def run(layout: str, count: int) -> list[dict]:
    """What each of the processes printed."""
    port = str(free_port())
    own = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", "tests.processes", layout, port, str(count)]
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


@pytest.mark.parametrize(
    ("layout", "count"),
    [
        ("data parallel", 2),
        pytest.param("data parallel", 4, marks=pytest.mark.slow),
        pytest.param("split weights", 4, marks=pytest.mark.slow),
    ],
)
def test_processes_train_as_one(layout: str, count: int) -> None:
    net = Net(LAYOUTS[layout], nnx.Rngs(0))
    losses, masks = train(start(net, *map(jnp.asarray, data())))
    found = run(layout, count)
    assert all(each == found[0] for each in found)
    np.testing.assert_allclose(found[0]["losses"], losses, rtol=2e-6)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[0]["masks"][name], mask, err_msg=name)
