"""Random units, as a control.

1. score(u) is uniform on [0, 1), from a seed.

Numbers: none are published; every other importance must beat it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx

from jsparse._values import check_whole
from jsparse.export._shrinking.groups import UnitGroup


@dataclass(frozen=True)
class Random:
    """Uniform scores; equal seeds give equal ones."""

    seed: int

    def __post_init__(self) -> None:
        check_whole(0, seed=self.seed)

    def __call__(self, model: nnx.Module, groups: Sequence[UnitGroup]) -> list[np.ndarray]:
        """[units] for each group: see `Importance`."""
        draw = np.random.default_rng(self.seed)
        return [draw.random(group.width) for group in groups]
