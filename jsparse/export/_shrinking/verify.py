"""Whether the smaller model computes the same: operation by operation, then by its outputs."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.graph import Graph, Node, Op
from jsparse.export._shrinking.liveness import Removal

SIZES = {"new_sizes", "shape", "slice_sizes"}  # follow from the shapes of inputs and outputs
OTHER = {"ft_in", "ft_out", "jaxpr", "sharding", "out_sharding", "linear", "_split_transpose"}
OTHER |= {"cond_jaxpr", "body_jaxpr", "branches"}  # walked through


@dataclasses.dataclass(frozen=True)
class Fault:
    """Where a smaller computation is not the cut one.

    Attributes:
      text: what is wrong.
      op: of the full-size computation at which it shows; None if the outputs differ.
      nodes: of that computation in which something was removed that must stay.
      factor: by which a number that the operation reads changes; 0 if that is not what is wrong.
      sure: whether it is this operation; else others are more likely by their calls.
    """

    text: str
    op: Op | None = None
    nodes: tuple[Node, ...] = ()
    factor: float = 0.0
    sure: bool = True


Numbers = Mapping[Op, float]
"""By which factor the number changes that an operation of the full-size computation reads."""


def faults(old: Graph, new: Graph, removal: Removal, numbers: Numbers) -> list[Fault]:
    """How two computations differ beyond the cut itself; empty if they do not.

    Each operation of the new one must be that of the old one, on the cut inputs and with the same
    constants but for those that have to change: then its outputs are those of the old one, cut. A
    division by the number of features, or a slice at a fixed position, is found here. All faults
    are found that do not change which operations follow.
    """
    pairs: dict[Node, Node] = {}
    found = []
    for a, b in zip(old.variables + old.inputs, new.variables + new.inputs, strict=True):
        pairs[a] = b
        if b.shape != removal.kept_shape(a):
            text = f"{a.path} has shape {b.shape}, not {removal.kept_shape(a)}"
            found.append(Fault(text, None, (a,)))
    found += _walk(old.ops, new.ops, pairs, removal, numbers)
    if len(old.outputs) != len(new.outputs):
        return [*found, Fault("the smaller model has other outputs", None, tuple(old.outputs))]
    for a, b in zip(old.outputs, new.outputs, strict=True):
        if _apart(a, b, pairs, removal):
            found.append(Fault("an output of the smaller model is another value", None, (a,)))
    return found


def _walk(
    old: Sequence[Op],
    new: Sequence[Op],
    pairs: dict[Node, Node],
    removal: Removal,
    numbers: Numbers,
) -> list[Fault]:
    found: list[Fault] = []
    for a, b in zip(old, new, strict=False):
        if a.name != b.name or len(a.inputs) != len(b.inputs):
            text = f"is not reached: the smaller model calls `{b.name}` in its place"
            return [*found, Fault(text, a, (*a.inputs, *a.outputs))]
        for x, y in zip(a.outputs, b.outputs, strict=True):
            pairs[x] = y
        found += _changed(a, b, pairs, removal, numbers.get(a, 1.0))
        for one, other in zip(a.bodies, b.bodies, strict=True):
            pairs.update(zip(one.inputs, other.inputs, strict=True))
            found += _walk(one.ops, other.ops, pairs, removal, numbers)
            for x, y in zip(one.outputs, other.outputs, strict=True):
                if _apart(x, y, pairs, removal):
                    found.append(Fault("would return another value", a, (x,)))
    if len(old) > len(new):
        op = old[len(new)]
        found.append(Fault("has no counterpart in the smaller model", op, tuple(op.inputs)))
    elif len(old) < len(new):
        found.append(Fault("the smaller model has more operations"))
    return found


def _changed(a: Op, b: Op, pairs: dict[Node, Node], removal: Removal, factor: float) -> list[Fault]:
    """The faults at one operation, which reads a number that changes by a factor."""
    found = []
    for x, y in zip(a.inputs, b.inputs, strict=True):
        now = _factor(x, y)
        if factor != 1 and now:
            fault = abs(now / factor - 1) > 8 * float(jnp.finfo(x.dtype).eps)
        else:
            fault = _apart(x, y, pairs, removal)
        if fault:
            others = tuple(n for n in a.inputs if n is not x)
            found.append(Fault(_other_value(a, x, y), a, others, now))
    for name, value in _expected(a, removal).items():
        if not _equal(value, b.params.get(name)):
            text = f"has {name} {b.params.get(name)} in the code, where {value} would be right"
            found.append(Fault(text, a, tuple(a.inputs)))
    for x, y in zip(a.outputs, b.outputs, strict=True):
        if y.shape != removal.kept_shape(x):
            text = (
                f"gives shape {y.shape} by the code, where {removal.kept_shape(x)} would be right"
            )
            found.append(Fault(text, a, (x,)))
    return found


def _other_value(op: Op, x: Node, y: Node) -> str:
    if x.value is not None and y.value is not None and x.value.size == y.value.size == 1:
        return f"reads the constant {x.value.item()}, which would become {y.value.item()}"
    if op.name == "dot_general" and x.value is None:
        return "would read another value (the sizes decide in which order an einsum multiplies)"
    return "would read another value"


def _factor(x: Node, y: Node) -> float:
    if x.value is None or y.value is None or not x.value.size == y.value.size == 1:
        return 0.0
    if not jnp.issubdtype(x.dtype, jnp.floating) or not float(x.value.item()):
        return 0.0
    return float(y.value.item()) / float(x.value.item())


def _apart(a: Node, b: Node, pairs: dict[Node, Node], removal: Removal) -> bool:
    """Whether the new node is not the old one after the cut."""
    if a.key:
        return a.key != b.key
    if a in pairs or a.value is None:
        return pairs.get(a) is not b
    if b.value is None or b.path:
        return True
    kept = [removal.kept(a, axis) for axis in range(len(a.shape))]
    return not _equal(a.value[np.ix_(*kept)] if kept else a.value, b.value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | jax.Array) or isinstance(b, np.ndarray | jax.Array):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if hasattr(a, "eqns"):  # jaxprs are equal only to themselves
        texts = [re.sub("0x[0-9a-f]+", "", str(jaxpr)) for jaxpr in (a, b)]
        return texts[0] == texts[1] and _equal(getattr(a, "consts", ()), getattr(b, "consts", ()))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)  # the second: both are nan


def _expected(op: Op, removal: Removal) -> dict[str, Any]:
    """The settings of an operation after the cut, without those that only name sizes."""
    expected = {
        name: value
        for name, value in op.params.items()
        if name not in SIZES | OTHER and not callable(value)
    }
    if op.name == "slice":
        before = [
            np.concatenate([[0], np.cumsum(removal.kept(op.inputs[0], axis))])
            for axis in range(len(op.inputs[0].shape))
        ]
        for name in ("start_indices", "limit_indices"):
            at = zip(before, op.params[name], strict=True)
            expected[name] = tuple(int(b[int(i)]) for b, i in at)
    elif op.name == "split":
        along = op.params["axis"]
        expected["sizes"] = tuple(removal.kept_shape(node)[along] for node in op.outputs)
    elif op.extra:
        expected["feature_group_count"] = removal.kept_shape(op.extra[0])[0]
    return expected


def apart(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The difference between arrays, as a share of the largest entry; inf if shapes differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return float("inf")
        wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gaps = np.abs(np.subtract(a, b, out=np.zeros_like(a), where=~same))  # inf - inf warns
        scale = np.abs(a, where=np.isfinite(a), out=np.zeros(a.shape)).max(initial=0.0)
        largest = gaps.max(initial=0.0) / max(scale, 1e-30)
        worst = max(worst, float("inf") if np.isnan(largest) else float(largest))
    return worst


def rounding(leaves: Iterable[Any]) -> float:
    """How far rounding may move outputs of a model, as a share of the largest.

    Of the arrays in the model, the least precise dtype counts.
    """
    kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return min(0.1, 1e3 * max([float(jnp.finfo(kind).eps) for kind in kinds], default=0.0))
