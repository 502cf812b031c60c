"""SAGA over blocks of rows, for features that are read piece by piece.

1. A table holds the residual of each row when it was last seen, and averages the gradients that
   belong to it, G.
2. For a block of rows: its residuals now, and the change g of its part of the gradient since.
3. w <- prox(w - t (m g + G)), with m blocks in all; the bias likewise, without the proximal step.
4. The table takes the new residuals, and G <- G + g.

Each epoch reads all blocks once, in random order. G estimates the whole gradient, so the optimality
conditions are checked after each epoch at no cost. A step that is too long shows in them: then the
epochs restart with half of it.

The authors stop where the loss of an epoch no longer falls by 1e-4, which leaves the small lambdas
unsolved, and their step of 0.1 is fixed. Here the violation of the optimality conditions decides.

Reference: Wong, Santurkar and Madry, "Leveraging Sparse Linear Layers for Debuggable Deep
Networks", ICML 2021, appendix A, after Defazio et al., "SAGA", NeurIPS 2014.
"""

import jax
import numpy as np
from jax import Array

from jsparse.heads._problem import Fit, Problem
from jsparse.heads._rows import Blockwise, outputs_of, slopes_of

STEP = 0.1
"""The first one, the authors'."""
PATIENCE, PROGRESS = 3, 0.9
"""FISTA takes over after this many epochs in which the violation did not fall to this share."""
WORSE = 10.0
"""A violation this many times that of the start, or of lambda: the step was too long."""


def saga(
    rows: Blockwise,
    problem: Problem,
    start: Fit,
    lam: Array,
    step: float,
    stop: tuple[float, int],
    rng: np.random.Generator,
) -> tuple[Fit, float]:
    """Continue from a head until its optimality is near the tolerance or stops improving.

    Outputs and slope of `start` are those at its weights; `stop` is the tolerance and how many
    epochs at most. Returns the new head, and a step for the next lambda.
    """
    tolerance, most = stop
    first = float(problem.violation(start.weight, start.slope, lam))
    state, table = _initial(problem, start)
    best, since, epochs = first, 0, 0
    while best > tolerance and since < PATIENCE and epochs < most:
        for n in rng.permutation(len(rows)):
            part = rows.part(n)
            x, few = rows.read(part), problem.rows(part)
            state, table[part] = _step(x, few, table[part], state, lam, step, len(rows))
        epochs += 1
        now = float(problem.violation(state[0], state[2:], lam))
        if not now <= WORSE * max(first, 1.0):  # NaN too
            state, table = _initial(problem, start)
            step, best, since = step / 2, first, 0
            continue
        since = 0 if now < PROGRESS * best else since + 1
        best = min(best, now)
    if not epochs:
        return start, step
    outputs = rows.forward(*state[:2])
    slope = rows.backward(problem.residual(outputs))
    fit = start._replace(weight=state[0], bias=state[1], outputs=outputs, slope=slope)
    return fit, step * (1.0 if best <= tolerance else 0.5)


def _initial(problem: Problem, start: Fit) -> tuple[tuple, np.ndarray]:
    """Weight, bias, gradients, and the table that goes with them (1)."""
    return (start.weight, start.bias, *start.slope), np.array(problem.residual(start.outputs))


@jax.jit
def _step(
    x: Array, problem: Problem, old: Array, state: tuple, lam: Array, step: float, blocks: int
) -> tuple[tuple, Array]:
    """A step on one block: the new state and residuals."""
    weight, bias, *average = state
    residual = problem.residual(outputs_of(x, weight, bias))
    change = slopes_of(x, residual - old)  # 2
    far = [old + blocks * new for old, new in zip(average, change, strict=True)]
    weight = problem.shrunk(weight - step * far[0], step, lam)  # 3
    bias = bias - step * far[1]
    return (weight, bias, *(a + g for a, g in zip(average, change, strict=True))), residual  # 4
