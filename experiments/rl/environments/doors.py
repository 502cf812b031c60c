"""A slippery grid with a wall and two doors, as tables; its discounted densities, their optimum.

The state density of a policy is rho(s) = sum over t of discount^t P(s_t = s); it sums to
1 / (1 - discount), not to 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.rl.environments.grids import Grid

DISCOUNT = 0.95
NEAR, FAR = (6, 4), (1, 4)
"""The doors, by row and column."""
GRID = Grid(
    shape=(8, 8), start=(7, 0), slip=0.1, stay=False,
    labels={"obstacle": ((0, 1, 4, 5), (2, 6, 4, 5), (7, 8, 4, 5)), "door": (NEAR, FAR),
            "goal": ((7, 7),)},
)  # fmt: skip


class Chain(NamedTuple):
    """A Markov decision process.

    Attributes:
      moves: [states, actions, states], probabilities.
      reward: [states, actions].
      start: [states], probabilities.
    """

    moves: np.ndarray
    reward: np.ndarray
    start: np.ndarray


def chain() -> Chain:
    """The grid: each step costs 0.05; the goal pays 1 and leads back to the start."""
    to = GRID.moved()
    cells, actions = to.shape
    chance = GRID.slip / actions + (1 - GRID.slip) * np.eye(actions)
    moves = np.zeros((cells, actions, cells))
    for happened in range(actions):
        at = np.arange(cells)[:, None], np.arange(actions)[None], to[:, happened, None]
        np.add.at(moves, at, chance[:, happened])
    start = np.eye(cells)[cell(GRID.start)]
    goal = cell((7, 7))
    moves[goal], reward = start, np.full((cells, actions), -0.05)
    reward[goal] = 1.0
    return Chain(moves, reward, start)


def cell(place: tuple[int, int]) -> int:
    """The number of a cell."""
    return place[0] * GRID.shape[1] + place[1]


def density(made: Chain, policy: Array) -> Array:
    """[states] of a policy [states, actions]: solves rho = start + discount * rho P."""
    step = jnp.einsum("sa,sat->ts", policy, made.moves)
    return jnp.linalg.solve(jnp.eye(len(step)) - DISCOUNT * step, made.start)


def greedy(made: Chain, reward: Array, value: Array, sweeps: int) -> tuple[Array, Array]:
    """The best policy [states, actions] for a reward [states, actions], and its value [states].

    Value iteration from a value near by.
    """
    ahead = lambda value: reward + DISCOUNT * jnp.einsum("sat,t->sa", made.moves, value)
    value = jax.lax.fori_loop(0, sweeps, lambda _, value: ahead(value).max(axis=1), value)
    best = ahead(value).argmax(axis=1)
    return jax.nn.one_hot(best, reward.shape[1], dtype=value.dtype), value


def optimum(
    made: Chain, ceiling: np.ndarray, floor: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The linear program over occupancies x(s, a): the highest reward within the bounds.

        sum_a x(s, a) = start(s) + discount sum_(s', a') x(s', a') P(s | s', a'),  x >= 0

    Args:
      made: the process.
      ceiling: [states], infinite where there is none.
      floor: [states].

    Returns:
      The reward, the densities [states], and the prices of the bounds [states]: how much the
      reward falls when one is drawn closer.

    Raises:
      ValueError: no policy keeps the bounds.
    """
    from scipy.optimize import linprog

    states, actions = made.reward.shape
    own = np.repeat(np.eye(states), actions, axis=1)
    flow = own - DISCOUNT * made.moves.reshape(states * actions, states).T
    capped = np.isfinite(ceiling)
    found = linprog(
        -made.reward.ravel(), A_eq=flow, b_eq=made.start, method="highs",
        A_ub=np.concatenate([own[capped], -own]), b_ub=np.concatenate([ceiling[capped], -floor]),
    )  # fmt: skip
    if found.status:
        raise ValueError(f"no policy keeps these bounds ({found.message}); widen them")
    prices = np.zeros(states)
    prices[capped] = -found.ineqlin.marginals[: capped.sum()]
    prices -= found.ineqlin.marginals[capped.sum() :]
    return -float(found.fun), found.x.reshape(states, actions).sum(axis=1), prices
