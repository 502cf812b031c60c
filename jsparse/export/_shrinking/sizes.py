"""How large a model is without some units, from shapes alone, and which widths groups may have."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from flax import nnx

from jsparse.export._shrinking.graph import Graph, Op
from jsparse.export._shrinking.liveness import Removal
from jsparse.export._shrinking.operations import PRODUCTS, shape_of


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The size of a model.

    Attributes:
      shapes: of its weights, by path.
      operations: multiplications of its products for the example inputs; what a convolution
        multiplies with padding counts, a `while` loop counts as one step and a branch as the
        largest.
      model: returns the smaller model itself, for costs that only a run shows.
    """

    shapes: Mapping[str, tuple[int, ...]]
    operations: float
    model: Callable[[], nnx.Module]

    @property
    def parameters(self) -> int:
        """How many entries the weights have, statistics of normalizations included."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def sizes_after(graph: Graph, removal: Removal, model: Callable[[], nnx.Module]) -> Sizes:
    """The size of what is left; `model` gives it."""
    weights = [node for node in graph.variables if node.value is not None and node.path]
    shapes = {node.path: removal.kept_shape(node) for node in weights}
    return Sizes(shapes, _products(graph.ops, removal), model)


def _products(ops: Iterable[Op], removal: Removal) -> float:
    total = 0.0
    for op in ops:
        if op.bodies:
            inner = [_products(body.ops, removal) for body in op.bodies]
            branches = op.name == "cond"
            total += (max(inner) if branches else sum(inner)) * op.params.get("length", 1)
        elif op.name in PRODUCTS:
            total += _product(op, removal)
    return total


def _product(op: Op, removal: Removal) -> float:
    out = math.prod(removal.kept_shape(op.outputs[0]))
    kernel = removal.kept_shape(op.inputs[1])
    if op.name != "conv_general_dilated":
        return out * math.prod(kernel[pair[1]] for pair in shape_of(op).summed)
    made = kernel[op.params["dimension_numbers"].rhs_spec[0]]
    spread = math.prod(op.params["lhs_dilation"])
    return out * math.prod(kernel) / max(made, 1) / spread


class Narrowed(NamedTuple):
    """A group that loses units in steps.

    Attributes:
      width: of the whole group.
      step: how many of its units are removed at once.
      stay: how many must stay.
      across: how much of a side of each matrix a unit is.
    """

    width: int
    step: int
    stay: int
    across: Collection[int]


@dataclasses.dataclass(frozen=True)
class Widths:
    """At least `least`, and multiples as sides of matrices."""

    least: int
    round_to: int

    def steps(self, wanted: float, groups: Collection[Narrowed]) -> int:
        """The allowed number of steps nearest to the wanted one; of two, the smaller one.

        Example:
          >>> alone = lambda width, wanted, across: width - Widths(1, 8).steps(
          ...     width - wanted, [Narrowed(width, 1, 0, [across])]
          ... )
          >>> [alone(20, wanted, 1) for wanted in (20, 10, 12, 2)]
          [20, 8, 16, 8]
          >>> [alone(6, 3, size) for size in (1, 4, 16)]  # of a matrix
          [6, 4, 3]
        """
        most = min((one.width - max(self.least, one.stay, 1)) // one.step for one in groups)
        allowed = [*range(1, most + 1)]
        for one in groups:
            multiple = math.lcm(*(self.round_to // math.gcd(self.round_to, k) for k in one.across))
            allowed = [n for n in allowed if (one.width - n * one.step) % multiple == 0]
        return min([0, *allowed], key=lambda n: (abs(n - wanted), n))
