"""A car on a ring with one charger, as tables: it charges quickly while its battery is low.

It is rewarded for the cells that it travels, so without bounds it is best to run its battery low,
where charging is quick. The car is ours.
"""

import numpy as np

from experiments.rl.environments.chain import Chain

CELLS, FULL, DISCOUNT = 6, 12, 0.98
"""The charger is in cell 0; energy is 0 to FULL."""
SLOW, FAST, CHARGE = range(3)
"""Actions: one cell for one unit of energy, two cells for three, and standing still."""
WIND, TOW = 0.2, 0.3
"""Probabilities: that a step takes one unit more, and that an empty car is towed to the charger."""


def chain() -> Chain:
    """The car: it starts at the charger with half of its energy."""
    states = CELLS * (FULL + 1)
    moves, reward = np.zeros((states, 3, states)), np.zeros((states, 3))
    for now in range(states):
        cell, energy = divmod(now, FULL + 1)
        for action in (SLOW, FAST):
            if not energy:  # stranded
                moves[now, action, number(cell, 0)] += 1 - TOW
                moves[now, action, number(0, 0)] += TOW
                continue
            far, used = (2, 3) if action == FAST and energy >= 3 else (1, 1)
            for chance, more in ((1 - WIND, 0), (WIND, 1)):
                moves[now, action, number(cell + far, energy - used - more)] += chance
            reward[now, action] = far / 2
        gained = charged(energy) if cell == 0 else 0.0
        moves[now, CHARGE, number(cell, energy + 1)] += gained
        if energy or cell == 0:
            moves[now, CHARGE, now] += 1 - gained
        else:
            moves[now, CHARGE] = moves[now, SLOW]
    return Chain(moves, reward, np.eye(states)[number(0, FULL // 2)], DISCOUNT)


def charged(energy: int) -> float:
    """The probability that a step at the charger gains a unit: 1 when empty, 0 when full."""
    return 1 - energy / FULL


def number(cell: int, energy: int) -> int:
    """That of a state; cells are those of a ring, and energy ends at 0 and FULL."""
    return cell % CELLS * (FULL + 1) + min(max(energy, 0), FULL)


def levels() -> np.ndarray:
    """[energies, states], 1 where a state has that energy."""
    return np.tile(np.eye(FULL + 1), CELLS)


def observed() -> np.ndarray:
    """[states, CELLS + FULL + 1]: cell and energy, one-hot."""
    cell, energy = np.divmod(np.arange(CELLS * (FULL + 1)), FULL + 1)
    return np.concatenate([np.eye(CELLS)[cell], np.eye(FULL + 1)[energy]], axis=1)
