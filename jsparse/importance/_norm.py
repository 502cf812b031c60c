"""The norm of a unit: L1 and L2.

1. In each weight of the group, the sum of |w|^p over the entries of the unit.
2. Summed over the weights, this is the norm of the whole unit to the power p; `Joined` may take the
   mean or the maximum over them instead.

Biases and statistics of normalizations do not count.

Numbers: no figure is published for whole groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from flax import nnx

from jsparse._values import check_in, check_is
from jsparse.export._shrinking.groups import UnitGroup
from jsparse.importance._members import Joined, from_weights, summed


@dataclass(frozen=True)
class Norm:
    """The p-norm of what belongs to a unit, to the power p.

    Args:
      p: 1 or 2, or any other power above 0.
      joined: how the weights of a group are taken together.

    Raises:
      ValueError: p is not above 0.

    Example:
      >>> from jsparse.export import groups
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), nnx.relu, nnx.Linear(3, 1, rngs=rngs))
      >>> (score,) = Norm(1)(model, [groups(model, (1, 2))["layers/0/kernel:1"]])
      >>> score.shape
      (3,)

    Reference: Li et al., Pruning filters for efficient ConvNets, ICLR 2017, section 3.1 (p = 1, of
    filters alone).
    """

    p: float = 2
    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        check_in("(0, inf)", p=self.p)
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        power = lambda w, member, width: summed(np.abs(w) ** self.p, member, width)  # (1)
        return from_weights(model, groups, power, self.joined)  # (2)
