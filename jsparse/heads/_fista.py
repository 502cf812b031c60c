"""FISTA on all rows: brings a head to the minimum, within a measured tolerance.

1. From the extrapolated point v, a gradient step and a proximal step: w = prox(v - t grad f(v)).
2. The step t is halved until <grad f(w) - grad f(v), w - v> <= |w - v|^2 / t, and grows by a tenth
   from one iteration to the next. It never needs to be below 1 / (features + 1).
3. Extrapolation by Nesterov's sequence. It restarts where it points uphill: <v - w, w - previous w>
   > 0.
4. Every tenth iteration the optimality conditions are checked.

Outputs are linear in the weights, so those of v follow from those of the last two w: an iteration
costs one product with the features for the gradient and one for each step tried. The condition of
2. is taken from outputs too, as <grad f(w) - grad f(v), w - v> = sum_i (r_i(w) - r_i(v)) (z_i(w) -
z_i(v)), with residuals r and outputs z. It avoids the difference of nearly equal losses.

Reference: Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", SIAM J. Imaging
Sciences 2009, section 4; O'Donoghue and Candes, "Adaptive Restart for Accelerated Gradient
Schemes", 2015, section 3.2, for 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsparse.heads._problem import Fit, Problem
from jsparse.heads._rows import Rows

CHECKED = 10
"""Iterations between two checks."""
GROWTH = 1.1

Loop = Callable[[Callable, Callable, Any], Any]
"""`jax.lax.while_loop`, or `python_loop` for rows that are read from elsewhere."""


class State(NamedTuple):
    """The last point and the extrapolated one, each as weight, bias and outputs."""

    now: tuple[Array, Array, Array]
    ahead: tuple[Array, Array, Array]
    momentum: Array
    step: Array
    passes: Array


def python_loop(cond: Callable, body: Callable, state: Any) -> Any:
    """`jax.lax.while_loop`, one round after the other in Python."""
    while cond(state):
        state = body(state)
    return state


def fista(
    rows: Rows, problem: Problem, start: Fit, lam: Array, tolerance: float, most: int, loop: Loop
) -> Fit:
    """Continue from a head until its optimality is within the tolerance, for at most `most` passes.

    The slope of `start` is that at its weights; `tolerance` is in units of lambda.
    """
    start = start._replace(
        optimality=problem.violation(start.weight, start.slope, lam),
        passes=jnp.zeros_like(start.passes),
    )

    def unsolved(both: tuple[State, Fit]) -> Array:
        return (both[1].optimality > tolerance) & (both[1].passes < most)

    def checked(both: tuple[State, Fit]) -> tuple[State, Fit]:
        until = both[0].passes + CHECKED
        state = loop(
            lambda state: state.passes < until,
            lambda state: _iterated(rows, problem, state, lam, loop),
            both[0],
        )
        weight, bias, outputs = state.now
        slope = rows.backward(problem.residual(outputs))
        optimality = problem.violation(weight, slope, lam)
        return state, Fit(weight, bias, outputs, slope, state.step, state.passes, optimality)

    now = (start.weight, start.bias, start.outputs)
    state = State(now, now, jnp.ones_like(start.step), start.step, start.passes)
    return loop(unsolved, checked, (state, start))[1]


def _iterated(rows: Rows, problem: Problem, state: State, lam: Array, loop: Loop) -> State:
    """The state after an iteration: steps 1 to 3."""
    weight, bias, outputs = state.ahead
    residual = problem.residual(outputs)
    slope = rows.backward(residual)
    least = 1 / (weight.shape[0] + 1)

    def stepped(step: Array) -> tuple[Array, tuple[Array, Array, Array], Array]:
        new = problem.shrunk(weight - step * slope[0], step, lam), bias - step * slope[1]  # 1
        ends = rows.forward(*new)
        curved = jnp.vdot(problem.residual(ends) - residual, ends - outputs)
        length = ((new[0] - weight) ** 2).sum() + ((new[1] - bias) ** 2).sum()
        return step, (*new, ends), (curved <= length / step) | (step <= least)  # 2

    step, new, _ = loop(
        lambda tried: ~tried[2], lambda tried: stepped(tried[0] / 2), stepped(state.step)
    )
    moved = [one - old for one, old in zip(new, state.now, strict=True)]
    back = [old - one for one, old in zip(new, state.ahead, strict=True)]
    uphill = jnp.vdot(back[0], moved[0]) + jnp.vdot(back[1], moved[1]) > 0  # 3
    momentum = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2)
    far = jnp.where(uphill, 0, (state.momentum - 1) / momentum)
    ahead = tuple(one + far * by for one, by in zip(new, moved, strict=True))
    return State(new, ahead, momentum, step * GROWTH, state.passes + 1)


compiled_fista = jax.jit(fista, static_argnames=("most", "loop"))
"""`fista` in one compiled program, for features that are in memory."""
