"""APoZ: how often a unit is zero, where other layers read it.

1. Run the model on batches and look at the inputs of the layers that read a unit: after a ReLU,
   many are zero.
2. APoZ(u) = the share of zeros over samples and places; score(u) = 1 - APoZ(u).

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
class APoZ:
    """How often a unit is other than 0: 1 less the average percentage of zeros.

    Args:
      batches: one or more.
      run: of a model and a batch; the model is in eval mode.
      joined: how the layers that read a group are taken together; the mean, so that a score stays
        a share.

    Reference: Hu et al., Network trimming, 2016, equation 1.
    """

    batches: Iterable[Any] = field(repr=False)
    run: Forward = call
    joined: Joined = field(default_factory=lambda: Joined(reduce=np.mean, scale=None))

    def __post_init__(self) -> None:
        check_batches(self.batches)
        check_function(run=self.run)
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        worth = lambda a: (a != 0).astype(jnp.float32)
        return activation_scores(model, groups, self.batches, self.run, worth, self.joined)
