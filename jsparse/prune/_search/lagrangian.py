"""PPO-Lagrangian over layers, after the official code of the paper.

1. An episode is one pass over the layers: the policy sees the layer and its actions so far, and
   returns a logit of the density. Reward and cost come at the end.
2. Two critics, advantages of both scaled to unit deviation: A = (A_r - nu A_c) / (1 + nu).
3. After each population nu is moved by `jsparse.optim.Multiplier` on log(C / d). In the paper it is
   a softplus moved by Adam on C - d, which in our runs drove the policy to remove everything, where
   no gradient leads back.
4. As for the other methods the score is that of the proposal after projection; its cost is that
   before projection.

From the paper are 1, the sizes of the networks and the settings of PPO except for the rate, which
is ten times as high: the paper has 40,000 steps, this a thousand episodes. 3 and 4 are ours.

Numbers: experiments/search_budget.py.
"""

import dataclasses
from collections.abc import Generator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse._values import check_in, check_whole
from jsparse.optim._multiplier import Multiplier
from jsparse.prune._search.agent import Settings, act, begin, features, learn
from jsparse.prune._search.layers import Layers
from jsparse.prune._search.methods import Outcome, sigmoid, tightening


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lagrangian:
    """Constrained reinforcement learning: PPO with a critic for the cost and a multiplier.

    Args:
      population: candidates that are scored together, 2 or more.
      rate: learning rate of Adam.
      epochs: passes over a population.
      batch: layers of episodes in a train step.
      clip: of the probability ratio, in (0, 1).
      gamma: discount of the reward from layer to layer, in (0, 1].
      trace: lambda of generalized advantages, in (0, 1].
      entropy: weight of the entropy, 0 or more.
      divergence: from the old policy; a population's train steps end at 1.5 times this.
      tighten: factor between the limits of two stages, in (0, 1).

    Raises:
      ValueError: a setting is out of range.

    Reference: Malik, Haider, Iqbal and Taj, Neural network pruning through constrained
      reinforcement learning, ICPR 2022.
    """

    population: int = 32
    rate: float = 3e-3
    epochs: int = 10
    batch: int = 64
    clip: float = 0.2
    gamma: float = 0.99
    trace: float = 0.95
    entropy: float = 1e-3
    divergence: float = 0.1
    tighten: float = 0.7

    def __post_init__(self) -> None:
        check_whole(2, population=self.population)
        check_whole(epochs=self.epochs, batch=self.batch)
        check_in("(0, inf)", rate=self.rate, divergence=self.divergence)
        check_in("(0, 1)", clip=self.clip, tighten=self.tighten)
        check_in("(0, 1]", gamma=self.gamma, trace=self.trace)
        check_in("[0, inf)", entropy=self.entropy)

    def limits(self, dense: float, budget: float) -> tuple[float, ...]:
        return tightening(self.tighten, dense, budget)

    def propose(self, layers: Layers, key: Array) -> Generator[np.ndarray, Outcome, None]:
        numbers = self.rate, self.epochs, self.batch, self.clip, self.gamma, self.trace
        settings = Settings(*numbers, self.entropy, self.divergence)
        known = features(layers)
        agent = begin(key, known.shape[1] + 2, settings)
        nu = Multiplier(1.0)
        for step in range(1, 1 << 30):
            first, second = jax.random.split(jax.random.fold_in(key, step))
            rollout = act(agent.params, known, first, self.population)
            outcome = yield sigmoid(np.asarray(rollout.taken, np.float64).T)
            nu = nu.update(float(np.exp(outcome.excess).mean()))
            scores = _in_float32(outcome.score), outcome.excess
            reward, cost = (jnp.asarray(x, jnp.float32) for x in scores)
            agent = learn(agent, rollout, reward, cost, nu.value, second, settings)


def _in_float32(scores: np.ndarray) -> np.ndarray:
    """Scores times a power of two, [n], that brings the largest to about 1: only ratios matter."""
    return np.ldexp(scores, -np.frexp(np.abs(scores).max())[1])
