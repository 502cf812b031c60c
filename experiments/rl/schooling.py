"""The opponents of a learning Pong agent: the script, its last self, or all of its earlier selves.

1. All begin with a generation against the script.
2. Generation by generation: "long" stays with it, Chainer plays its own frozen copy from the end of
   the previous generation, Pool a copy drawn for each point from all so far.
3. Exploiters are new agents that learn against a frozen one. The more they win, and the sooner, the
   less robust it is.

Reference: He, Rammohan, Forde and Littman, Does DQN really learn? Exploring adversarial training
schemes in Pong, RLDM 2022, of which only the abstract was read: the details are ours.
"""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.rl import selfplay
from experiments.rl.dqn import Dqn, Learner, Trainer
from experiments.rl.environments import pong
from experiments.rl.learning import stacked
from experiments.rl.networks import Kind, Layers

LONG, CHAINER, POOL = "long", "Chainer", "Pool"


def blank(view: str, seeds: int, size: int, width: int) -> Layers:
    """Layers [seeds, size, ...] of zeros."""
    sizes = (selfplay.INPUTS[view], width, width, pong.ACTIONS)
    zeros = lambda *shape: jnp.zeros((seeds, size, *shape))
    return [(zeros(a, b), zeros(b)) for a, b in pairwise(sizes)]


def trainer(view: str, dqn: Dqn, kind: Kind, size: int, iterations: int) -> Trainer:
    """One for agents with room for a number of opponents; masks change in three quarters of all
    steps."""
    foes = jax.tree.map(lambda leaf: leaf[0], blank(view, 1, size, dqn.width))
    return Trainer(dqn, kind, selfplay.task(view, foes), 3 * iterations // 4)


def against(learner: Learner, foes: Layers, low: int, high: int) -> Learner:
    """The learner with opponents [seeds, size, ...], of whom low, ..., high - 1 are drawn."""
    match = dataclasses.replace(
        learner.state.environment, low=jnp.int32(low), high=jnp.int32(high),
        foes=jax.tree.map(jnp.copy, foes),  # learning uses it up
    )  # fmt: skip
    return learner._replace(state=learner.state._replace(environment=match))


def schooled(
    view: str, dqn: Dqn, kind: Kind, arms: Sequence[str], generations: int, iterations: int,
    seeds: int,
) -> dict[str, Layers]:  # fmt: skip
    """1. and 2.: what the agents of each arm read in the end, [seeds, ...]."""
    room, found = max(1, generations - 1), {}
    school = trainer(view, dqn, kind, room, generations * iterations)
    base, _ = school.learn(school.start(range(1, seeds + 1)), jnp.int32(iterations))
    for arm in arms:
        learner, foes = jax.tree.map(jnp.copy, base), blank(view, seeds, room, dqn.width)
        for done in range(generations - 1):
            slot = done if arm == POOL else 0
            put = lambda all_, one, slot=slot: all_.at[:, slot].set(one)
            foes = jax.tree.map(put, foes, school.layers(learner))
            low, high = (0, 1) if arm == LONG else (1, slot + 2)
            learner = against(learner, foes, low, high)
            learner, _ = school.learn(learner, jnp.int32(iterations))
        found[arm] = school.layers(learner)
    return found


def exploited(
    dqn: Dqn, agents: Layers, exploiters: int, iterations: int, marks: int, points: int
) -> tuple[list[int], np.ndarray]:
    """3., for agents [seeds, ...] that see numbers.

    Returns:
      Iterations at each mark, and the score of greedy exploiters [marks, seeds, exploiters].
    """
    seeds = len(agents[0][0])
    foes = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], exploiters, axis=0), agents)
    school = trainer("numbers", dqn, Kind(), 1, iterations)
    learner = against(school.start(range(1001, 1001 + seeds * exploiters)), foes, 1, 2)
    each, curve = iterations // marks, []
    for mark in range(marks):
        learner, _ = school.learn(learner, jnp.int32(each))
        curve.append(beaten(school.layers(learner), foes, points, mark)[:, 1])
    return [each * (n + 1) for n in range(marks)], np.array(curve).reshape(marks, seeds, -1)


def beaten(mine: Layers, foes: Layers, points: int, key: int) -> np.ndarray:
    """Scores of agents that see numbers, [seeds, 1 + size]."""
    keys = jax.random.split(jax.random.key(key), len(mine[0][0]))
    return np.asarray(selfplay.scores("numbers", mine, foes, keys, points))


def matrix(agents: dict[str, Layers], points: int) -> np.ndarray:
    """Scores [seeds, agents, 1 + agents]: of each against the script and against all of them."""
    foes = stacked(list(agents.values()), axis=1)
    rows: list[Array | np.ndarray] = [beaten(mine, foes, points, 0) for mine in agents.values()]
    return np.stack(rows, axis=1)
