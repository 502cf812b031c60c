"""How the networks of an agent are pruned at initialization, each by its own loss on one batch.

All kernels are pruned, including the last ones, but no bias; twin critics are one network.

Reference: Arnob et al., Single-shot pruning for offline reinforcement learning, 2021.
"""

from collections.abc import Callable
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
    """Prunes one network at birth, by any method and to any density; scores are found once.

    Args:
      network: dense, as it starts.
      loss: its own.
      batch: one batch of data.
      seed: of random masks.
    """

    def __init__(self, network: nnx.Module, loss: Loss, batch: Batch, seed: int):
        self.dense = jsparse.sparsify(network, (EVERY, jsparse.Held()))
        self.loss, self.batches, self.key = loss, [batch], jax.random.key(seed)
        self._scores: dict[str, dict[str, Array]] = {}

    def random(self, density: float) -> Any:
        """The same density in each layer."""
        choose = prune.by_layer(schedule.uniform)
        return prune.random(self.dense, density=density, key=self.key, choose=choose)

    def erdos_renyi(self, density: float) -> Any:
        """Random masks, denser where a layer is small."""
        choose = prune.by_layer(schedule.erdos_renyi)
        return prune.random(self.dense, density=density, key=self.key, choose=choose)

    def magnitude(self, density: float) -> Any:
        """The largest weights of the start."""
        return prune.magnitude(self.dense, density=density)

    def snip(self, density: float) -> Any:
        """The weights to which the loss is most sensitive."""
        return self._highest("snip", prune.snip_scores, density)

    def grasp(self, density: float) -> Any:
        """The weights that keep the gradient large."""
        return self._highest("grasp", prune.grasp_scores, density)

    def synflow(self, density: float) -> Any:
        """The weights on paths of large product; of twin critics, each by itself."""
        pruned = nnx.clone(self.dense)
        for name in ("net", "value", "q1", "q2"):
            if hasattr(pruned, name):
                part = getattr(pruned, name)
                shape = (1, part.fc1.in_features)
                setattr(pruned, name, prune.synflow(part, shape, density=density))
        return pruned

    def _highest(self, name: str, scores: Callable, density: float) -> Any:
        if name not in self._scores:
            self._scores[name] = scores(self.dense, self.loss, self.batches)
        return prune.keep_highest(self.dense, self._scores[name], density)


def pruned(births: tuple[Births, ...], method: str, density: float) -> tuple | None:
    """Networks as they start to train; none where a layer would lose all its weights."""
    ways = {
        "SNIP": Births.snip, "GraSP": Births.grasp, "SynFlow": Births.synflow,
        "Erdos-Renyi": Births.erdos_renyi, "SET": Births.erdos_renyi,
        "random": Births.random, "magnitude": Births.magnitude,
    }  # fmt: skip
    try:
        return tuple(ways[method](one, density) for one in births)
    except ValueError as error:
        if "layer collapse" not in str(error):
            raise
        return None
