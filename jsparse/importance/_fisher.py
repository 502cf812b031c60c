"""Fisher: the expected squared derivative of the loss of one sample with respect to a unit.

1. For each sample n, g_n: the sum of w dL_n/dw over the entries of a unit in each weight, the
   derivative with respect to a factor on the unit.
2. score(u) = 1 / (2 N) * sum over n of g_n^2: the second-order change of the loss when the factor
   becomes 0, at a minimum, with the empirical Fisher information for the Hessian.

`Taylor` squares the mean over a batch; this averages the squares of samples.

Numbers: no experiment yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jsparse.importance._gradients import GradientScore, Slopes


@dataclass(frozen=True)
class Fisher(GradientScore):
    """Half the mean squared derivative of a sample's loss with respect to a unit.

    Args:
      loss: loss(model, batch) -> [], the mean over the batch; it is called with one sample at a
        time, along the first axis of all arrays of the batch. The model is in eval mode.
      batches: one or more, of the same shape.
      joined: how the weights of a group are taken together.

    Reference: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018,
    section 2.1, equations 8 and 9.
    """

    @staticmethod
    def of_batch(slopes: Callable[[Any], Slopes], batch: Any) -> Slopes:
        """The scores of a batch."""
        single = lambda sample: jax.tree.map(lambda leaf: leaf[None], sample)
        each = jax.lax.map(lambda sample: slopes(single(sample)), batch)  # (1)
        return jax.tree.map(lambda total: (total**2).mean(axis=0) / 2, each)  # (2)
