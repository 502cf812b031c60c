"""The table of scheduled auxiliary control: what followed each choice of an intention.

Its rows are the histories of choices in an episode, as nodes of a tree: the start is 0, and where
intention i is chosen in node n, the next node is intentions * n + 1 + i.

Reference: Riedmiller et al., Learning by playing, ICML 2018, arXiv 1802.10567, section 4.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Picks = tuple[Array, Array, Array]
"""Node, intention and whether the episode still went on, [choices, episodes] each."""


def shares(picks: Picks, intentions: int) -> Array:
    """[intentions], of all choices in episodes that still went on."""
    _, own, going = picks
    picked = jax.nn.one_hot(own, intentions) * going[..., None]
    return picked.sum(axis=(0, 1)) / going.sum()


def followed(table: Array, picks: Picks, main: Array, gamma: float, rate: float) -> Array:
    """The table [nodes, intentions] after some episodes.

    Each choice moves its entry toward the discounted rewards of the main task from there on.

    Args:
      table: before them.
      picks: of these episodes.
      main: [episodes, steps], rewards of the main task; each choice holds as many steps.
      gamma: the discount.
      rate: how far an entry moves toward what followed.
    """
    choices, steps = len(picks[0]), main.shape[1]
    later = np.arange(steps) - steps // choices * np.arange(choices)[:, None]
    fall = np.where(later >= 0, gamma ** np.maximum(later, 0), 0.0)
    flat = jax.tree.map(jnp.ravel, (*picks, jnp.asarray(fall, main.dtype) @ main.T))

    def one(table: Array, at: tuple[Array, ...]) -> tuple[Array, None]:
        node, own, going, gain = at
        return table.at[node, own].add(rate * going * (gain - table[node, own])), None

    return jax.lax.scan(one, table, flat)[0]
