"""Fisher: the expected squared derivative of the loss of one sample with respect to a unit.

1. For each sample n, g_n: the sum of w dL_n/dw over the entries of a unit in each weight, the
   derivative with respect to a factor on the unit.
2. score(u) = 1 / (2 N) * sum over n of g_n^2: the second-order change of the loss when the factor
   becomes 0, at a minimum, with the empirical Fisher information for the Hessian.

`Taylor` squares the mean over a batch; this averages the squares of samples.

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
class Fisher:
    """Half the mean squared derivative of a sample's loss with respect to a unit.

    Args:
      loss: loss(model, batch) -> [], the mean over the batch; it is called with one sample at a
        time, along the first axis of all arrays of the batch. The model is in eval mode.
      batches: one or more, of the same shape.
      joined: how the weights of a group are taken together.

    Reference: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018,
    section 2.1, equations 8 and 9.
    """

    loss: Loss
    batches: Iterable[Any] = field(repr=False)
    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        check_loss(self.loss, self.batches, self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""

        def score(slope: Slope, weights: Any, batch: Any) -> list:
            def of(sample: Any) -> list:
                single = jax.tree.map(lambda leaf: leaf[None], sample)
                return gate_slopes(slope(single), weights, groups)  # (1)

            each = jax.lax.map(of, batch)
            return jax.tree.map(lambda total: (total**2).mean(axis=0) / 2, each)  # (2)

        found = gradients(model, self.loss, self.batches, score)
        return over_batches(found, groups, self.joined)
