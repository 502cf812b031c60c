"""APoZ: how often a unit is zero, where other layers read it.

1. Run the model on batches and look at the inputs of the layers that read a unit: after a ReLU,
   many are zero.
2. APoZ(u) = the share of zeros over samples and places; score(u) = 1 - APoZ(u).

A group that no linear or convolutional layer reads has no score and stays.

Numbers: no experiment yet.
"""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jsparse.importance._activations import ActivationScore
from jsparse.importance._members import Joined


@dataclass(frozen=True)
class APoZ(ActivationScore):
    """How often a unit is other than 0: 1 less the average percentage of zeros.

    Args:
      batches: one or more.
      run: of a model and a batch; the model is in eval mode.
      joined: how the layers that read a group are taken together; the mean, so that a score stays
        a share.

    Reference: Hu et al., Network trimming, 2016, equation 1.
    """

    joined: Joined = field(default_factory=lambda: Joined(reduce=np.mean, scale=None))
    worth = staticmethod(lambda a: (a != 0).astype(jnp.float32))
