"""A group of units, and the axes of weights that belong to it."""

import dataclasses

import numpy as np

from jsparse.export._shrinking.uses import Use


@dataclasses.dataclass(frozen=True, eq=False)
class UnitAxis:
    """An axis of a weight that belongs to a group.

    Attributes:
      path: of the weight.
      axis: of it.
      units: the number of the unit at each position of the axis, -1 for none: [length].
      use: what the model does with the weight along that axis.
      across: how many inputs, or outputs, of the weight as a matrix a unit spans: for a head its
        width. 1 for weights that are not matrices.
      closes: whether zeros in the weight, and in the others with this mark, are enough for the
        units to have no effect: all that read them, or else all that make them.
    """

    path: str
    axis: int
    units: np.ndarray
    use: Use
    across: int = 1
    closes: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units that have positions on the same axes; each can only be removed from all of them.

    Attributes:
      name: path of the weight that makes the units, and the axis.
      width: how many units.
      members: the axes of weights.
      parameters: of all units together; where two groups cross, both count them.
      held: why they cannot be removed; empty if they can.
      means: where the model takes a sum or a mean over the units, as a layer norm does; empty if
        it does not. After a cut it is over those that are left.
    """

    name: str
    width: int
    members: tuple[UnitAxis, ...]
    parameters: int
    held: str
    means: str
