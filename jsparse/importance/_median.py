"""FPGM: how far a filter is from the others, as those near the middle can be replaced.

1. The filters of a layer, one vector for each unit: all that makes it, without the bias.
2. score(u) = sum over v of |w_u - w_v|, the Euclidean distance.
3. The lowest lie nearest to the geometric median of the filters.

Weights that read units do not count: the paper looks at filters alone.

Numbers: no experiment yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from flax import nnx

from jsparse._values import check_is
from jsparse.export._shrinking.groups import UnitAxis, UnitGroup
from jsparse.export._shrinking.uses import Use
from jsparse.importance._members import Joined, from_weights, rows


@dataclass(frozen=True)
class MedianDistance:
    """The distance of a filter to all others of its layer.

    Args:
      joined: how the layers that make the units of one group are taken together.

    Reference: He et al., Filter pruning via geometric median for deep convolutional neural networks
    acceleration, CVPR 2019, equations 4 to 6.
    """

    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        check_is(Joined, "a Joined", joined=self.joined)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        makes = lambda member, w: w.ndim > 1 and Use.MAKES in member.use
        return from_weights(model, groups, _distances, self.joined, makes)


def _distances(weight: np.ndarray, member: UnitAxis, width: int) -> np.ndarray:
    filters = rows(weight, member, width)  # (1)
    return np.array([np.linalg.norm(filters - one, axis=1).sum() for one in filters])  # (2)
