"""Links of a packed layer that move: drop, draw places, grow. Shapes stay; nothing is dense.

1. Stored links and drawn places, both in order, are merged: by part (group of inputs and output)
   and by input; equal ones are one place.
2. The revision chooses, as it does in a masked layer, among the links and the drawn places.
3. The chosen places are stored in that order; free room is at the end, past all parts.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._revise.revision import MovesLinks
from jsparse.export._packing.formats import MOST_KEPT, CsrArrays, segments
from jsparse.export._packing.structure import CsrSizes


class Drawn(NamedTuple):
    """Places that may become links, in order.

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


def places_to_draw(by: MovesLinks, kept: int, sizes: CsrSizes, candidates: float) -> int:
    """How many places are drawn for a layer: all, if that is at most twice as many.

    Enough are drawn for all links that grow at random, as some drawn places are links or are drawn
    twice.

    Raises:
      ValueError: more than can be counted.
    """
    size, most = sizes.inputs * sizes.outputs, math.ceil(by.grown * kept)
    if not most:
        return 0
    if not by.by_gradient and candidates < math.inf:
        candidates = 1.3 / max(1e-9, 1 - kept / size)
    count = size if 2 * candidates * most >= size else math.ceil(candidates * most)
    if count + kept > MOST_KEPT:
        raise ValueError(
            f"{count:,} places would be drawn for {kept:,} links, at most {MOST_KEPT:,} in all are "
            "allowed; give fewer candidates or a smaller fraction"
        )
    return count


def draw_places(key: Array, count: int, sizes: CsrSizes) -> tuple[Array, Array]:
    """(parts, indices) of `count` places, drawn uniformly, in order; all, if there are no more."""
    if count == sizes.inputs * sizes.outputs:
        rows, outputs = jnp.divmod(jnp.arange(count, dtype=jnp.int32), sizes.outputs or 1)
    else:
        of_rows, of_outputs = jax.random.split(key)
        rows = jax.random.randint(of_rows, (count,), 0, sizes.inputs, jnp.int32)
        outputs = jax.random.randint(of_outputs, (count,), 0, sizes.outputs, jnp.int32)
    groups, indices = jnp.divmod(rows, sizes.width)
    parts = groups * sizes.outputs + outputs
    if sizes.parts * sizes.width <= 2**32:  # one number a place is sorted five times as fast
        places = jnp.sort(parts.astype(jnp.uint32) * sizes.width + indices.astype(jnp.uint32))
        parts, indices = jnp.divmod(places, sizes.width)
        return parts.astype(jnp.int32), indices.astype(jnp.uint16)
    found: Any = lax.sort((parts, indices.astype(jnp.uint16)), num_keys=2)
    return found


def moved(
    by: MovesLinks, arrays: CsrArrays, scores: Array, drawn: Drawn, sizes: CsrSizes, step: Array
) -> Moved:
    """The links after a revision; there may be room at the end of the arrays.

    The scores, float32 [kept], are those with which dropped links may be grown at once; -1 where
    they may not unless they are drawn.
    """
    kept, total = arrays.values.shape[0], sizes.parts
    # 1.
    parts = jnp.concatenate([segments(arrays.starts, kept), drawn.parts])
    indices = jnp.concatenate([arrays.indices, drawn.indices]).astype(jnp.uint16)
    given = _merged(arrays, drawn)
    parts, indices = parts[given], indices[given]
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
        on.astype(jnp.float32), weight, growth, step=step, size=sizes.inputs * sizes.outputs
    )
    new = here & (mask > 0)
    # 3.
    place = jnp.where(new, jnp.cumsum(new) - 1, kept)
    stored = jnp.zeros((kept,), jnp.uint16).at[place].set(indices, mode="drop")
    sources = jnp.where(on, given, -1)
    sources = jnp.full((kept,), -1, jnp.int32).at[place].set(sources, mode="drop")
    return Moved(stored, starts_at(jnp.where(new, parts, total), total), sources)


def _merged(arrays: CsrArrays, drawn: Drawn) -> Array:
    """int32 [kept + drawn], which comes where; drawn places have the numbers after the links."""
    kept, count = arrays.values.shape[0], drawn.parts.shape[0]

    def halve(ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        before = arrays.indices[jnp.minimum(middle, kept - 1)] <= drawn.indices
        open = low < high
        return jnp.where(open & before, middle + 1, low), jnp.where(open & ~before, middle, high)

    ends = arrays.starts[drawn.parts], arrays.starts[drawn.parts + 1]
    # links up to each drawn place
    links, _ = lax.while_loop(lambda ends: jnp.any(ends[0] < ends[1]), halve, ends)
    ahead = jnp.cumsum(jnp.zeros((kept + 1,), jnp.int32).at[links].add(1))[:kept]
    of_links, of_drawn = lax.iota(jnp.int32, kept), lax.iota(jnp.int32, count)
    places = jnp.concatenate([of_links + ahead, links + of_drawn])
    given = lax.iota(jnp.int32, kept + count)
    return jnp.zeros_like(given).at[places].set(given, unique_indices=True)


def starts_at(parts: Array, total: int) -> Array:
    """Where each part begins, from the parts of entries in any order: int32 [total + 1].

    Entries of part `total` are room.
    """
    counts = jnp.zeros((total + 1,), jnp.int32).at[parts + 1].add(1, mode="drop")
    return jnp.cumsum(counts, dtype=jnp.int32)


def carried_over(array: Array, sources: Array) -> Array:
    """What moved with the links, [kept]; 0 where a link is new, and in room."""
    return jnp.where(sources < 0, 0, array[sources]).astype(array.dtype)
