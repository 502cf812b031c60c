"""The step of an optax transform: how far it moves a weight per unit of gradient, found by trying.

1. A transform moves a weight by -step * average of its gradients + decay, where the step may hold a
   metric of second moments, such as lr / (sqrt(nu) + eps) in Adam. Its first moments are linear in
   the gradients. So the step is minus the update that it would make if all gradients up to now had
   been 1, with the second moments as they are and the weights at 0, where there is no decay.
2. The first moments that gradients of 1 give come from running the transform on a single number.
3. The gradient of the trial and its first moments are tiny, so that the second moments, which are
   divided by their decay first, come out as in the real update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

FIRST, SECOND, HIGHEST = ("mu", "trace"), ("nu", "sum_of_squares"), ("nu_max",)
"""Fields of states: linear in the gradients; averages of their squares; maxima of these."""
LINEAR = ("EmptyState", "TraceState", "ScaleByScheduleState", "InjectStatefulHyperparamsState")
METRIC = ("ScaleByAdamState", "ScaleByAmsgradState", "ScaleByRmsState", "ScaleByRmsWithCountState")
METRIC += ("ScaleByRssState",)
TINY = 1e-14
SMALL, TRIED = 1e-3, (2, 2)
REMEDY = (
    "it takes sgd, with momentum or not, adam, adamw, nadam, radam, adamax, amsgrad, adagrad and "
    "rmsprop without momentum. Put what clips or scales gradients before it, optax.chain(..., "
    "proximal(optax.adam(1e-3), ...)), and MultiSteps, partition and masked around it; a mask "
    "inside is a function of the parameters"
)


class Ones(NamedTuple):
    """The state of a transform on a single number whose gradient is always 1."""

    state: Any


def check_responds(tx: optax.GradientTransformation) -> None:
    """Refuse transforms whose steps are not those of a gradient in a metric of second moments."""
    with jax.ensure_compile_time_eval():
        try:
            initial_state(tx)
            state = tx.init(jnp.zeros(TRIED))
            names = list(_names(state))
            if unknown := [name for name in names if name not in LINEAR + METRIC]:
                raise ValueError(f"its state {unknown[0]} is not known")
            if "TraceState" in names and set(names) & set(METRIC):
                raise ValueError("it has momentum as well as second moments")
            for count in (0, 1, 100):
                _check_linear(tx, _at_count(state, count))
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise ValueError(
                f"proximal cannot determine the step of tx: {error}; {REMEDY}"
            ) from error


def initial_state(tx: optax.GradientTransformation) -> Ones:
    """Before the first gradient."""
    return Ones(tx.init(jnp.zeros(())))


def next_state(tx: optax.GradientTransformation, ones: Ones) -> Ones:
    """After one more gradient."""
    return Ones(tx.update(jnp.ones(()), ones.state, jnp.zeros(()))[1])


def response(tx: Any, before: Any, after: Any, ones: Ones, params: Any, extra: dict) -> Any:
    """The step of each weight, 0 or more, by the states before and after the update."""
    zero = jnp.zeros(())
    decayed = tx.update(zero, _filled(ones.state, zero, 1.0), zero)[1]

    def moments(name: str, old: Any, new: Any, one: Any, less: Any) -> Any:
        if name in FIRST:  # 2
            return jax.tree.map(lambda a: jnp.full_like(a, TINY * one), old)
        if name in SECOND:  # 3
            return jax.tree.map(lambda a: a / less.astype(a.dtype), new)
        return new

    state = _with_moments(moments, before, after, ones.state, decayed)
    fill = lambda value: jax.tree.map(lambda a: jnp.full_like(a, value), params)
    moves, _ = tx.update(fill(TINY), state, fill(0.0), **extra)
    return jax.tree.map(lambda move: jnp.maximum(-move / TINY, 0.0), moves)


def _filled(state: Any, first: Any, second: Any) -> Any:
    """A state on a single number, with other first and second moments."""
    fill = lambda name, part: jnp.full_like(part, first if name in FIRST else second)
    return _with_moments(fill, state)


def _with_moments(moments: Callable[..., Any], state: Any, *others: Any) -> Any:
    """The state, each of its moments made from the name and the moments of all states."""
    if not isinstance(state, tuple):
        return state  # counts and hyperparameters
    names = getattr(state, "_fields", ("",) * len(state))
    known = FIRST + SECOND + HIGHEST
    parts = [
        moments(name, *same) if name in known else _with_moments(moments, *same)
        for name, *same in zip(names, state, *others, strict=True)
    ]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _names(state: Any) -> Any:
    """The classes of the states in a state; masked ones without their own state are known."""
    if not isinstance(state, tuple):
        return
    if type(state).__name__ == "MaskedState" and isinstance(state[0], optax.EmptyState):
        return
    if hasattr(state, "_fields"):
        yield type(state).__name__
    for part in state:
        yield from _names(part)


def _at_count(state: Any, count: int) -> Any:
    """A state at some count, second moments 1 and first moments 0."""
    counted = lambda a: jnp.issubdtype(jnp.result_type(a), jnp.integer)
    new = jax.tree.map(lambda a: jnp.full_like(a, count) if counted(a) else a, state)
    return _filled(new, 0.0, 1.0)


def _check_linear(tx: optax.GradientTransformation, state: Any) -> None:
    """Refuse updates that are not linear in the gradient, weight by weight.

    The state is that of an array of shape `TRIED`, whose first element alone has a gradient here.
    """

    def move(gradient: float, weight: float) -> np.ndarray:
        given = jnp.zeros(TRIED).at[0, 0].set(gradient)
        return np.asarray(tx.update(given, state, jnp.full(TRIED, weight))[0], np.float64)

    one, two = move(SMALL, 0.0), move(2 * SMALL, 0.0)
    size = abs(one[0, 0])
    if one[0, 0] > 0:
        raise ValueError(
            "its steps ascend the gradient; end the chain with optax.scale_by_learning_rate"
        )
    if np.abs(one).sum() > 1.01 * size:
        raise ValueError("its steps depend on gradients of other weights")
    if np.abs(two - 2 * one).max() > 2e-2 * size:
        raise ValueError("its steps do not grow with the gradient at fixed second moments")
    for weight in (1.0, 3.0):
        decay = move(0.0, weight)
        rounding = 4 * np.finfo(np.float32).eps * np.abs(decay).max()
        if np.abs(move(SMALL, weight) - decay - one).max() > 2e-2 * size + rounding:
            raise ValueError("its steps depend on the size of the weights")
