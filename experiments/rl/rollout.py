"""What PPO passes on: the agent in training, its steps, and the numbers of an iteration."""

from typing import Any, NamedTuple

from jax import Array

import jsparse


class Learner(NamedTuple):
    """An agent while it learns; with seeds, each leaf has them as its first axis.

    Attributes:
      agent: state of the `Agent`.
      places: states of the environment, [copies, ...].
      earned: [copies], reward of the episode so far.
      bounds: multipliers.
      key: [].
    """

    agent: Any
    places: Any
    earned: Array
    bounds: tuple[jsparse.optim.Multiplier, ...]
    key: Array


class Steps(NamedTuple):
    """What was seen and done: [steps, copies, ...]; gains and values [..., 1 + bounds]."""

    observation: Array
    action: Array
    log_prob: Array
    value: Array
    gain: Array
    going: Array


class Report(NamedTuple):
    """Of an iteration, each [].

    Attributes:
      score: mean reward of the episodes that ended in it; nan where none did.
      episodes: how many did.
      costs: [bounds], means of a step.
      prices: [bounds], the multipliers.
      loss: of the last batch.
    """

    score: Array
    episodes: Array
    costs: Array
    prices: Array
    loss: Array
