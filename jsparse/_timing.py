"""How long calls take: several candidates in turns, so that all run under the same load."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse._pure import by_position, evaluated, examples, pure

ROUNDS, SECONDS = 30, 3.0
CONSTANT = 512 << 20
"""Bytes of variables up to which they are constants of the compiled call, as when it is served."""
Clock = Callable[[int], float]
"""How many seconds a number of calls takes."""


def latencies(
    models: Mapping[str, nnx.Module], *inputs: Any, **options: Any
) -> dict[str, dict[str, float]]:
    """Time calls `model(*inputs, **options)` in eval mode, compiled, the models in turns.

    By name, in seconds per call: the median, the lower and upper quartile (low, high), and the
    number of rounds, which is 30, or as many as fit into 3 seconds, at least 3.
    """
    clocks = {name: clock(model, *inputs, **options) for name, model in models.items()}
    found = {}
    for name, times in in_turns(clocks, ROUNDS, limit=SECONDS).items():
        low, middle, high = map(float, np.quantile(times, (0.25, 0.5, 0.75)))
        found[name] = {"median": middle, "low": low, "high": high, "rounds": len(times)}
    return found


def clock(model: nnx.Module, *inputs: Any, **options: Any) -> Clock:
    """Times calls of a model in eval mode, on arrays or their shapes; the first one compiles.

    The compiler sees the variables as constants, unless they are larger than `CONSTANT`.
    """
    model, inputs = by_position(model, inputs, options)
    run, variables, _ = pure(evaluated(model))
    inputs = examples(inputs)
    output = lambda *arguments: run(*arguments)[0]
    size = sum(getattr(variable, "nbytes", 0) for variable in variables.values())  # 0: a number
    constant = size <= CONSTANT
    call = jax.jit(partial(output, variables)) if constant else partial(jax.jit(output), variables)

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(call(*inputs))
        return time.perf_counter() - start

    return seconds


def in_turns(
    clocks: Mapping[str, Clock],
    rounds: int,
    *,
    sample: float = 0.0,
    rest: float = 0.0,
    limit: float = math.inf,
) -> dict[str, np.ndarray]:
    """Seconds per call by name, [rounds]: all have their turn in each, starting with another one.

    Args:
      clocks: by name.
      rounds: number of them.
      sample: seconds that the calls of a turn should take; there is at least one call.
      rest: seconds to sleep before a turn, so that thread pools stop spinning; the first call
        afterwards is not counted.
      limit: seconds after which no further round begins, once there were 3.
    """
    calls = {}
    for name, seconds in clocks.items():
        seconds(1)  # compiles
        calls[name] = max(1, round(sample / seconds(1))) if sample else 1
    order = list(clocks)
    taken: dict[str, list[float]] = {name: [] for name in order}
    start = time.perf_counter()
    for n in range(rounds):
        if n >= 3 and time.perf_counter() - start > limit:
            break
        first = n % len(order)
        for name in order[first:] + order[:first]:
            if rest:
                time.sleep(rest)
                clocks[name](1)
            taken[name].append(clocks[name](calls[name]) / calls[name])
    return {name: np.array(times) for name, times in taken.items()}
