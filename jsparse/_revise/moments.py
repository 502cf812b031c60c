"""Moments of dropped and grown weights, set to 0 in any optax state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def cleared(state: Any, kept: Any) -> Any:
    """An optax state whose moments are 0 where weights were dropped or grown.

    Args:
      state: any optax state.
      kept: bool, in the structure of the trained tree: True where moments stay as they are.

    Returns:
      The state. Entries with a shape other than that of the weight are left unchanged.
    """
    of_weights = lambda part: _is_over(part, kept)
    return jax.tree.map(
        lambda part: _cleared(part, kept) if of_weights(part) else part,
        state,
        is_leaf=of_weights,
    )


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


def _cleared(moments: Any, kept: Any) -> Any:
    def clear(moment: Any, kept: Any) -> Any:
        if _is_masked(moment) or jnp.shape(moment) != getattr(kept, "shape", None):
            return moment
        return jnp.where(kept, moment, 0).astype(moment.dtype)

    return jax.tree.map(clear, moments, kept, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
