"""Killed runs resume as if nothing had happened, with one process or several."""

import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from tests.support.processes import run, started
from tests.support.sharded import LAYOUTS, Net, data, start
from tests.support.shared_folder import sums

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.slow
KILLS, STEPS = 20, 24


def run_until(folder: Path, cache: Path, stop: str, times: int, wait: float) -> list[str]:
    """The lines printed by a run that is killed `wait` seconds after `times` lines of `stop`."""
    settings = {
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    arguments = ("tests.support.resumable", str(folder), str(STEPS))
    with started(*arguments, flags=os.environ["XLA_FLAGS"], **settings) as run:
        lines = []
        for line in run.out:
            lines.append(line.strip())
            times -= line.startswith(stop)
            if times == 0:
                time.sleep(wait)
                run.process.kill()
                break
        lines += run.out.read().split("\n")[:-1]
        run.process.join()
        assert run.process.exitcode in (0, -9), run.errors.read_text()[-3000:]
    return lines


def test_killed_at_random_moments(tmp_path) -> None:
    cache = tmp_path / "cache"
    expected = run_until(tmp_path / "whole", cache, "never", 1, 0.0)[-1]
    assert len(expected) == 64
    random = np.random.default_rng()  # the moments differ each time in any case
    ends, finals, folder = [], [], tmp_path / "0"
    while len(ends) < KILLS or not finals:
        stop = random.choice(["ready", "saving", "saving", "saved"])
        times = 1 if stop == "ready" else random.integers(1, 4)
        lines = run_until(folder, cache, stop, times, random.uniform(0, 0.3))
        if len(lines[-1]) == 64:
            finals.append(lines[-1])
            folder = tmp_path / str(len(finals))
        else:
            ends.append(lines[-1])
    finals.append(run_until(folder, cache, "never", 1, 0.0)[-1])
    print(f"killed after: {', '.join(ends)}; {len(finals)} runs")
    assert set(finals) == {expected}
    assert sum(end.startswith("saving") for end in ends) >= 2  # half written checkpoints, too


def test_processes_share_a_folder(tmp_path) -> None:
    def train(folder: str, positions: str, steps: int) -> list[dict]:
        return run(
            "tests.support.shared_folder", str(tmp_path / folder), positions, str(steps), count=2
        )

    first, then, straight = train("a", "own", 4), train("a", "own", 8), train("b", "common", 8)
    assert [each["position"] for each in first] == ["at the start"] * 2
    assert [each["first"] for each in then] == [4, 4]
    assert [each["position"] for each in then] == [{"read": 32, "process": n} for n in (0, 1)]
    for each in (*first, *then, *straight):
        differ, apart = each["refused"]
        assert differ.startswith("each process has its own mine, and they differ")
        assert "and [1] do not; give all processes one shared" in apart
    for each in (*then, *straight):
        assert each["sums"] == straight[0]["sums"]
    assert first[0]["sums"] != then[0]["sums"]

    # one process reads what two have written, and the other way round
    begun = start(Net(LAYOUTS["data parallel"], nnx.Rngs(1)), *map(jnp.asarray, data()))
    one = {"model": begun.net, "optimizer": begun.optimizer}
    with pytest.raises(ValueError, match="position for each of 2 processes and now there are 1"):
        js.Checkpoints(tmp_path / "a").restore(one)
    step, one, position = js.Checkpoints(tmp_path / "b").restore(one)
    assert (step, position) == (8, {"read": 64}) and sums(one) == straight[0]["sums"]
    assert len(jax.tree.leaves(nnx.state(begun.net))[0].sharding.device_set) == 1
    js.Checkpoints(tmp_path / "c").save(8, one, data=position)
    for each in train("c", "common", 8):
        assert each["first"] == 8 and each["position"] == {"read": 64}
        assert each["sums"] == straight[0]["sums"]
