"""LAMP: a unit's share of the squared weight that is left when smaller units are gone.

1. s(u), the sum of w^2 over all that belongs to the unit, over all weights of the group.
2. score(u) = s(u) / sum of s(v) over all v with s(v) >= s(u).
3. The scores of all groups are compared as they are: the largest of each is 1 or a share of ties.

The paper scores single weights of a layer; here the units of a group.

Numbers: no figure is published for units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx

from jsparse.export._shrinking.groups import UnitGroup
from jsparse.importance._members import Joined, from_weights, summed


@dataclass(frozen=True)
class LAMP:
    """Layer-adaptive magnitude of a unit.

    Reference: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021,
    equation 3.
    """

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        squares = lambda w, member, width: summed(np.abs(w) ** 2, member, width)
        found = from_weights(model, groups, squares, Joined(scale=None))  # (1)
        return [own if np.isposinf(own).all() else _shares(own) for own in found]  # inf: no weights


def _shares(squares: np.ndarray) -> np.ndarray:
    """(2), of [units]."""
    order = np.argsort(squares, kind="stable")
    rising = squares[order]
    left = np.cumsum(rising[::-1])[::-1][np.searchsorted(rising, rising, side="left")]
    shares = np.divide(rising, left, out=np.zeros_like(rising), where=left != 0)
    made = np.empty_like(shares)
    made[order] = shares
    return made
