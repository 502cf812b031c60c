"""The mean absolute activation of a unit, where other layers read it.

1. Run the model on batches and look at the inputs of the layers that read a unit.
2. score(u) = the mean of |a| over samples and places.

A group that no linear or convolutional layer reads has no score and stays.

Numbers: no experiment yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._pure import Forward, call
from jsparse._values import check_batches, check_function, check_is
from jsparse.export._shrinking.groups import UnitGroup
from jsparse.importance._activations import activation_scores
from jsparse.importance._members import Joined


@dataclass(frozen=True)
class MeanActivation:
    """The mean absolute value of a unit.

    Args:
      batches: one or more.
      run: of a model and a batch; the model is in eval mode.
      joined: how the layers that read a group are taken together.

    Reference: Molchanov et al., Pruning convolutional neural networks for resource efficient
    inference, ICLR 2017, section 2.2 (activation).
    """

    batches: Iterable[Any] = field(repr=False)
    run: Forward = call
    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        check_batches(self.batches)
        check_function(run=self.run)
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        args = (self.batches, self.run, jnp.abs, self.joined)
        return activation_scores(model, groups, *args)
