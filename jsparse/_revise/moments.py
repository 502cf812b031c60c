"""Moments in any optax state: those of dropped and grown weights are 0, others follow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def cleared(state: Any, kept: Any) -> Any:
    """An optax state whose moments are 0 where weights were dropped or grown.

    `kept` is bool, in the structure of the trained tree: True where moments stay as they are. So do
    entries with a shape other than that of the weight.
    """
    clear = lambda moment, kept: jnp.where(kept, moment, 0).astype(moment.dtype)
    return _changed(state, kept, lambda kept: getattr(kept, "shape", None), clear)


def followed(state: Any, sources: Any) -> Any:
    """An optax state whose moments have moved with the weights of packed layers.

    `sources` are whole numbers, in the structure of the trained tree: [n] for n weights that moved,
    where each of them was before, or -1 if it is new and its moment becomes 0; [] for leaves that
    stayed. Entries with a shape other than that of the weight are left unchanged.
    """
    follow = lambda moment, source: jnp.where(source < 0, 0, moment[source]).astype(moment.dtype)
    return _changed(state, sources, lambda source: source.shape or None, follow)


def _changed(state: Any, trained: Any, shape: Callable[[Any], Any], change: Callable) -> Any:
    """An optax state, with each moment changed by the leaf of its weight if it has such a shape."""

    def one(moment: Any, leaf: Any) -> Any:
        if _is_masked(moment) or jnp.shape(moment) != shape(leaf):
            return moment
        return change(moment, leaf)

    of_weights = lambda part: _is_over(part, trained)
    over = lambda part: jax.tree.map(one, part, trained, is_leaf=_is_masked)
    return jax.tree.map(lambda p: over(p) if of_weights(p) else p, state, is_leaf=of_weights)


def _is_over(part: Any, trained: Any) -> bool:
    """Whether a part of an optax state has one entry, or none, for each leaf of the trained tree.

    `optax.tree_map_params` cannot tell for states with deeper entries, such as those of sm3.
    """
    if jax.tree_util.all_leaves([part]):
        return False
    try:
        jax.tree.map(lambda *_: None, part, trained, is_leaf=_is_masked)
    except ValueError:
        return False
    return True


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
