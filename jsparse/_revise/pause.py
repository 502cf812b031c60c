"""Steps that do not train, without copying the optimizer state.

On a paused step the state must not change. Computing the updates from the new state and selecting
between the old and the new state afterwards would keep both alive: XLA would copy the old state at
each step and compute the new one twice. So the state is selected first, and the updates are
computed from the selected state. (If a single jitted function computes both the state and the
updates, it still runs twice.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun


def pausing(update: Callable[[Any], tuple[Any, Any]], state: Any, pause: Array) -> tuple[Any, Any]:
    """`update(state)`, but on a pause the state is the old one and the updates are meaningless.

    `update` is traced: state -> (updates, next state of the same structure).

    Example:
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
