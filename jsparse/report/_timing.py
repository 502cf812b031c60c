"""How long a model takes: several beside each other, in turn."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

ROUNDS, SECONDS = 30, 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds that a call takes.

    Attributes:
      median: over the rounds.
      low: lower quartile.
      high: upper quartile.
      rounds: number of calls that were timed.
    """

    median: float
    low: float
    high: float
    rounds: int


def latencies(models: Mapping[str, nnx.Module], *inputs: Any, **options: Any) -> dict[str, Latency]:
    """Time calls in eval mode, compiled, the models in turn so that all meet the same load.

    Args:
      models: by name; not changed.
      *inputs: of a call `model(*inputs)`.
      **options: further arguments of the call.

    Returns:
      A Latency by name: of 30 rounds, or as many as fit into 3 seconds, at least 3.
    """
    calls = {name: _compiled(model, options) for name, model in models.items()}
    for call in calls.values():
        jax.block_until_ready(call(*inputs))  # compiles
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for done in range(ROUNDS):
        if done >= 3 and time.perf_counter() - start > SECONDS:
            break
        for name, call in calls.items():
            before = time.perf_counter()
            jax.block_until_ready(call(*inputs))
            taken[name].append(time.perf_counter() - before)
    quartiles = {name: np.quantile(times, (0.25, 0.5, 0.75)) for name, times in taken.items()}
    return {
        name: Latency(
            median=float(middle), low=float(low), high=float(high), rounds=len(taken[name])
        )
        for name, (low, middle, high) in quartiles.items()
    }


def _compiled(model: nnx.Module, options: Mapping[str, Any]) -> Any:
    copy = nnx.clone(model)
    copy.eval()
    graphdef, state = nnx.split(copy)

    @jax.jit
    def call(state: Any, *inputs: Any) -> Any:
        return nnx.merge(graphdef, state)(*inputs, **options)  # type: ignore[operator]

    return lambda *inputs: call(state, *inputs)
