"""Least-squares repair: after units are removed, the layers that read the others compensate.

1. X are the inputs of a layer on calibration data, including the removed ones, and W its kernel.
2. The rows S of the kernel that remain become

       W_S + argmin_D |X_S D - X_R W_R|^2 + damping * mean(diag H) * |D|^2,   H = X^T X,

   which is D = (H_SS + damping)^-1 H_SR W_R, for the removed rows R.
3. The next layer sees the inputs that the repaired one gives; all layers in one sweep over the
   data, as for SparseGPT.

Numbers: tests/prune/test_repair.py has the least squares in NumPy; the paper has those of VGG-16.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._checks import all_finite
from jsparse._pure import Forward, call
from jsparse._roles import multiplies_inputs, role_of
from jsparse._slots import Slot, check_module, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._surgery import Model, copied, fold, sparsify
from jsparse._untraced import outside_jit
from jsparse._values import check_batches, check_function, check_in, check_is
from jsparse.export._shrinking.cut import Cut, placed_like
from jsparse.export._shrinking.record import Record
from jsparse.prune._calibration import prune_in_order
from jsparse.prune._inputs import from_matrices, gram, matrices
from jsparse.rules._held import Held
from jsparse.rules._stacked import over_stack


@outside_jit
def repair(
    model: nnx.Module,
    small: Model,
    record: Record,
    batches: Iterable[Any],
    *,
    forward: Forward = call,
    damping: float = 0.01,
) -> Model:
    """A copy of a smaller model whose layers compensate for the removed units.

    Each kernel that read removed units is changed so that its outputs come as close as possible to
    those with all units, in least squares over the batches. That needs no training and no labels.
    Kernels of `nnx.Linear`, `nnx.LinearGeneral` and `nnx.Conv` are repaired; others stay as they
    are. Where batch normalizations follow, `recalibrate` the result.

    Args:
      model: as it was before units were removed.
      small: the model that `prune.units` returned.
      record: the record that `prune.units` returned with it.
      batches: calibration data, as for `sparsegpt`; more samples than the widest layer has inputs.
      forward: runs the model on a batch, in eval mode; by default `model(batch)`.
      damping: added to the diagonal of H, as a fraction of its mean, 0 or more.

    Returns:
      The copy.

    Raises:
      TypeError: not models or a Record.
      ValueError: the record is not of these models; no batch; damping below 0; inputs that are not
        finite, or too similar for H to be inverted.

    Example:
      >>> import jax
      >>> from jsparse.prune import units
      >>> rngs, x = nnx.Rngs(0), jax.random.normal(jax.random.key(0), (64, 4))
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> small, record = units(model, x, density=0.5)
      >>> off = lambda other: float(((other(x) - model(x)) ** 2).sum())
      >>> off(repair(model, small, record, [x])) < off(small)
      True

    Reference: He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017,
    section 3.1 (ii); the order of layers from section 3.2.
    """
    check_module(small, "small")
    check_is(Record, "a Record, from prune.units", record=record)
    check_in("[0, inf)", damping=damping)
    check_batches(batches)
    check_function(forward=forward)
    plain, fixed = fold(model), copied(small)
    own = {slot.path: slot.value for slot in slots(fixed)}
    cuts: dict[str, Cut] = {}
    for slot in slots(plain):
        if keep := _removed_inputs(slot, record, own):
            cuts[slot.path] = Cut(shape=slot.value.shape, keep=keep)
    if not cuts:
        return fixed
    held = sparsify(plain, *((re.escape(path), Held()) for path in cuts))

    def solve(path: str, part: Sparse, seen: Array) -> tuple[Array, Array]:
        weight, stack = part.weight[...], part.rule.role.stack
        stays = jnp.asarray(cuts[path].zeroed(np.ones(weight.shape)), seen.dtype)
        split = lambda array: matrices(part, array, seen.shape[stack])
        whole = split(weight.astype(seen.dtype))
        one = over_stack(partial(_solved, damping), stack + 1)
        new = one(whole, split(stays), seen)
        if not bool(all_finite(new)):
            raise ValueError(
                f"{path}: H cannot be inverted: the inputs are too similar; raise damping, or use "
                "more calibration data"
            )
        return from_matrices(part, new).astype(weight.dtype), stays.astype(weight.dtype)

    full = sparse_parts(prune_in_order(held, batches, forward, gram, solve))
    before = {slot.path: slot.value for slot in slots(plain)}
    for path in cuts:
        cut = record.cuts[path]
        now, old = (cut.of(np.asarray(one[...])) for one in (full[path].weight, before[path]))
        own[path][...] = placed_like(now * _factor(own[path][...], old), own[path][...])
    return fixed


@jax.default_matmul_precision("highest")
def _solved(damping: float, weight: Array, stays: Array, gram: Array) -> Array:
    """The repaired kernel of a layer, [inputs, outputs], from [inputs, outputs] and H (2)."""
    kept = stays[:, :1]
    own = gram * kept * kept.T
    level = damping * jnp.diagonal(gram).mean()
    alone = jnp.where((kept[:, 0] > 0) & (jnp.diagonal(gram) > 0), level, 1.0)  # or it is singular
    change = jnp.linalg.solve(own + jnp.diag(alone), kept * (gram @ (weight * (1 - stays))))
    return (weight + change) * stays


def _removed_inputs(
    slot: Slot, record: Record, own: Mapping[str, Any]
) -> dict[int, tuple[int, ...]]:
    """What stays of the input axes of a kernel from which some were cut; empty for others.

    Raises:
      ValueError: the models have other sizes than the record says.
    """
    cut = record.cuts.get(slot.path)
    if cut is None:
        return {}
    small = tuple(own[slot.path].shape) if slot.path in own else None
    if tuple(slot.value.shape) != cut.shape or small != cut.left:
        raise ValueError(
            f"record: it cuts {slot.path} from {cut.shape} to {cut.left}, and the models have "
            f"{tuple(slot.value.shape)} and {small}; give the model that prune.units was given, "
            "and what it returned"
        )
    if not multiplies_inputs(slot.parent, slot.key):
        return {}
    inputs = role_of(slot.parent, slot.key, len(cut.shape)).input_axes(len(cut.shape))
    return {axis: kept for axis, kept in cut.keep.items() if axis in inputs}


def _factor(small: Array, old: np.ndarray) -> float:
    """The number by which `prune.units` multiplied a weight, as when the width of heads shrank."""
    square = float(np.vdot(old, old))
    return float(np.vdot(old, np.asarray(small, old.dtype))) / square if square > 0 else 1.0
