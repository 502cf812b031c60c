"""First-order Taylor: how much the loss would change without a unit.

1. On each batch, the sum of w dL/dw over the entries of a unit in each weight: the derivative with
   respect to a factor of the unit, so the first-order change of the loss when it becomes 0.
2. score(u) = its square, averaged over batches.

Numbers: no experiment yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse.export._shrinking.groups import UnitGroup
from jsparse.importance._gradients import (
    Loss,
    Slope,
    check_loss,
    gate_slopes,
    gradients,
    over_batches,
)
from jsparse.importance._members import Joined


@dataclass(frozen=True)
class Taylor:
    """The squared first-order change of the loss when a unit is removed.

    Args:
      loss: loss(model, batch) -> [], the mean over the batch; the model is in eval mode.
      batches: one or more, of the same shape.
      joined: how the weights of a group are taken together.

    Reference: Molchanov et al., Importance estimation for neural network pruning, CVPR 2019,
    equation 8 and section 3.1 (of groups of weights).
    """

    loss: Loss
    batches: Iterable[Any] = field(repr=False)
    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        check_loss(self.loss, self.batches, self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""

        def score(slope: Slope, weights: Any, batch: Any) -> list:
            slopes = gate_slopes(slope(batch), weights, groups)  # (1)
            return jax.tree.map(lambda total: total**2, slopes)  # (2)

        found = gradients(model, self.loss, self.batches, score)
        return over_batches(found, groups, self.joined)
