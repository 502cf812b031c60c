"""Whether the smaller model computes the same: operation by operation, then by its outputs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._pure import evaluated
from jsparse.export._shrinking.graph import Graph, Node, Op, call
from jsparse.export._shrinking.liveness import Removal

SIZES = {"new_sizes", "shape", "slice_sizes"}  # follow from the shapes of inputs and outputs
OTHER = {"ft_in", "ft_out", "jaxpr", "sharding", "out_sharding", "linear", "_split_transpose"}


def difference(old: Graph, new: Graph, removal: Removal) -> str:
    """How two computations differ beyond the cut itself; empty if they do not.

    Each operation of the new one must be that of the old one, on the cut inputs and with the same
    constants: then its outputs are those of the old one, cut. A division by the number of features,
    or a slice at a fixed position, is found here.
    """
    pairs: dict[Node, Node] = {}
    for a, b in zip(old.variables + old.inputs, new.variables + new.inputs, strict=True):
        pairs[a] = b
        if b.shape != removal.kept_shape(a):
            return f"{a.path} has shape {b.shape}, not {removal.kept_shape(a)}"
    found = _walk(old.ops, new.ops, pairs, removal)
    ends = zip(old.outputs, new.outputs, strict=True)
    return found or ("outputs differ" if any(_apart(a, b, pairs, removal) for a, b in ends) else "")


def _walk(old: Iterable[Op], new: Iterable[Op], pairs: dict[Node, Node], removal: Removal) -> str:
    old, new = list(old), list(new)
    if [op.name for op in old] != [op.name for op in new]:
        return "other operations"
    for a, b in zip(old, new, strict=True):
        if len(a.inputs) != len(b.inputs) or any(
            _apart(x, y, pairs, removal) for x, y in zip(a.inputs, b.inputs, strict=True)
        ):
            return f"{a.name} reads other values"
        if a.body is not None and b.body is not None:
            pairs.update(zip(a.body.inputs, b.body.inputs, strict=True))
            inner = _walk(a.body.ops, b.body.ops, pairs, removal)
            ends = zip(a.body.outputs, b.body.outputs, strict=True)
            if inner or any(_apart(x, y, pairs, removal) for x, y in ends):
                return inner or "a scan returns other values"
        for name, value in _expected(a, removal).items():
            if not _equal(value, b.params.get(name)):
                return f"{a.name}: {name} is {b.params.get(name)}, not {value}"
        for x, y in zip(a.outputs, b.outputs, strict=True):
            pairs[x] = y
            if y.shape != removal.kept_shape(x):
                return f"{a.name}: a shape of {y.shape}, not {removal.kept_shape(x)}"
    return ""


def _apart(a: Node, b: Node, pairs: dict[Node, Node], removal: Removal) -> bool:
    """Whether the new node is not the old one after the cut."""
    if a in pairs or a.value is None:
        return pairs.get(a) is not b
    if b.value is None or b.path:
        return True
    return not _equal(a.value, b.value)


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


def largest_difference(old: nnx.Module, new: nnx.Module, inputs: tuple) -> float:
    """How far the outputs are apart in eval mode, as a share of the largest output."""
    results = []
    for model in (old, new):
        run, variables, arrays = call(evaluated(model), inputs)
        output = jax.jit(lambda *given, run=run: run(*given)[0])
        results.append(jax.tree.leaves(output(variables, arrays)))
    return apart(*results)


def apart(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """How far arrays are from others, as a share of the largest entry; inf if shapes differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return float("inf")
        wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gaps = np.abs(np.where(same, 0.0, a - b))
        scale = np.abs(a, where=np.isfinite(a), out=np.zeros(a.shape)).max(initial=0.0)
        largest = gaps.max(initial=0.0) / max(scale, 1e-30)
        worst = max(worst, float("inf") if np.isnan(largest) else float(largest))
    return worst


def rounding(leaves: Iterable[Any]) -> float:
    """How far rounding may move outputs of a model, as a share of the largest.

    Args:
      leaves: arrays; the least precise dtype among them counts.
    """
    kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return min(0.1, 1e3 * max([float(jnp.finfo(kind).eps) for kind in kinds], default=0.0))
