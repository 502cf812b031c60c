"""The state of an optimizer, carried over to one whose parameters have other forms."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jsparse._paths import map_by_path, named
from jsparse._revise.transform import Revise
from jsparse.optim import Optimizer
from jsparse.optim._task import arrays_of


def carry_state(
    old: Mapping[str, Any],
    model: nnx.Module,
    made: Optimizer,
    ways: Mapping[str, tuple[str, Callable]],
    whole: Callable[[Any], Any],
) -> None:
    """Give the optimizer `made` of a new model, in place, the state `old` of a transform, by path.

    `ways` has, for each parameter of the new model that is not as it was, its path in the old one
    and the change between them; `whole` puts the new state around that of the inner transform.
    """
    state = arrays_of(made.opt_state)
    inner = state.inner if isinstance(made.tx, Revise) else state
    stays = {path: (path, lambda array: array) for path in named(nnx.state(model, made.wrt))}
    ways = {**stays, **ways}

    def carried(path: str, new: Any) -> Any:
        end = max((end for end in ways if f"/{path}".endswith(f"/{end}")), key=len, default="")
        before, change = ways.get(end, (end, lambda array: array))
        found = old.get(path.removesuffix(end) + before)
        found = None if found is None else jnp.asarray(change(found))
        if found is None or found.shape != jnp.shape(new):
            raise ValueError(
                f"the optimizer's state at {path} does not mirror its parameter; give the "
                "optimizer of this model, and a transform whose moments are like the weights, as "
                "Adam's are and factored ones are not"
            )
        return found.astype(new.dtype)

    new = whole(map_by_path(carried, inner))
    nnx.update(made.opt_state, nnx.state(new))
