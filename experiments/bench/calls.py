"""Ways to call the same network: what a call costs besides its products.

Claim: a compiled function that closes over the model is the fastest way to serve it, dense or
    packed, and `nnx.jit` the slowest, since it looks at each variable at each call.
Command: python -m experiments.bench.calls
Minutes: 2, on an otherwise idle machine.

Milliseconds of processor time per call on one core; medians of rounds, the ways in turns.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import common, networks
from experiments.bench import rounds, runtimes
from jsparse import _timing, export

DENSITIES = (1.0, 0.05)
"""Part of the weights that is kept; `export.pick` stores what is below 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    networks: tuple[runtimes.Name, ...] = ("mlp-1024", "transformer-512", "vgg-16", "lenet-5")
    """Networks to call."""
    rounds: int = 11
    """Samples of each way."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds got {self.rounds}; give 1 or more")


def ways(model: nnx.Module, x: jax.Array, folder: Path) -> dict[str, Callable[[], Any]]:
    """Calls of the model, by what one writes."""
    graphdef, state = nnx.split(model)
    arguments = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    constants = jax.jit(lambda x: model(x))
    method = nnx.jit(lambda model, x: model(x))
    bound = nnx.cached_partial(method, model)
    export.save(folder, model, x, overwrite=True)
    loaded = export.load(folder)
    again = jax.jit(lambda x: loaded(x))
    return {
        "nnx.jit": lambda: method(model, x),
        "nnx.cached_partial": lambda: bound(x),
        "jax.jit, the state an argument": lambda: arguments(state, x),
        "jax.jit, closing over the model": lambda: constants(x),
        "export.load": lambda: loaded(x),
        "jax.jit, closing over export.load": lambda: again(x),
    }


def stored(name: runtimes.Name, x: jax.Array, density: float) -> nnx.Module:
    """The network as a user has it: of stock operations, packed where it is not dense."""
    model = runtimes.kept(name, density)
    if density < 1:
        return runtimes.picked(model, x)
    return runtimes.convolved(model, jax.lax.conv_general_dilated)


def clock(call: Callable[[], Any]) -> _timing.Clock:
    """Processor seconds of a number of calls."""

    def seconds(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            jax.block_until_ready(call())
        return time.process_time() - start

    return seconds


def main(settings: Settings) -> None:
    """Measure network by network; one table."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    print(rounds.made_with())
    load, rows, names = rounds.Load(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.networks:
            x = jnp.asarray(runtimes.inputs(name, batch=1))
            for density in DENSITIES:
                with networks.stock_operations():
                    calls = ways(stored(name, x, density), x, Path(folder) / "model")
                    clocks = {way: clock(call) for way, call in calls.items()}
                    times = _timing.in_turns(clocks, settings.rounds, sample=rounds.SAMPLE)
                names = list(times)
                taken = [f"{1e3 * np.median(each):.3g}" for each in times.values()]
                rows.append([name, "1", f"{density:.0%}", *taken])
    print(common.table(["network", "batch", "kept", *names], rows))
    print(f"milliseconds of processor time of a call on one core; {load}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
