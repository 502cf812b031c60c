"""Exact probabilities on a `Product`: the best possible, that of a policy, and for ever.

`best` is what the published success rates estimate: that an accepting state is entered before the
trap. `for_ever` is what the property itself asks of infinite words.
"""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from experiments.rl.environments.grids import Product


def backup(made: Product, value: np.ndarray, discount: float = 1.0) -> np.ndarray:
    """[states, actions], the expected discounted value [states] after an action; 1 if accepted."""
    sure = np.where(made.ended, made.accepted, discount * value[made.nexts])
    slipped = sure[:, : made.moves].mean(axis=1, keepdims=True)
    sure[:, : made.moves] += made.slip * (slipped - sure[:, : made.moves])
    return np.where(made.allowed, sure, -np.inf)


def best(made: Product, discount: float = 1.0, tolerance: float = 1e-12) -> tuple[np.ndarray, int]:
    """The value of acceptance from each state [states] by value iteration, and the sweeps it took.

    With discount 1 it is the highest probability of acceptance.
    """
    value, sweeps, change = np.zeros(len(made.nexts)), 0, 1.0
    while change > tolerance:
        new = backup(made, value, discount).max(axis=1)
        change, value, sweeps = np.abs(new - value).max(), new, sweeps + 1
    return value, sweeps


def chances(made: Product, policy: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
    """Of a policy [states]: moves between states [states, states] without ends; and acceptance."""
    states, count = np.arange(len(policy)), made.moves
    kept = np.where(policy < count, 1 - made.slip, 1.0)
    slipped = np.where(policy < count, made.slip / count, 0.0)
    chance = np.concatenate([np.tile(slipped[:, None], count), kept[:, None]], axis=1)
    action = np.concatenate([np.tile(np.arange(count), (len(policy), 1)), policy[:, None]], axis=1)
    at = states[:, None], action
    goes_on = (~made.ended[at]) * chance
    row = np.broadcast_to(states[:, None], action.shape)
    matrix = sparse.coo_array((goes_on.ravel(), (row.ravel(), made.nexts[at].ravel())))
    matrix.resize(len(policy), len(policy))
    matrix = matrix.tocsr()
    matrix.eliminate_zeros()
    return matrix, (made.accepted[at] * chance).sum(axis=1)


def success(made: Product, policy: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
    """Of a policy, an action for each state: the probability of acceptance within some steps.

    Also how often each state is visited in them, on average: [states].
    """
    matrix, accepted = chances(made, policy)
    back = matrix.T.tocsr()
    here, visits = np.zeros(len(policy)), np.zeros(len(policy))
    here[made.start] = 1.0
    for _ in range(steps):
        visits += here
        here = back @ here
        if here.sum() < 1e-9:
            break
    return float(visits @ accepted), visits


def for_ever(made: Product) -> float:
    """The highest probability that accepting states are met again and again.

    1. An end component is a set of states that some actions never leave; the largest ones are found
       by dropping what leaves a strongly connected part, until nothing does.
    2. Where one holds a move into an accepting state, it is made for ever with probability 1.
    3. What is sought is the highest probability of reaching such a component.
    """
    states, actions = made.nexts.shape
    number = np.arange(actions)
    drawn = (number < made.moves) & (made.slip > 0)  # by row: an action; by column: what happens
    outcomes = np.where(drawn[:, None], number < made.moves, np.eye(actions, dtype=bool))
    trapped = made.ended & ~made.accepted
    alive = made.allowed & ~(trapped @ outcomes.T)
    while True:
        row, action, outcome = np.nonzero(alive[:, :, None] & outcomes)
        to = made.nexts[row, outcome]
        graph = sparse.coo_array((np.ones(len(row)), (row, to)), (states, states))
        part = csgraph.connected_components(graph, connection="strong")[1]
        leaves = part[row] != part[to]
        if not leaves.any():
            break
        alive[row[leaves], action[leaves]] = False
    good = alive.any(axis=1) & np.isin(part, part[row[made.accepted[row, outcome]]])
    endless = made._replace(accepted=np.zeros_like(trapped), ended=trapped)
    value, change = good.astype(float), 1.0
    while change > 1e-12:
        new = np.where(good, 1.0, backup(endless, value).max(axis=1))
        change, value = np.abs(new - value).max(), new
    return float(value[made.start])
