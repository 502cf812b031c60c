"""Pruning an amount of the remaining units, per tensor or over several tensors, as in PyTorch.

1. Each unit of a weight has a score; units that are already fully masked no longer compete.
2. An amount of the remaining units is dropped, given as a number or a fraction: those with the
   lowest scores. A fraction is rounded half to even.
3. Masked weights stay masked, so pruning by 20 % twice keeps 64 %.

Numbers: no figure is published; tests compare the masks with PyTorch's.
"""

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._checks import all_finite, check_unit
from jsparse._paths import match, naming
from jsparse._pattern import Unit, Weight
from jsparse._score import unit_scales, wide
from jsparse._sparse import Sparse
from jsparse._surgery import Model, hold
from jsparse._tiles import by_unit, pool, spread, stacked_tile
from jsparse._topk import above_cut, common_cut_at, highest
from jsparse._untraced import outside_jit
from jsparse._values import (
    check_function,
    check_key,
    check_mapping,
    check_pattern,
    is_number,
    is_whole,
    shown,
)
from jsparse.prune._choice import held_parts, score_of
from jsparse.rules._held import Held

SINGLE = Weight()


class UnitScorer(Protocol):
    """Scores units: a function such as `norm(1)`."""

    def __call__(self, path: str, weight: Array, tile: tuple[int, ...]) -> Array:
        """The scores, [grid of units]; the lowest are dropped.

        Args:
          path: path of the weight.
          weight: [...], masked, with all layers of a stack.
          tile: extent of one unit along each axis.
        """
        ...


def norm(n: float) -> UnitScorer:
    """The Ln norm of a unit's weights, |w| for a single weight; n is any number, or ±infinity.

    Example:
      >>> import jax.numpy as jnp
      >>> norm(1)("kernel", jnp.array([[3.0, -1.0], [4.0, 1.0]]), (2, 1)).tolist()
      [[7.0, 2.0]]
    """
    _check_power(n)
    return lambda path, weight, tile: _norm(weight, n, tile)


def norm_of(scores: Mapping[str, Array], n: float) -> UnitScorer:
    """The Ln norm of your own scores instead of the weights, by path: [...] like the weight.

    Example:
      >>> import jax.numpy as jnp
      >>> worth = norm_of({"kernel": jnp.array([0.0, -2.0])}, 1)
      >>> worth("kernel", jnp.ones(2), (1,)).tolist()
      [0.0, 2.0]
    """
    check_mapping("scores by path, [...] like the weights", scores=scores)
    _check_power(n)
    return lambda path, weight, tile: _norm(score_of(scores, path, weight.shape), n, tile)


def noise(key: Array) -> UnitScorer:
    """Random scores, which drop random units; they differ between paths.

    Args:
      key: [], consumed.
    """
    check_key(key=key)

    def worth(path: str, weight: Array, tile: tuple[int, ...]) -> Array:
        grid = jax.eval_shape(lambda w: pool(w, tile), weight).shape
        return jax.random.uniform(jax.random.fold_in(key, zlib.crc32(path.encode())), grid)

    return worth


def _check_power(n: Any) -> None:
    if not is_number(n) or n != n:
        raise ValueError(f"n must be a number, such as 1 or 2, or infinity; got {shown(n)}")


def _norm(weight: Array, n: float, tile: tuple[int, ...]) -> Array:
    size = jnp.abs(weight.astype(wide(weight.dtype)))
    if all(t == 1 for t in tile):
        return size
    if abs(n) == float("inf"):
        there = by_unit(jnp.ones_like(size), tile) > 0
        units = jnp.where(there, by_unit(size, tile), -n)
        return units.max(axis=0) if n > 0 else units.min(axis=0)
    if n == 0:
        return pool((size > 0).astype(size.dtype), tile)
    scale = unit_scales(size, tile)  # or powers could overflow or vanish
    part = size / spread(scale, tile, size.shape)
    return scale * pool(part ** float(n), tile) ** (1 / n)


@outside_jit
def drop_lowest(
    model: Model, pattern: str, amount: float, by: UnitScorer, unit: Unit = SINGLE
) -> Model:
    """A copy that drops an amount of the remaining units of each matched weight, the lowest ones.

    Args:
      model: a model with weights under `Held`.
      pattern: regular expression for the whole path of the weights to prune.
      amount: an int is a number of units, a float in [0, 1] a fraction of the remaining units,
        rounded half to even; it applies to each weight, and to each layer of a stack.
      by: scores units: `norm(n)`, `norm_of(scores, n)`, `noise(key)` or a function.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.

    Returns:
      The model with new stored masks.

    Raises:
      TypeError: amount is not a number.
      ValueError: amount is out of range, or would drop all of a weight; a pattern that matches
        nothing; scores that have another shape or are not finite.

    Example:
      >>> from flax import nnx
      >>> from jsparse._surgery import masks, sparsify
      >>> model = sparsify(nnx.Linear(10, 10, rngs=nnx.Rngs(0)), ("kernel", Held()))
      >>> for _ in range(2):
      ...     model = drop_lowest(model, "kernel", 0.2, norm(1))
      >>> int(masks(model)["kernel"].sum())
      64

    Reference: torch.nn.utils.prune (Paganini and Forde, Streamlining tensor and network pruning in
    PyTorch, 2020): random and L1 unstructured, random and Ln structured, pruning containers.
    """
    check_function(by=by)
    check_unit(unit)
    masks = {}
    for path, part in _matched(model, pattern).items():
        with naming(path):
            tile, score, alive = _units(part, path, by, unit)
            stack = part.rule.role.stack
            axes = tuple(range(stack, score.ndim))
            left = np.asarray(alive.sum(axis=axes))
            keep = np.array([_keep(amount, int(n)) for n in left.ravel()], np.int32)
            keep = keep.reshape(*left.shape, *(1,) * len(axes))
            kept = alive & highest(jnp.where(alive, score, -jnp.inf), jnp.asarray(keep), axes)
        masks[path] = _masked(part, kept, tile)
    return hold(model, masks)


@outside_jit
def drop_lowest_globally(model: Model, pattern: str, amount: float, by: UnitScorer) -> Model:
    """`drop_lowest` over all matched weights together: an amount of all their remaining weights.

    Units are single weights, because norms of units of different sizes are not comparable.

    Args:
      model: a model with weights under `Held`.
      pattern: regular expression for the whole path of the weights to prune.
      amount: an int is a number of weights, a float in [0, 1] a fraction of the remaining weights.
      by: scores weights.

    Returns:
      The model with new stored masks.

    Raises:
      TypeError: amount is not a number.
      ValueError: as for `drop_lowest`.

    Reference: torch.nn.utils.prune, global_unstructured.
    """
    check_function(by=by)
    parts = _matched(model, pattern)
    scores, alive = {}, {}
    for path, part in parts.items():
        with naming(path):
            _, scores[path], alive[path] = _units(part, path, by, SINGLE)
    keep = _keep(amount, sum(int(a.sum()) for a in alive.values()))
    low = [jnp.where(alive[path], score, -jnp.inf) for path, score in scores.items()]
    cuts = common_cut_at(low, jnp.uint32(keep), (0,) * len(low))
    masks = {}
    for path, score, cut in zip(parts, low, cuts, strict=True):
        kept = alive[path] & above_cut(score, cut)
        alone = tuple(range(parts[path].rule.role.stack, kept.ndim))
        if not bool(kept.any(axis=alone).all()):
            raise ValueError(
                f"{path}: nothing would be left, and no signal would pass; drop less, or prune "
                "each weight by itself with drop_lowest"
            )
        masks[path] = _masked(parts[path], kept, (1,) * score.ndim)
    return hold(model, masks)


def _matched(model: nnx.Module, pattern: str) -> dict[str, Sparse]:
    parts = held_parts(model)
    check_pattern(pattern=pattern)
    return {path: parts[path] for path in match(parts, [(pattern, Held())])}


def _units(
    part: Sparse, path: str, by: UnitScorer, unit: Unit
) -> tuple[tuple[int, ...], Array, Array]:
    """The tile of a weight's units, their scores, and which of them still keep a weight."""
    weight, mask, role = part.weight[...], part.mask[...], part.rule.role
    tile = stacked_tile(unit, weight.shape, role)
    alive = pool(mask, tile) > 0
    score = by(path, weight * mask, tile)
    if score.shape != alive.shape:
        raise ValueError(
            f"the units have shape {alive.shape}, but the scores {score.shape}; give one score "
            "for each unit"
        )
    if not bool(all_finite(jnp.where(alive, score, 0))):
        raise ValueError("a score is NaN or infinite; look for NaN in the weights")
    return tile, score, alive


def _masked(part: Sparse, kept: Array, tile: tuple[int, ...]) -> Array:
    mask = part.mask[...]
    return mask * spread(kept.astype(mask.dtype), tile, mask.shape)


def _keep(amount: float, left: int) -> int:
    """How many of the remaining units are kept."""
    if not is_number(amount):
        raise TypeError(
            "amount is an int, the number of units to drop, or a float, the fraction; got "
            f"{shown(amount)}"
        )
    if not amount >= 0 or (not is_whole(amount) and not amount <= 1):
        raise ValueError(f"amount is a number of units or a fraction in [0, 1]; got {amount}")
    drop = int(amount) if is_whole(amount) else round(float(amount) * left)
    if drop > left or (drop == left and left):
        raise ValueError(
            f"amount {amount} would drop {drop} of the {left} remaining units, and no signal "
            f"would pass; drop at most {left - 1}"
        )
    return left - drop
