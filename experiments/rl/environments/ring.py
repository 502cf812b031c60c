"""A ring of cells with coins, on which one may not walk backward, and what is best on it, exactly.

Reference: Malik et al., Inverse constrained reinforcement learning, ICML 2021, whose LapGridWorld
this is: the border of a square, with coins that pay each time that they are entered.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

CELLS, STEPS, ACTIONS, OBSERVED = 40, 200, 2, 1
"""Actions: forward, backward."""
COINS = (5, 15, 25, 35)


def paid(coins: tuple[int, ...] = COINS, each: float = 3.0) -> np.ndarray:
    """[cells], what entering each pays."""
    found = np.zeros(CELLS, np.float32)
    found[list(coins)] = each
    return found


def observed(cell: Array) -> Array:
    """[..., 1], in [-1, 1)."""
    return (2.0 * cell / CELLS - 1.0)[..., None]


class Allowed(NamedTuple):
    """A network that says how allowed an action is, zeta: one hidden layer, all leaves arrays."""

    w1: Array
    b1: Array
    w2: Array
    b2: Array

    def logit(self, x: Array) -> Array:
        """[...], of zeta, by what is seen and done [..., inputs]."""
        hidden = jax.nn.relu(x @ self.w1 + self.b1.reshape((1,) * (x.ndim - 1) + (-1,)))
        return (hidden @ self.w2)[..., 0] + self.b2


def judged(cell: Array, action: Array) -> Array:
    """[..., OBSERVED + ACTIONS], what zeta is given of cells and actions [...]."""
    return jnp.concatenate([observed(cell), jax.nn.one_hot(action, ACTIONS)], axis=-1)


def begin(key: Array, inputs: int = OBSERVED + ACTIONS, width: int = 20) -> Allowed:
    """Nothing is known: zeta is about one half."""
    first, second = jax.random.split(key)
    w1 = jax.random.normal(first, (inputs, width)) / np.sqrt(inputs)
    w2 = jax.random.normal(second, (width, 1)) / np.sqrt(width)
    return Allowed(w1, jnp.zeros(width), w2, jnp.zeros(()))


class Place(NamedTuple):
    """Where and when, each []."""

    cell: Array
    time: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ring:
    """The nominal ring: backward is not punished.

    Attributes:
      coins: [cells], of `paid`.
      stride: cells of a step, [], a whole number.
      allowed: what is thought to be allowed.
      blamed: [], how much log zeta counts in the reward.
    """

    coins: Array
    stride: Array
    allowed: Allowed
    blamed: Array

    def reset(self, key: Array) -> Place:
        """In cell 0."""
        return Place(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def step(self, state: Place, action: Array, key: Array) -> tuple[Place, Array, Array]:
        """The next place, the reward and whether all steps are done; nothing is random."""
        cell = (state.cell + self.stride * (1 - 2 * action)) % CELLS
        blame = jax.nn.log_sigmoid(self.allowed.logit(judged(state.cell, action)))
        reward = self.coins[cell] + self.blamed * blame
        return Place(cell, state.time + 1), reward, state.time + 1 >= STEPS

    def observe(self, state: Place) -> Array:
        """[1]; the time is not seen."""
        return observed(state.cell)

    def costs(self, state: Any, action: Array) -> Array:
        """[1]: 1 - zeta."""
        return jax.nn.sigmoid(-self.allowed.logit(judged(state.cell, action)))[None]


def best(coins: np.ndarray, stride: int = 1, backward: bool = True) -> tuple[float, np.ndarray]:
    """The highest return by dynamic programming, and the policy [steps, cells].

    Args:
      coins: [cells], of `paid`.
      stride: cells of a step.
      backward: whether one may walk backward; where not, this is the optimum of the true ring.
    """
    cells, ahead, policy = np.arange(CELLS), np.zeros(CELLS), np.zeros((STEPS, CELLS), int)
    for step in reversed(range(STEPS)):
        to = [(cells + stride * sign) % CELLS for sign in ((1, -1) if backward else (1,))]
        values = np.stack([coins[one] + ahead[one] for one in to])
        policy[step], ahead = values.argmax(axis=0), values.max(axis=0)
    return float(ahead[0]), policy


def walked(policy: np.ndarray, coins: np.ndarray, stride: int = 1) -> np.ndarray:
    """Actions [steps] of a policy [steps, cells] from cell 0."""
    cell, found = 0, []
    for row in policy:
        found.append(int(row[cell]))
        cell = (cell + stride * (1 - 2 * found[-1])) % CELLS
    return np.array(found)


def truly(action: np.ndarray, coins: np.ndarray, stride: int = 1) -> np.ndarray:
    """[...], returns of actions [..., steps] on the true ring: backward pays -1 and ends it all."""
    cell = np.cumsum(stride * (1 - 2 * action), axis=-1) % CELLS
    before = np.cumsum(action, axis=-1) == 0
    return (before * coins[cell]).sum(axis=-1) - action.any(axis=-1)
