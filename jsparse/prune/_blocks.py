"""Depth: whole residual blocks by how little they change what passes through them.

1. On some data, the influence of a block is how far its outputs y point away from its inputs x:

       1 - mean over positions of <x, y> / (|x| |y|),

   along the last axis, of tokens in a transformer and of pixels in a convolutional network.
2. The blocks with the least influence are replaced by their skip connection, y = x.

Numbers: tests/prune/test_blocks.py has the influence in NumPy; the paper has models of 7 and 13
billion weights.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._paths import listed
from jsparse._pure import Forward, call, calling, evaluated, taken_apart
from jsparse._slots import check_module, slots, walk_modules
from jsparse._surgery import Model, copied
from jsparse._untraced import outside_jit
from jsparse._values import (
    check_batches,
    check_function,
    check_mapping,
    check_pattern,
    check_whole,
    is_number,
    shown,
)
from jsparse._watch import watch_in_place


class Skip(nnx.Module):
    """What is left of a residual block: returns its first argument."""

    def __call__(self, x: Any, *_: Any, **__: Any) -> Any:
        return x


@outside_jit
def influence(
    model: nnx.Module, batches: Iterable[Any], pattern: str, *, forward: Forward = call
) -> dict[str, float]:
    """How much each block changes what passes through it, from 0 to 2: see `drop_blocks`.

    Args:
      model: any NNX module, in eval mode for this.
      batches: of inputs; each new shape is compiled again.
      pattern: a regular expression for whole paths of modules, such as "blocks/[0-9]+". A block
        takes an array as its first argument and returns one of the same shape.
      forward: runs the model on a batch; by default `model(batch)`.

    Returns:
      Influence by path of the module, in the order of the model.

    Raises:
      ValueError: a pattern that is invalid or matches no module; no batch; a block that is not
        called, or changes the shape.

    Example:
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs))
      >>> model.layers[1].kernel[...] = 2 * jnp.eye(4)
      >>> {path: round(one, 2) for path, one in influence(model, [jnp.eye(4)], "layers/.").items()}
      {'layers/0': 0.84, 'layers/1': 0.0}

    Reference: Men et al., ShortGPT: Layers in large language models are more redundant than you
    expect, 2024 (arXiv 2403.03853), section 3.2.
    """
    check_pattern(pattern=pattern)
    check_function(forward=forward)
    check_batches(batches)
    build, variables, _ = taken_apart(evaluated(model))
    paths = _matching(model, pattern)

    @jax.jit
    def seen(given: dict[str, Any], batch: Any) -> dict[str, Array]:
        own = build(given)
        found: dict[str, Array] = {}
        for path, block in walk_modules(own):
            if path in paths:
                watch_in_place(block, lambda _, x, y, path=path: _add(found, path, x, y))
        forward(own, batch)
        return found

    sums = {path: np.zeros(2) for path in paths}  # of the changes, and of positions
    for batch in batches:
        with calling("batches", batch):
            new = seen(variables, batch)
        for path, own in new.items():
            sums[path] += np.asarray(own)
    if missed := [path for path in paths if not sums[path][1]]:
        raise ValueError(
            f"pattern: no batch reached {listed(missed)}; leave out blocks that are not called"
        )
    return {path: float(total / number) for path, (total, number) in sums.items()}


def drop_blocks(model: Model, scores: Mapping[str, float], *, drop: int) -> Model:
    """A copy of the model without the blocks of the lowest scores; their skip connections remain.

    Train it on afterwards, or `recalibrate` it. The blocks become modules that return their input,
    so each must be residual, whose output has the shape of its input.

    Args:
      model: any NNX module; not changed.
      scores: by path of the module, high = keep: from `influence`, or your own, such as how much
        the loss rises without the block.
      drop: how many blocks to remove, 1 or more; at least one of those in scores stays.

    Returns:
      The copy.

    Raises:
      TypeError: scores is not a mapping of numbers, or one is NaN.
      ValueError: a path that is not that of a module; too many to drop; a block inside another.

    Example:
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs))
      >>> small = drop_blocks(model, {"layers/0": 1.0, "layers/1": 0.1}, drop=1)
      >>> bool((small(jnp.eye(4)) == model.layers[0](jnp.eye(4))).all())
      True

    Reference: Men et al., ShortGPT, 2024, section 3.2.
    """
    check_module(model)
    check_mapping("a score by path of a module", scores=scores)
    check_whole(drop=drop)
    modules = dict(walk_modules(model))
    for path, score in scores.items():
        if path not in modules or not path:
            raise ValueError(
                f"scores: {path!r} is not the path of a module of the model: {listed(modules)}"
            )
        if not is_number(score) or score != score:
            raise TypeError(f"scores: the score of {path} is {shown(score)}; give a number")
    if drop >= len(scores):
        raise ValueError(
            f"drop is {drop}, and scores has {len(scores)} blocks, of which one must stay; drop "
            "fewer, or give scores for more of them"
        )
    gone = sorted(scores, key=lambda path: scores[path])[:drop]
    copy = copied(model)
    found = slots(copy, tuple({type(modules[path]) for path in gone}))
    places = {slot.path: slot for slot in found if slot.path in gone}
    if missed := sorted({*gone} - places.keys()):
        raise ValueError(f"scores: {missed[0]!r} is inside another block; give one of the two")
    for slot in places.values():
        slot.put(Skip())
    return copy


def _matching(model: nnx.Module, pattern: str) -> list[str]:
    """The paths of modules that a pattern matches."""
    paths = [path for path, _ in walk_modules(model) if path]
    found = [path for path in paths if re.fullmatch(pattern, path)]
    if not found:
        raise ValueError(
            f"pattern: {pattern!r} matches no module; there are {listed(paths)}. It is a regular "
            "expression for the whole path, such as 'blocks/[0-9]+'"
        )
    return found


def _add(found: dict[str, Array], path: str, x: Any, y: Any) -> None:
    """Add what one call of a block changes, and its number of positions."""
    if jnp.shape(x) != jnp.shape(y) or not jnp.ndim(x):
        raise ValueError(
            f"{path} takes {shown(x)} and gives {shown(y)}, so a skip connection cannot replace "
            "it; leave it out of the pattern"
        )
    x, y = (one.astype(jnp.float32).reshape(-1, one.shape[-1]) for one in (x, y))
    sizes = jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(y, axis=1)
    along = jnp.where(sizes > 0, (x * y).sum(1) / jnp.where(sizes > 0, sizes, 1.0), 1.0)
    new = jnp.stack([jnp.maximum(1 - along, 0.0).sum(), jnp.float32(len(x))])
    found[path] = found.get(path, jnp.zeros(2)) + new
