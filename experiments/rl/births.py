"""How the networks of an agent are pruned at initialization, each by its own loss on one batch.

All kernels are pruned, including the last ones, but no bias; twin critics are one network.

Reference: Arnob et al., Single-shot pruning for offline reinforcement learning, 2021.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.networks import EVERY
from experiments.rl.replay import Batch
from jsparse import prune, schedule

Loss = Callable[[Any, Batch], Array]


class Births:
    """Prunes one network, dense as it starts, by any method and to any density.

    Attributes:
      ways: (density=) -> the network with masks, by method; scores are found once.
    """

    def __init__(self, network: nnx.Module, loss: Loss, batch: Batch, seed: int):
        self.dense = dense = jsparse.sparsify(network, (EVERY, jsparse.Held()))
        at_random = lambda budget: partial(
            prune.random, dense, key=jax.random.key(seed), choose=prune.by_layer(budget)
        )
        scored = functools.cache(lambda scores: scores(dense, loss, [batch]))
        highest = lambda scores: lambda density: prune.keep_highest(dense, scored(scores), density)
        self.ways: dict[str, Callable[..., Any]] = {
            "SNIP": highest(prune.snip_scores), "GraSP": highest(prune.grasp_scores),
            "SynFlow": self._synflow, "magnitude": partial(prune.magnitude, dense),
            "random": at_random(schedule.uniform), "Erdos-Renyi": at_random(schedule.erdos_renyi),
            "SET": at_random(schedule.erdos_renyi),
        }  # fmt: skip

    def _synflow(self, density: float) -> Any:
        """The weights on paths of large product; of twin critics, each by itself."""
        pruned = nnx.clone(self.dense)
        for name in ("net", "value", "q1", "q2"):
            if hasattr(pruned, name):
                part = getattr(pruned, name)
                shape = (1, part.fc1.in_features)
                setattr(pruned, name, prune.synflow(part, shape, density=density))
        return pruned


def pruned(births: tuple[Births, ...], method: str, density: float) -> tuple | None:
    """Networks as they start to train; none where a layer would lose all its weights."""
    try:
        return tuple(one.ways[method](density=density) for one in births)
    except ValueError as error:
        if "layer collapse" not in str(error):
            raise
        return None
