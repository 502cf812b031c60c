"""Sizes found by trying, and factors, tested on inputs of other shapes than the example's.

An int that is a width may also be the limit of a length, which a short example does not show. A
number that weights compensate for may follow a width and a length together.

1. Find the axes of the inputs that may have another length: the model can be traced with twice
   theirs, or else with half of it.
2. Give them short lengths, those of the new and the old size, and long ones. Lengths of 1 are
   neither given nor replaced, as JAX then does other operations.
3. There the smaller model must do the same operations as the full one. Each length or setting in
   which they differ must differ as it does at this place of the code in the example: by the same
   factor, or by the same amount. A weight compensates for a constant that differs, so elsewhere it
   must differ by the same factor, and be equal only where it is in the example.
4. Of factors alone, the smaller model is traced only if the number in the full one changes with the
   lengths. A short one, a long one and twice the example's show that.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.source import called
from jsparse.export._shrinking.tracing import trace
from jsparse.export._shrinking.verify import OTHER, SIZES

MOVES = {"broadcast_in_dim", "dot_general", "reshape", "squeeze", "transpose"}
"""Operations that JAX replaces by others where an axis inside the model has a length of 1."""
SAME = {("times", 1.0)}
UNROLLED = 4  # times the example's length, beyond which code that loops over it is not traced
Axes = tuple[tuple[int, int], ...]
"""Axes of inputs that have one length: the number of the input, and the axis."""
Changes = dict[tuple, set[tuple[str, float]]]
"""How a number changes between two computations, by the place of its operation and its position."""
Constants = dict[tuple, set[float]]
"""The numbers that the code holds, by the place of the operation that reads them."""


class OtherShapes:
    """The full model on inputs of other shapes than those of the example, each traced once."""

    def __init__(self, model: nnx.Module, inputs: tuple, graph: Graph):
        self._model, self._graph = model, graph
        self._leaves, self._form = jax.tree.flatten(inputs)
        self._traced: dict[tuple, tuple[tuple, Graph | None]] = {}
        self._constants = functools.cache(_constants)

    def first_difference(
        self, small: nnx.Module, graph: Graph, lengths: Collection[int]
    ) -> tuple[str, Op | None] | None:
        """The inputs, and the operation, for which a smaller model does not follow the full one.

        `graph` is what the smaller model computes for the example; axes of the inputs get each of
        the lengths. None if it follows everywhere; no operation where its code fails.
        """
        changes: Changes = {}
        for length in sorted(lengths):
            for inputs, full in self._resized(length):
                changes = changes or _changes(self._graph.all_ops, graph.all_ops)
                arrays = filter(_resizable_axes, jax.tree.leaves(inputs))
                shapes = ", ".join(str(array.shape) for array in arrays)
                try:
                    found = trace(small, inputs)
                except Exception:  # the model's own code may raise anything
                    return shapes, None
                if (op := _first_difference(full.all_ops, found.all_ops, changes)) is not None:
                    return shapes, op
        return None

    def changed_by_lengths(self, ops: Iterable[Op], lengths: Iterable[int]) -> list[Op]:
        """Those of some operations of the example that read other numbers at other lengths."""
        for length in lengths:
            list(self._resized(length))
        graphs = [graph for _, graph in self._traced.values() if graph is not None]
        here, others = self._constants(self._graph), list(map(self._constants, graphs))
        return [op for op in ops if any(here[_place(op)] != one.get(_place(op)) for one in others)]

    def doubled(self) -> set[int]:
        """Twice the lengths of axes that may be longer; code may take multiples alone."""
        return {2 * self._leaves[n].shape[axis] for one in self._flexible for n, axis in one}

    def _resized(self, length: int) -> Iterator[tuple[tuple, Graph]]:
        """Inputs with this length along all axes that may have it, or else along each alone."""
        axes = [one for one, most in self._flexible.items() if length <= most]
        together = tuple(axis for one in axes for axis in one)
        for one in (together, *axes) if axes else ():
            inputs, graph = self._with_length(one, length)
            if graph is not None:
                yield inputs, graph
                if one is together:
                    return

    @functools.cached_property
    def _flexible(self) -> dict[Axes, float]:
        """The axes that may have other lengths, those of one length together, and the greatest."""
        same: dict[int, list[tuple[int, int]]] = {}
        for n, leaf in enumerate(self._leaves):
            for axis in _resizable_axes(leaf):
                same.setdefault(leaf.shape[axis], []).append((n, axis))
        same.pop(1, None)
        found = {}
        for length, axes in same.items():
            for one in (tuple(axes), *((axis,) for axis in axes)):
                if (most := self._greatest(one, length)) > 0:
                    found[one] = most
                    if one == tuple(axes):
                        break
        return found

    def _greatest(self, axes: Axes, length: int) -> float:
        """The greatest length to try along axes; 0 if they can only have that of the example."""
        _, graph = self._with_length(axes, 2 * length)
        if graph is None:  # the example may have the greatest, as that of learned positions
            return length if length > 3 and self._with_length(axes, length // 2)[1] else 0
        loops = len(graph.all_ops) > len(self._graph.all_ops)
        return UNROLLED * length if loops else np.inf

    def _with_length(self, axes: Axes, length: int) -> tuple[tuple, Graph | None]:
        """Inputs with a length along axes, and what the model computes; None if it takes none."""
        key = axes, length
        if key not in self._traced:
            leaves = list(self._leaves)
            for n, axis in axes:
                shape = list(leaves[n].shape)
                shape[axis] = length
                leaves[n] = np.zeros(shape, leaves[n].dtype)  # only shapes count
            inputs = jax.tree.unflatten(self._form, leaves)
            try:
                self._traced[key] = inputs, trace(self._model, inputs)
            except Exception:  # the model's own code may raise anything
                self._traced[key] = inputs, None
        return self._traced[key]


def _resizable_axes(leaf: Any) -> range:
    """The axes that may get another length."""
    array = isinstance(leaf, jax.Array | np.ndarray)
    return range(leaf.ndim if array and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else 0)


def _changes(old: Sequence[Op], new: Sequence[Op]) -> Changes:
    """How the numbers at each place change from one computation to the other."""
    found: Changes = {}
    for a, b in zip(old, new, strict=True):
        if a.name in MOVES:
            found.setdefault(_place(a), set())
        for place, change in _numbers(a, b):
            found.setdefault(place, set()).update(change)
    return found


def _first_difference(old: Sequence[Op], new: Sequence[Op], changes: Changes) -> Op | None:
    """The first operation whose numbers change in another way, or that has no counterpart."""
    for a, b in zip(old, new, strict=False):
        if a.name != b.name or len(a.inputs) != len(b.inputs):
            return a
        for place, change in _numbers(a, b):
            known = place in changes or not (a.name in MOVES or change == SAME)
            rounding = _rounding(a) if "constant" in place else 0.0
            if known and not _alike(change, changes.get(place, set()), rounding):
                return a
    longer = max(old, new, key=len)
    return longer[min(len(old), len(new))] if len(old) != len(new) else None


def _numbers(a: Op, b: Op) -> Iterator[tuple[tuple, set[tuple[str, float]]]]:
    """How lengths and settings change that differ, and all constants, by place."""
    where = _place(a)
    for n, (x, y) in enumerate(zip(_sizes(a), _sizes(b), strict=False)):
        if (times := _ratio(x, y)) != 1:
            place = where if a.name in MOVES else (*where, n)
            yield place, {("plus", round(y - x, 9)), ("times", times)}
    for n, pair in enumerate(zip(a.inputs, b.inputs, strict=True)):
        x, y = map(_constant, pair)
        if x is not None and y is not None:
            yield (*where, "constant", n), {("times", _ratio(x, y))}


def _alike(change: set[tuple[str, float]], known: set[tuple[str, float]], rounding: float) -> bool:
    """Whether a change is among those that are known, up to rounding."""
    pairs = [(a, b) for how, a in change for name, b in known if how == name]
    return any(a == b or abs(a - b) <= rounding * abs(b) for a, b in pairs)


def _rounding(op: Op) -> float:
    """By how much two ratios of constants may differ that would be equal, if rounded as here."""
    kinds = [node.dtype for node in op.inputs if jnp.issubdtype(node.dtype, jnp.floating)]
    return 2 * max((float(jnp.finfo(kind).eps) for kind in kinds), default=0.0)


def _ratio(x: float, y: float) -> float:
    if x == y or (x != x and y != y):  # two nan are the same
        return 1.0
    return float(f"{y / x:.9g}") if x else np.inf


def _place(op: Op) -> tuple:
    """Its call in the model: what is inside a cached function has the place of its first call."""
    return op.name, *((frame.file, frame.line) for frame in called(op.source[:1]))


def _sizes(op: Op) -> list[float]:
    """Lengths and settings."""
    arrays = [*op.outputs, *(n for n in op.inputs if n.value is not None and not n.path)]
    settings = {n: v for n, v in op.params.items() if n not in SIZES | OTHER}
    numbers = [v for v in jax.tree.leaves(settings) if isinstance(v, int | float)]
    return [float(n) for node in arrays for n in node.shape] + [float(v) for v in numbers]


def _constants(graph: Graph) -> Constants:
    found: Constants = {}
    for op in graph.all_ops:
        if values := {v for node in op.inputs if (v := _constant(node)) is not None}:
            found.setdefault(_place(op), set()).update(values)
    return found


def _constant(node: Node) -> float | None:
    """A number that the code holds."""
    if node.value is None or node.path or node.value.size != 1 or jnp.iscomplexobj(node.value):
        return None
    return float(node.value.item())
