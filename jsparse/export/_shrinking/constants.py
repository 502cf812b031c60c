"""Which elements of a computation are the same for every input: constants, mostly zeros.

Each array has, per element, a value and whether that value is unknown (it depends on the input). An
unknown element times a known zero is a known zero, so the output of a filter without weights is
known, and so are its bias, normalization and activation.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jsparse.export._shrinking.graph import Body, Graph, Node, Op
from jsparse.export._shrinking.operations import (
    PRODUCTS,
    RAGGED,
    SCATTERS,
    UPDATES,
    bind,
    first_along,
    gathered,
    others,
    shape_of,
    spread,
    touched,
    updated,
)

PASSES = 20  # of a loop's body until what its carry holds is settled


class Known(NamedTuple):
    """Values, 0 where unknown, and where they are unknown: both [...] as the array."""

    value: np.ndarray
    unknown: np.ndarray

    @property
    def nonzero(self) -> np.ndarray:
        """Where the array may be other than 0: [...]."""
        return self.unknown | (self.value != 0)

    def first_along(self, axes: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """The values at position 0 of some axes, and where others along them may differ."""
        first = first_along(self.value, axes)
        differ = self.unknown | (self.value != first)
        return first, np.asarray(differ.any(axis=tuple(axes), keepdims=True))


Knowledge = dict[Node, Known | None]  # None: nothing is known
Seen = dict[Node, list[np.ndarray]]  # see Graph.partly_read


def know(graph: Graph, given: Mapping[str, Known | None]) -> Knowledge:
    """What is known of each node for all finite inputs, given what is known of some variables."""
    found = {node: given[node.path] for node in graph.variables if node.path in given}
    _evaluate_all(graph.ops, found, graph.partly_read())
    return found | {n: _of(n, found) for n in graph.variables}


def _partly(value: np.ndarray, unknown: np.ndarray) -> Known | None:
    """What is known of an array with such values where it is not unknown; None for nothing."""
    if unknown.all():
        return None
    return Known(np.where(unknown, np.zeros((), value.dtype), value), unknown)


def _whatever_is_read(known: Known, seen: list[np.ndarray]) -> Known | None:
    """Known only where the positions that these inputs do not reach have the same value."""
    unknown = known.unknown
    for axis, mask in enumerate(seen):
        if not mask.all():
            first = first_along(known.value, [axis])
            unknown = unknown | (known.value != first).any(axis=axis, keepdims=True)
    return _partly(known.value, unknown)


def nonzero(node: Node, knowledge: Knowledge) -> np.ndarray | None:
    """Where a node may be other than 0, [...] as the node; None for everywhere."""
    known = _of(node, knowledge)
    return None if known is None else known.nonzero


def _of(node: Node, knowledge: Knowledge) -> Known | None:
    if node not in knowledge and node.value is not None:
        knowledge[node] = Known(node.value, np.zeros(node.shape, bool))
    return knowledge.get(node)


def _evaluate_all(ops: Iterable[Op], knowledge: Knowledge, partly: Seen) -> None:
    for op in ops:
        args = [_of(node, knowledge) for node in op.inputs]
        if args and args[0] is not None and op.inputs[0] in partly:
            args[0] = _whatever_is_read(args[0], partly[op.inputs[0]])
        try:
            made = _bodies(op, args, knowledge, partly) if op.bodies else _evaluate(op, args)
        except (TypeError, ValueError, NotImplementedError):
            made = [None] * len(op.outputs)  # some do not run on their own, as on a mesh
        knowledge.update(zip(op.outputs, made, strict=True))


def _evaluate(op: Op, args: list[Known | None]) -> list[Known | None]:
    nothing: list[Known | None] = [None] * len(op.outputs)
    if op.name.startswith("random_") or (args and all(a is None for a in args)):
        return nothing
    if all(a is not None and not a.unknown.any() for a in args):
        made = bind(op, *(a.value for a in args if a is not None))
        return [Known(m, np.zeros(m.shape, bool)) for m in made]
    if op.name == "gather" and (args[1] is None or args[1].unknown.any()):
        return [_gather(op, args[0])]
    if op.name == "dynamic_update_slice" or op.name in SCATTERS:
        return [_updated(op, args)]
    if op.name in PRODUCTS and (zeros := _zeros(op, *args[:2])) is not None:
        return [_partly(np.zeros(op.outputs[0].shape, op.outputs[0].dtype), zeros)]
    given = [
        Known(np.zeros(n.shape, n.dtype), np.ones(n.shape, bool)) if a is None else a
        for n, a in zip(op.inputs, args, strict=True)
    ]
    if op.name == RAGGED or (op.name in PRODUCTS and any(a is None for a in args)):
        unknown = _empty(op, args)
    else:
        unknown = _unknown(op, given)
    if unknown is None or all(u.all() for u in unknown):
        return nothing
    values = [a.value for a in given]
    if op.name == "div":
        values[1] = np.where(given[1].unknown, np.ones((), values[1].dtype), values[1])
    with np.errstate(all="ignore"):
        made = bind(op, *values)
    return [_partly(m, u) for m, u in zip(made, unknown, strict=True)]


def _unknown(op: Op, args: list[Known]) -> list[np.ndarray] | None:
    """Where each output is unknown; None if this operation is not understood.

    A product is unknown where an unknown element meets one that may be other than 0; so it is
    enough to multiply masks, and to count. Example, x [3, 3] times W [3, 3], ? for unknown:

        x: ? 2 0    W: 1 0 0    x W: ? 6 0    x[0, 0] and x[1, 0] reach output 0 alone, x[2, 2]
           ? 2 0       0 3 0         ? 6 0    meets zeros only, and output 2 has no weights.
           0 2 ?       0 0 0         0 6 0
    """
    masks = [a.unknown for a in args]
    if op.name == "div":  # 0 over what may be anything but 0 is 0
        return [masks[0] | (args[0].nonzero & masks[1])]
    if op.name == "mul":
        return [(masks[0] & args[1].nonzero) | (args[0].nonzero & masks[1])]
    if op.name in PRODUCTS:
        plain = {"preferred_element_type": None, "precision": None}
        count = lambda a, b: bind(op, a.astype(np.float32), b.astype(np.float32), **plain)[0]
        return [(count(masks[0], args[1].nonzero) + count(args[0].nonzero, masks[1])) > 0]
    if op.name in ("dynamic_slice", "gather"):
        starts = [a.value for a in args[1:] if not a.unknown.any()]
        whole = len(starts) == len(args) - 1
        return [m > 0 for m in bind(op, masks[0].astype(np.float32), *starts)] if whole else None
    return touched(op, masks)


def _zeros(op: Op, given: Known | None, weight: Known | None) -> np.ndarray | None:
    """Where a product is unknown, if it is 0 elsewhere: [...]; None if that takes its values.

    For the usual layer, whose inputs are unknown or not feature by feature: it is enough to look at
    the features, without computing the product.
    """
    shape = shape_of(op)
    if given is None or weight is None or weight.unknown.any() or op.extra:
        return None
    if len(shape.summed) != 1 or shape.batch:
        return None
    ((mine, theirs),) = shape.summed
    rest = others(given.value.ndim, mine)
    if (given.unknown != first_along(given.unknown, rest)).any():
        return None
    unknown = first_along(given.unknown, rest).ravel()
    known = (given.value != 0).any(axis=rest)
    free = shape.free[1]
    may = (weight.value != 0).any(axis=shape.pinned[1], keepdims=True)
    may = may.transpose(theirs, *free, *shape.pinned[1]).reshape(len(unknown), -1)
    reached = may[unknown].any(axis=0)
    if (may[known].any(axis=0) & ~reached).any():
        return None
    reached = reached.reshape([weight.value.shape[axis] for axis in free])
    return spread(reached, list(free.values()), op.outputs[0].shape)


def holding(known: Known, axis: int, value: float = 0) -> np.ndarray:
    """Positions of an axis at which all elements are known to have this value: [n]."""
    same = ~known.unknown & (known.value == value)
    return np.asarray(same.all(axis=others(same.ndim, axis)))


def _empty(op: Op, args: list[Known | None]) -> list[np.ndarray] | None:
    """Unknown outputs of a product with an unknown factor: all but those of empty features."""
    side = 0 if args[1] is None else 1
    known = args[side]
    if known is None:
        return None
    free = shape_of(op).to_output(side)
    some = np.asarray(known.nonzero.any(axis=others(known.value.ndim, *free)))
    if some.all():
        return None
    return [spread(some, [free[axis] for axis in sorted(free)], op.outputs[0].shape)]


def _gather(op: Op, rows: Known | None) -> Known | None:
    """Rows at unknown positions: what all rows have in common, such as columns of an embedding."""
    if rows is None or 0 in rows.value.shape:
        return None
    rest, onto = gathered(op)
    first, differ = rows.first_along(rest)
    return _partly(onto(first), onto(differ))


def _updated(op: Op, args: list[Known | None]) -> Known | None:
    """An array of which parts are overwritten, or added to, at places that may be anywhere.

    Along axes that the updates take whole, a position is known if all updates there leave it as it
    is: zeros that are added, or the same values.
    """
    whole, update = args[0], args[UPDATES[op.name]]
    if whole is None or update is None:
        return None
    if op.name in SCATTERS and (at := args[1]) is not None and not at.unknown.any():
        return _scattered(op, whole, at.value, update)
    if update.value.size == 0:
        return whole
    rest, onto = updated(op)
    first, differ = update.first_along(rest)
    idle = {"scatter-add": 0, "scatter-sub": 0, "scatter-mul": 1}.get(op.name)
    same = onto(first) == (whole.value if idle is None else idle)
    return _partly(whole.value, whole.unknown | onto(differ) | ~same)


def _scattered(op: Op, whole: Known, places: np.ndarray, update: Known) -> Known | None:
    """The same at known places: unknown is what an unknown element is put or added to."""
    touched = jax.lax.scatter_add(
        whole.unknown.astype(np.float32),
        places,
        update.unknown.astype(np.float32),
        op.params["dimension_numbers"],
        mode=op.params["mode"],
    )
    (made,) = bind(op, whole.value, places, update.value)
    return _partly(made, np.asarray(touched) > 0)


def _bodies(
    op: Op, args: list[Known | None], knowledge: Knowledge, partly: Seen
) -> list[Known | None]:
    """What loops and branches compute, whichever is taken and however often."""
    ran = [_run(body, args, knowledge, partly) for body in op.bodies if body.makes]
    made = [functools.reduce(_join, several) for several in zip(*ran, strict=True)]
    length = op.params.get("length", 0)  # of a scan
    stacked = op.bodies[-1].stacked
    return [
        k and Known(*(np.broadcast_to(part, (length, *part.shape)) for part in k))
        if n in stacked
        else k
        for n, k in enumerate(made)
    ]


def _run(
    body: Body, args: list[Known | None], knowledge: Knowledge, partly: Seen
) -> list[Known | None]:
    """What a body computes identically at each step; for what it carries, also at the start."""
    given = [_common(args[n]) if k in body.sliced else args[n] for k, n in enumerate(body.reads)]
    made: list[Known | None] = []
    for attempt in range(PASSES + 1):
        knowledge.update(zip(body.inputs, given, strict=True))
        _evaluate_all(body.ops, knowledge, partly)
        made = [_of(node, knowledge) for node in body.outputs]
        joined = {k: _join(given[k], made[o]) for o, k in body.carried.items()}
        if all(_same(given[k], known) for k, known in joined.items()):
            break
        for k, known in joined.items():
            given[k] = known if attempt < PASSES - 1 else None
    return [given[body.carried[o]] if o in body.carried else m for o, m in enumerate(made)]


def _common(stack: Known | None) -> Known | None:
    """What the slices along the first axis have in common."""
    if stack is None or not len(stack.value):
        return None
    first, differ = stack.first_along([0])
    return _partly(first[0], differ[0])


def _join(a: Known | None, b: Known | None) -> Known | None:
    if a is None or b is None:
        return None
    return _partly(a.value, a.unknown | b.unknown | (a.value != b.value))


def _same(a: Known | None, b: Known | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool((a.unknown == b.unknown).all())
