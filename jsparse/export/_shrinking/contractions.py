"""Matrix products and convolutions: where a unit stops mattering.

1. A position that is summed over is removable where each product that reaches a kept output is 0
   whatever the input: the incoming weights, or the outgoing ones, are zeros.
2. It is also removable where it is constant, if a bias follows that can absorb it (`sinks`).
3. A position that is not summed over is removed only together with the output.
"""

import numpy as np

from jsparse.export._shrinking.constants import Knowledge, nonzero
from jsparse.export._shrinking.graph import Op
from jsparse.export._shrinking.liveness import COUNTS, NEEDS_WHOLE, WHOLE, Reason, Removal, Ties
from jsparse.export._shrinking.operations import Shape, along, others, shape_of

GROUPS = "gives each group equally many inputs, so one is removed only if it is dead in all groups"


def tie_product(op: Op, removal: Removal, knowledge: Knowledge, foldable: np.ndarray) -> None:
    """Apply what a product demands.

    `foldable`: positions of its only summed axis that may be removed as constants, [n], or [].
    """
    shape = tie_unsummed(op, removal)
    if shape is None:
        return
    if op.extra:
        _narrow_groups(op, removal, knowledge, shape)
        return
    a, b = op.inputs[:2]
    for k, (x, y) in enumerate(shape.summed):
        useless = ~_counts(op, removal, knowledge, shape, k)
        removal.narrow(a, x, useless | foldable)
        removal.tie([(a, x)], [(b, y)])


def tie_unsummed(op: Op, ties: Ties) -> Shape | None:
    """Apply what a product demands of all axes but those that it sums over alone.

    Returns what its axes mean; None where all of them stay whole.
    """
    a, b = op.inputs[:2]
    out = op.outputs[0]
    ties.because(Reason(WHOLE, op, NEEDS_WHOLE))
    if op.params.get("batch_group_count", 1) > 1:
        for node in (a, b, out):
            ties.pin(node)
        return None
    for node in op.inputs[2:]:  # the sizes of groups
        ties.pin(node)
    shape = shape_of(op)
    for node, axes in zip((a, b, out), shape.pinned, strict=True):
        for axis in axes:
            ties.pin(node, axis)
    ties.because(Reason(COUNTS, op))
    for x, y, z in shape.batch:
        ties.tie([(a, x)], [(b, y)], [(out, z)])
    if op.extra:
        _tie_groups(op, ties, shape)
        return shape
    for factor, free in zip((a, b), shape.free, strict=True):
        for axis, to in free.items():
            ties.tie([(factor, axis)], [(out, to)])
    return shape


def _counts(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape, which: int) -> np.ndarray:
    """Which positions of a summed axis reach something that is kept: [n].

    Example: A [3, 3] times B [3, 3], summed over k, * for what may be other than 0. Position 0 of k
    is nowhere in A, and position 2 reaches only output 2, which is removed already:

        A: . * .    B: * * *    kept outputs: 0, 1    counts: k = 1 alone
           . * *       * . .
           . * .       . . *
    """
    pairs = [*shape.summed, *((x, y) for x, y, _ in shape.batch)]
    order = [pairs[which], *(pair for k, pair in enumerate(pairs) if k != which)]
    both = np.ones([op.inputs[0].shape[x] for x, _ in order], bool)
    for side, free in enumerate(shape.free):
        may = nonzero(op.inputs[side], knowledge)
        if may is None:
            continue
        for axis, to in free.items():
            kept = removal.kept(op.outputs[0], to)
            may = may if kept.all() else may & along(kept, axis, may.ndim)
        axes = [pair[side] for pair in order]
        rest = others(may.ndim, *axes)
        both &= may.transpose(*axes, *rest).any(axis=tuple(range(len(axes), may.ndim)))
    for k, (x, _, _) in enumerate(shape.batch, len(shape.summed)):
        both = both & along(removal.kept(op.inputs[0], x), k, both.ndim)
    return np.asarray(both.any(axis=tuple(range(1, both.ndim))))


def _tie_groups(op: Op, ties: Ties, shape: Shape) -> None:
    """A grouped convolution: whole groups are removed, or the same channel of each group.

    The input channels are a grid of groups and inputs of a group; the output channels of groups and
    outputs of a group.
    """
    (a, b), out = op.inputs[:2], op.outputs[0]
    groups, width = op.extra
    ((channel, inner),) = shape.summed
    ((outer, made),) = shape.free[1].items()
    for axis, to in shape.free[0].items():
        ties.tie([(a, axis)], [(out, to)])
    ties.tie([(a, channel)], [(groups, 0), (b, inner)])
    ties.tie([(out, made)], [(b, outer)], [(groups, 0), (width, 0)])


def _narrow_groups(op: Op, removal: Removal, knowledge: Knowledge, shape: Shape) -> None:
    """1. and 3. of the file for the inputs of a group of a convolution: [groups, inner]."""
    a, b = op.inputs[:2]
    groups = op.extra[0]
    ((channel, inner),) = shape.summed
    (outer,) = shape.free[1]
    count, depth = groups.shape[0], b.shape[inner]
    reaches = np.ones((count, depth), bool)
    may = nonzero(a, knowledge)
    if may is not None:
        reaches &= may.any(axis=others(may.ndim, channel)).reshape(count, depth)
    may = nonzero(b, knowledge)
    if may is not None:
        flat = np.moveaxis(may, (outer, inner), (0, 1)).reshape(b.shape[outer], depth, -1)
        kept = removal.kept(b, outer)[:, None]
        reaches &= (flat.any(axis=2) & kept).reshape(count, -1, depth).any(axis=1)
    counts = np.asarray(reaches[removal.kept(groups, 0)])
    if not counts.all(axis=0).all():
        removal.because(Reason(WHOLE, op, GROUPS))
    removal.narrow(b, inner, np.asarray(~counts.any(axis=0)))
