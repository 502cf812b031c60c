"""A model without some units, and what is tested in it besides its operations."""

import dataclasses
from typing import Any

import numpy as np

from jsparse.export._shrinking.attributes import Attributes
from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.graph import Graph, Op
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.terms import ops_losing_terms, zeroed
from jsparse.export._shrinking.verify import Fault, apart, rounding

LOSES = "would lose terms other than 0 if they are cut"


@dataclasses.dataclass(frozen=True)
class Smaller:
    """A model without some units, and what it computes.

    Attributes:
      guessed: the attributes that were found by trying.
      factors: that weights were multiplied by, by path, as a number in the code follows a width.
      means: sums over units that are divided by how many are left.
      faults: where it does not compute what the full model would without these units.
    """

    model: Any
    graph: Graph
    removal: Removal
    cuts: dict[str, Cut]
    attributes: Attributes
    guessed: Attributes
    factors: dict[str, float]
    means: frozenset[Op]
    faults: list[Fault]


def same_sums(full: Graph, small: Smaller) -> list[Fault]:
    """A fault at each operation that loses terms which are not 0 even if the units are zeros."""
    ops = ops_losing_terms(full, small.removal, small.cuts)
    return [Fault(LOSES, op, tuple(op.inputs)) for op in ops if op not in small.means]


def same_outputs(full: Graph, small: Smaller) -> list[Fault]:
    """A fault if the outputs are not those with zeros; none where a mean may change them."""
    if small.means:
        return []
    expected, found = full.run(zeroed(full, small.cuts, {})), small.graph.run({})
    off = apart(expected, found)
    if off <= rounding(full.nodes()):
        return []
    finite = lambda arrays: all(np.isfinite(array).all() for array in arrays)
    if not finite(expected) and finite(found):
        return [Fault("gives NaN or infinite outputs with zeros in place of units, as for 0 / 0")]
    return [Fault(f"gives outputs that are off by {off:.1e} of the largest if they are cut")]
