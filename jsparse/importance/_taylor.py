"""First-order Taylor: how much the loss would change without a unit.

1. On each batch, the sum of w dL/dw over the entries of a unit in each weight: the derivative with
   respect to a factor of the unit, so the first-order change of the loss when it becomes 0.
2. score(u) = its square, averaged over batches.

Numbers: no experiment yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jsparse.importance._gradients import GradientScore, Slopes


@dataclass(frozen=True)
class Taylor(GradientScore):
    """The squared first-order change of the loss when a unit is removed.

    Args:
      loss: loss(model, batch) -> [], the mean over the batch; the model is in eval mode.
      batches: one or more, of the same shape.
      joined: how the weights of a group are taken together.

    Reference: Molchanov et al., Importance estimation for neural network pruning, CVPR 2019,
    equation 8 and section 3.1 (of groups of weights).
    """

    @staticmethod
    def of_batch(slopes: Callable[[Any], Slopes], batch: Any) -> Slopes:
        """The scores of a batch."""
        return jax.tree.map(lambda total: total**2, slopes(batch))  # (1), (2)
