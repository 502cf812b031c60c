"""What a search costs besides its scores: selection, projection and the agent, in processor time.

960 evaluations of `jsparse.prune.search` on LeNet-300-100, scored by the loss on 512 images,
against 960 calls of the compiled score of one masked model, in turns. A search compiles its two
programs each time, which counts unless JAX caches them (JAX_COMPILATION_CACHE_DIR). What is
compiled once in a process is left out: 6 processor seconds for the agent of `Lagrangian`.

Claim: the search adds about 20 % to its scores (goal: at most 30 %).
Command: python -m experiments.bench.search [--rounds 11]
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, networks
from experiments.bench import rounds
from jsparse import prune

IMAGES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """Ratios are taken within a round."""

    rounds: int = 11
    """Turns of each."""
    evaluations: int = 960
    """Of the score, in a turn."""
    budget: float = 0.1
    """Fraction of the weights."""


def main(settings: Settings) -> None:
    """Time the turns and print the ratios."""
    settings.check_positive("rounds", "evaluations")
    x = jax.random.uniform(jax.random.key(0), (IMAGES, 28, 28))
    y = jnp.arange(IMAGES) % 10
    model = jsparse.sparsify(networks.LeNet300(nnx.Rngs(0)), (".*/kernel", jsparse.Held()))

    def score(model: nnx.Module) -> Array:
        return -optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    graph, state = nnx.split(model)
    one = jax.jit(lambda state: score(nnx.merge(graph, state)))
    budget = settings.budget * float(prune.costs.parameters(model))

    def scored() -> None:
        for _ in range(settings.evaluations):
            float(one(state))

    def searched(method: Any) -> None:
        options = {"method": method, "evaluations": settings.evaluations, "key": jax.random.key(0)}
        prune.search(model, score, prune.costs.parameters, budget, **options)

    calls: dict[str, Callable[[], Any]] = {"the score alone": scored}
    for method in (prune.Random(), prune.CrossEntropy(), prune.Lagrangian()):
        calls[type(method).__name__] = lambda method=method: searched(method)
    load = rounds.Load()
    samples = {name: lambda call=call: rounds.clocked(call)[2] for name, call in calls.items()}
    taken = rounds.turns(samples, settings.rounds)
    lines = [
        [name, f"{np.median(times):.2f}", *rounds.ratio(times, taken["the score alone"])]
        for name, times in taken.items()
    ]
    print(f"{settings.evaluations} evaluations, {settings.rounds} rounds; {load}\n")
    print(common.table(["", "CPU seconds", "ratio", "quartiles"], lines))


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
