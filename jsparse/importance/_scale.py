"""The scale of a normalization: network slimming.

1. |gamma|, the factor by which a batch norm (or another norm) multiplies a unit.
2. Units with the smallest ones are removed, over all layers at once in the paper; train with an L1
   penalty on gamma first.

A group without a normalization has no score and stays.

Numbers: no experiment yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from flax import nnx

from jsparse._values import check_is
from jsparse.export._shrinking.groups import UnitGroup
from jsparse.export._shrinking.uses import Use
from jsparse.importance._members import Joined, from_weights, summed


@dataclass(frozen=True)
class NormScale:
    """How large the scale of a normalization is at a unit.

    Args:
      joined: how several normalizations of a group are taken together; as in the paper, scores of
        groups are not divided by anything.

    Reference: Liu et al., Learning efficient convolutional networks through network slimming, ICCV
    2017, section 3.
    """

    joined: Joined = field(default_factory=lambda: Joined(scale=None))

    def __post_init__(self) -> None:
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        gamma = lambda w, member, width: summed(np.abs(w), member, width)
        is_scale = lambda member, w: w.ndim == 1 and Use.SCALES in member.use
        return from_weights(model, groups, gamma, self.joined, is_scale)
