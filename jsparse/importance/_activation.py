"""The mean absolute activation of a unit, where other layers read it.

1. Run the model on batches and look at the inputs of the layers that read a unit.
2. score(u) = the mean of |a| over samples and places.

A group that no linear or convolutional layer reads has no score and stays.

Numbers: no experiment yet.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jsparse.importance._activations import ActivationScore


@dataclass(frozen=True)
class MeanActivation(ActivationScore):
    """The mean absolute value of a unit.

    Args:
      batches: one or more.
      run: of a model and a batch; the model is in eval mode.
      joined: how the layers that read a group are taken together.

    Reference: Molchanov et al., Pruning convolutional neural networks for resource efficient
    inference, ICLR 2017, section 2.2 (activation).
    """

    worth = staticmethod(jnp.abs)
