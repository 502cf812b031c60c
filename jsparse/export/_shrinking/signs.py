"""Which arrays are at least 0, whatever the weights and the inputs are.

Zeros change nothing in a maximum over others that are at least 0, as in the spatial attention of
CBAM behind a ReLU.
"""

from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.constants import Knowledge, holding
from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.operations import (
    CUMULATIVE,
    NEUTRAL,
    REDUCTIONS,
    STRUCTURAL,
    WINDOWS,
)

POSITIVE = {"abs", "exp", "exp2", "logistic", "square", "sqrt", "rsqrt", "cosh", "erfc"}
# of what is at least 0
KEEPING = {"add", "add_any", "mul", "div", "min", "pow", "integer_pow", "pad", "sort", "copy"}
KEEPING |= {"copy_p", "convert_element_type", "stop_gradient", "reduce_precision", "name", "floor"}
KEEPING |= {"ceil", "round", "tanh", "expm1", "log1p", "erf", "atan", "sinh", "asinh", "cbrt"}
KEEPING |= {"sharding_constraint", "reshard", "pvary", "reduce_window_min"}
KEEPING |= STRUCTURAL | REDUCTIONS | CUMULATIVE | WINDOWS
KEEPING -= {"cumlogsumexp"}


def not_negative(graph: Graph) -> set[Node]:
    """The arrays without a negative element; those that loops make are left out."""
    found: set[Node] = set()
    for op in graph.all_ops:
        found.update(node for node in op.inputs if _constant(node))
        if _makes(op, found):
            found.update(op.outputs)
        for body in op.bodies:
            found.update(inner for inner, outer in body.uncarried(op) if outer in found)
    return found


def neutral(
    knowledge: Knowledge, not_negative: Collection[Node], op: Op, node: Node, axis: int
) -> np.ndarray:
    """Positions of an axis that change nothing where it is reduced, as zeros do in a sum: [n].

    So do zeros in a maximum of an array in `not_negative`, whose elements are all at least 0.
    """
    known = knowledge.get(node)
    idle = NEUTRAL | ({"reduce_max": 0} if node in not_negative else {})
    reduced = op.name in idle and node is op.inputs[0] and axis in op.params["axes"]
    if known is None or not reduced:
        return np.zeros(node.shape[axis], bool)
    return holding(known, axis, idle[op.name])


def _constant(node: Node) -> bool:
    real = node.value is not None and not node.path and node.value.dtype.kind != "c"
    return real and bool(np.all(np.asarray(node.value) >= 0))


def _makes(op: Op, found: set[Node]) -> bool:
    if any(jnp.issubdtype(node.dtype, jnp.signedinteger) for node in op.outputs):
        return False  # they wrap around
    known = [node in found for node in op.inputs]
    match op.name:
        case "max":
            return any(known)
        case "clamp":  # (lowest, array, highest)
            return known[2] and (known[0] or known[1])
        case "select_n":
            return all(known[1:])
        case "integer_pow" if op.params["y"] % 2 == 0:
            return True
        case name if name in KEEPING:
            return all(known)
    return op.name in POSITIVE
