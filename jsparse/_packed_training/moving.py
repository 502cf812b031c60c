"""Links of a packed layer that move: drop, draw places, grow. Shapes stay; nothing is dense.

1. Stored links and drawn places are put in one order, by part (group of inputs and output) and by
   input; equal ones are one place.
2. The revision chooses, as it does in a masked layer, among the links and the drawn places.
3. What is chosen is stored in that order; room that is left lies at the end, past all parts.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._revise.revision import MovesLinks
from jsparse.export._packing.csr import Plan
from jsparse.export._packing.formats import CsrArrays, segments


class Drawn(NamedTuple):
    """Places that may become links.

    Attributes:
      parts: int32 [n], group times outputs plus output.
      indices: [n], the input within its group.
      scores: float32 [n], 0 or more: the highest are grown.
    """

    parts: Array
    indices: Array
    scores: Array


class Moved(NamedTuple):
    """Links after a move.

    Attributes:
      indices: as in `CsrArrays`.
      starts: as in `CsrArrays`.
      sources: int32 [kept], where each link was stored before; -1 for new ones and for room.
    """

    indices: Array
    starts: Array
    sources: Array


def parts_of(plan: Plan) -> int:
    """Groups of inputs times outputs."""
    return -(-plan.inputs // plan.width) * plan.outputs


def places_to_draw(by: MovesLinks, kept: int, plan: Plan, candidates: float) -> int:
    """How many places are drawn for a layer: all where that takes at most twice as many."""
    size, most = plan.inputs * plan.outputs, math.ceil(by.grown * kept)
    if most and 2 * candidates * most >= size:
        return size
    return math.ceil(candidates * most) if most else 0


def draw(key: Array, count: int, plan: Plan) -> tuple[Array, Array]:
    """(parts, indices) of places drawn uniformly, with repetition; all places if so many are asked.

    Args:
      key: [].
      count: of places.
      plan: the sizes.
    """
    if count == plan.inputs * plan.outputs:
        rows, outputs = jnp.divmod(jnp.arange(count, dtype=jnp.int32), plan.outputs or 1)
    else:
        of_rows, of_outputs = jax.random.split(key)
        rows = jax.random.randint(of_rows, (count,), 0, plan.inputs, jnp.int32)
        outputs = jax.random.randint(of_outputs, (count,), 0, plan.outputs, jnp.int32)
    groups, indices = jnp.divmod(rows, plan.width)
    return groups * plan.outputs + outputs, indices.astype(jnp.uint16)


def in_structure(parts: Array, indices: Array, total: int) -> tuple[Array, Array]:
    """(indices, starts) of places in any order, as in `CsrArrays`; of `total` parts."""
    parts, indices = lax.sort((parts, indices), num_keys=2)
    return indices, _starts(parts, total)


def moved(
    by: MovesLinks, arrays: CsrArrays, scores: Array, drawn: Drawn, plan: Plan, step: Array
) -> Moved:
    """The links after a revision.

    Args:
      by: the revision.
      arrays: the links and their values; there may be room at the end.
      scores: float32 [kept], those of links that were dropped and may be grown at once; -1 where
        they may not unless they are drawn.
      drawn: places that may become links.
      plan: the sizes.
      step: [], of training.
    """
    kept, total = arrays.values.shape[0], parts_of(plan)
    # 1.
    parts = jnp.concatenate([segments(arrays.starts, kept), drawn.parts])
    indices = jnp.concatenate([arrays.indices, drawn.indices]).astype(jnp.uint16)
    given = lax.iota(jnp.int32, parts.shape[0])
    parts, indices, given = lax.sort((parts, indices, given), num_keys=2, is_stable=True)
    again = (parts[1:] == parts[:-1]) & (indices[1:] == indices[:-1])
    here = (parts < total) & ~jnp.pad(again, (1, 0))
    on = here & (given < kept)
    # 2.
    weight = jnp.where(on, arrays.values.astype(jnp.float32)[jnp.where(on, given, 0)], 0.0)
    growth = jnp.concatenate([scores, drawn.scores])[given]
    beside = jnp.where(again & (given[1:] >= kept), growth[1:], -1.0)
    beside = jnp.pad(beside, (0, 1), constant_values=-1.0)
    growth = jnp.where(here, jnp.maximum(growth, jnp.where(on, beside, growth)), -jnp.inf)
    mask = by.moved(
        on.astype(jnp.float32), weight, growth, step=step, size=plan.inputs * plan.outputs
    )
    new = here & (mask > 0)
    # 3.
    place = jnp.where(new, jnp.cumsum(new) - 1, kept)
    stored = jnp.zeros((kept,), jnp.uint16).at[place].set(indices, mode="drop")
    sources = jnp.where(on, given, -1)
    sources = jnp.full((kept,), -1, jnp.int32).at[place].set(sources, mode="drop")
    return Moved(stored, _starts(jnp.where(new, parts, total), total), sources)


def _starts(parts: Array, total: int) -> Array:
    """Where each part begins: int32 [total + 1]; entries of part `total` are room."""
    counts = jnp.zeros((total + 1,), jnp.int32).at[parts + 1].add(1, mode="drop")
    return jnp.cumsum(counts, dtype=jnp.int32)


def taken(array: Array, sources: Array) -> Array:
    """What moved with the links, [kept]; 0 where a link is new, and in room."""
    return jnp.where(sources < 0, 0, array[sources]).astype(array.dtype)
