"""Steps that train nothing, without a copy of what the optimizer holds.

The state is to stay as it was where a step pauses. If the updates came from the new state and the
result were chosen beside it, XLA would need both states at once: it would copy the old one, at each
step, and compute the new one twice. So the choice comes first, and the updates from what is chosen.
(What one jitted function computes at once, state and updates, is still computed twice.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun


def pausing(update: Callable[[Any], tuple[Any, Any]], state: Any, pause: Array) -> tuple[Any, Any]:
    """`update(state)`, whose state is the old one, and whose updates mean nothing, on a pause.

    Args:
      update: from a state to updates and the next state, of the same form; it is traced.
      state: any tree of arrays.
      pause: bool [].

    Returns:
      The updates, those of `update` unless there is a pause, and the state.

    Example:
      >>> import jax.numpy as jnp
      >>> counted = lambda state: (10 * (state + 1), state + 1)
      >>> [int(x) for x in pausing(counted, jnp.array(1), jnp.array(False))]
      [20, 2]
      >>> int(pausing(counted, jnp.array(1), jnp.array(True))[1])
      1
    """
    old, form = jax.tree.flatten(state)
    closed, shapes = jax.make_jaxpr(
        lambda *leaves: update(jax.tree.unflatten(form, leaves)), return_shape=True
    )(*old)
    jaxpr, number = closed.jaxpr, len(jax.tree.leaves(shapes[0]))
    results = jaxpr.outvars[number:]
    new = jax.tree.unflatten(jax.tree.structure(shapes[1]), jaxpr_as_fun(closed)(*old)[number:])
    held = jax.tree.map(lambda was, now: jnp.where(pause, was, now), state, new)
    chosen = jax.tree.leaves(held)

    computed = {var for equation in jaxpr.eqns for var in equation.outvars}
    given = {
        var: value
        for var, value in zip(results, chosen, strict=True)
        if not isinstance(var, Literal) and var in computed and var.aval.dtype == value.dtype
    }
    rest = [equation for equation in jaxpr.eqns if not given.keys() >= set(equation.outvars)]
    again = {var for equation in rest for var in equation.outvars}
    given = {var: value for var, value in given.items() if var not in again}
    updates = jaxpr_as_fun(
        ClosedJaxpr(
            jaxpr.replace(
                constvars=[*jaxpr.constvars, *given], eqns=rest, outvars=jaxpr.outvars[:number]
            ),
            [*closed.consts, *given.values()],
        )
    )(*old)
    return jax.tree.unflatten(jax.tree.structure(shapes[0]), updates), held
