"""Markov decision processes as tables: their discounted densities, their optimum, their samples.

The state density of a policy is rho(s) = sum over t of discount^t P(s_t = s); it sums to
1 / (1 - discount), not to 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Chain(NamedTuple):
    """A Markov decision process.

    Attributes:
      moves: [states, actions, states], probabilities.
      reward: [states, actions].
      start: [states], probabilities.
      discount: [], below 1.
    """

    moves: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    discount: float


def density(made: Chain, policy: Array) -> Array:
    """[states] of a policy [states, actions]: solves rho = start + discount * rho P."""
    step = jnp.einsum("sa,sat->ts", policy, made.moves)
    return jnp.linalg.solve(jnp.eye(len(step)) - made.discount * step, made.start)


def greedy(made: Chain, reward: Array, value: Array, sweeps: int) -> tuple[Array, Array]:
    """The best policy [states, actions] for a reward [states, actions], and its value [states].

    Value iteration from a value near by.
    """
    ahead = lambda value: reward + made.discount * jnp.einsum("sat,t->sa", made.moves, value)
    value = jax.lax.fori_loop(0, sweeps, lambda _, value: ahead(value).max(axis=1), value)
    best = ahead(value).argmax(axis=1)
    return jax.nn.one_hot(best, reward.shape[1], dtype=value.dtype), value


def optimum(
    made: Chain, ceiling: np.ndarray, floor: np.ndarray, costs: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The linear program over occupancies x(s, a): the highest reward within the bounds.

        sum_a x(s, a) = start(s) + discount sum_(s', a') x(s', a') P(s | s', a'),  x >= 0
        floor(b) <= sum_(s, a) costs(b, s) x(s, a) <= ceiling(b)

    Args:
      made: the process.
      ceiling: [bounds], infinite where there is none.
      floor: [bounds].
      costs: [bounds, states], what a visit counts; the identity bounds the density of each state.

    Returns:
      The reward, the densities [states], and the prices of the bounds [bounds]: how much the
      reward falls when one is drawn closer.

    Raises:
      ValueError: no policy keeps the bounds.
    """
    from scipy.optimize import linprog

    states, actions = made.reward.shape
    own = np.repeat(np.eye(states), actions, axis=1)
    flow = own - made.discount * made.moves.reshape(states * actions, states).T
    bounded, capped = costs @ own, np.isfinite(ceiling)
    found = linprog(
        -made.reward.ravel(), A_eq=flow, b_eq=made.start, method="highs",
        A_ub=np.concatenate([bounded[capped], -bounded]),
        b_ub=np.concatenate([ceiling[capped], -floor]),
    )  # fmt: skip
    if found.status:
        raise ValueError(f"no policy keeps these bounds ({found.message}); widen them")
    prices = np.zeros(len(ceiling))
    prices[capped] = -found.ineqlin.marginals[: capped.sum()]
    prices -= found.ineqlin.marginals[capped.sum() :]
    return -float(found.fun), found.x.reshape(states, actions).sum(axis=1), prices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampled:
    """The process as an agent meets it: it ends after each step with probability 1 - discount.

    So what an episode earns, undiscounted, is the discounted reward in expectation, and the share
    of all steps that are spent in a state is (1 - discount) rho(s).

    Attributes:
      moves, reward, start, discount: as in `Chain`.
      seen: [states, observed], observations.
      counted: [bounds, states], costs.
    """

    moves: Array
    reward: Array
    start: Array
    discount: Array
    seen: Array
    counted: Array

    def reset(self, key: Array) -> Array:
        """A state, []."""
        return _drawn(key, self.start)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        """The next state, the reward and whether this was the last step."""
        move, end = jax.random.split(key)
        after = _drawn(move, self.moves[state, action])
        return after, self.reward[state, action], jax.random.uniform(end) >= self.discount

    def observe(self, state: Array) -> Array:
        """[observed]."""
        return self.seen[state]

    def costs(self, state: Array, action: Array) -> Array:
        """[bounds], of the state."""
        return self.counted[:, state]


def _drawn(key: Array, chance: Array) -> Array:
    """A number, [], with these probabilities [n]."""
    sums = jnp.cumsum(chance)
    return jnp.searchsorted(sums, jax.random.uniform(key) * sums[-1], side="right")
