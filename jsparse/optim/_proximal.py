"""Proximal steps: an L1 or group penalty whose zeros are exact, around an optax transform.

1. The transform takes its step without the penalty: z = w + u.
2. Its step s of each weight is found: the learning rate for SGD, lr / (sqrt(nu) + eps) for Adam.
3. The weights become the minimum of the penalty and of the distance from z, in the metric 1 / s:

       w = argmin_x  sum_i (x_i - z_i)^2 / (2 s_i) + strength * sum_g sqrt(p_g) * |x_g|

   for groups g of p_g weights. For single weights this is sign(z) * max(|z| - s * strength, 0).
4. A group is 0 where |z_g / s_g| <= strength * sqrt(p_g). Elsewhere, with a = s * strength *
   sqrt(p_g) and n the norm of the result, x_i = z_i * n / (n + a_i), where n solves
   sum_i (z_i / (n + a_i))^2 = 1: by Newton's method on the inverse norm, from below. With equal
   steps in a group the first guess is exact, the usual group soft threshold.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array, lax

from jsparse._checks import check_unit, check_weight
from jsparse._paths import map_by_path, match, named, naming, pairs
from jsparse._pattern import Role, Unit, Weight
from jsparse._schedule import Schedule, at, check_curve
from jsparse._tiles import pool, spread, stacked_tile, unit_sizes
from jsparse._values import check_is, check_pattern, check_transform, shown
from jsparse.optim._response import Ones, check_responds, initial_state, next_state, response

EACH, PLAIN = Weight(), Role()
MOST = 50
"""Iterations of Newton's method; it takes 1 with equal steps in a unit, otherwise about 4."""


class ProximalState(NamedTuple):
    """The state of the transform inside, what finds its step, and how many steps there were, []."""

    inner: Any
    ones: Ones
    taken: Array


class Strength(NamedTuple):
    """Of the penalty on a weight, whose axes have these roles."""

    value: float | Schedule
    role: Role = PLAIN

    def at(self, count: Array) -> float | Array:
        """The strength after so many steps."""
        return at(self.value, count) if callable(self.value) else self.value


def proximal(
    tx: optax.GradientTransformation,
    *strengths: tuple[str, float | Schedule],
    unit: Unit = EACH,
    role: Role = PLAIN,
) -> optax.GradientTransformationExtraArgs:
    """Train with an L1 or group penalty that makes weights, or whole units, exactly 0.

        loss + strength * sum_g sqrt(p_g) * |w_g|

    over the units g of each weight, p_g being the number of weights in one: L1 for `Weight()`, the
    group lasso for `Filter()` and others. The penalty is not part of your loss. After each step of
    `tx` its proximal step is taken, in the metric of `tx`: with the learning rate for SGD, with
    lr / (sqrt(nu) + eps) for Adam. So adaptive optimizers minimize the same sum as SGD, where a
    soft threshold by the learning rate alone would minimize another. With momentum, the step is the
    one that a constant gradient would have produced.

    It takes sgd (with momentum or Nesterov's), adam, adamw, nadam, radam, adamax, amsgrad, adagrad
    and rmsprop without momentum, with schedules and `inject_hyperparams`, and refuses others.
    Transforms that clip gradients belong before it in a chain; `MultiSteps`, `partition` and
    `masked` belong around it. Nothing may follow it in a chain.

    Args:
      tx: an optax transform, learning rate included.
      *strengths: pairs of a pattern for paths and a strength of 0 or more, or its curve over the
        steps, such as `schedule.cubic(0.0, 0.05, 0, 1000)`; the first match wins. A weight under a
        rule is at "kernel/weight".
      unit: what becomes 0 together.
      role: which axes are outputs, inputs, heads and stacked layers, if not [..., input, output].

    Returns:
      An optax transform.

    Raises:
      TypeError: tx is not an optax transform, unit not a unit, or role not a Role.
      ValueError: a strength below 0; no pair; a pattern that is invalid, or that matches no
        parameter, or one that the unit does not fit (at `init`); a transform whose step cannot be
        determined.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Filter
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> tx = proximal(optax.adam(1e-3), ("kernel", 0.05), unit=Filter())
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    Reference: Yuan and Lin, Model selection and estimation in regression with grouped variables,
    2006, section 2; Yun et al., Adaptive proximal gradient methods for structured neural
    networks, NeurIPS 2021, algorithm 1; Wang et al., Neural pruning via growing regularization,
    ICLR 2021, section 3.2 (strengths that grow).
    """
    check_transform(tx=tx)
    check_unit(unit)
    check_is(Role, "a Role", role=role)
    chosen = tuple((p, Strength(s, role)) for p, s in checked_strengths(strengths))

    def check(params: Any) -> None:
        arrays = named(params)
        for path in match(arrays, chosen):
            with naming(path):
                check_weight(arrays[path])
                stacked_tile(unit, arrays[path].shape, role)

    def after(params: Any, moves: Any, steps: Any, count: Array) -> Any:
        by = match(named(params), chosen)

        def move(path: str, weight: Array, moved: Array, step: Array) -> Array:
            if path not in by:
                return moved
            wide = weight.astype(jnp.float32)
            tile = stacked_tile(unit, weight.shape, role)
            new = prox(wide + moved, step.astype(jnp.float32) * by[path].at(count), tile)
            return (new - wide).astype(moved.dtype)  # of a zero exactly -w

        return map_by_path(move, params, moves, steps)

    return followed_by(tx, "proximal", check, after)


def followed_by(
    tx: optax.GradientTransformation,
    name: str,
    check: Callable[[Any], None],
    after: Callable[[Any, Any, Any, Array], Any],
) -> optax.GradientTransformationExtraArgs:
    """A transform whose every move is changed by a proximal step in its metric.

    Args:
      tx: an optax transform, learning rate included.
      name: what errors call it.
      check: refuses weights, when it starts.
      after: (weights, moves, steps, count) -> moves; steps as `response` gives them, and the count
        of moves before.
    """
    check_responds(tx)
    whole = optax.with_extra_args_support(tx)

    def init(params: Any) -> ProximalState:
        check(params)
        return ProximalState(whole.init(params), initial_state(tx), jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, ProximalState]:
        if params is None:
            raise ValueError(f"{name} needs the weights: call update(grads, state, params)")
        moves, inner = whole.update(updates, state.inner, params, **extra)
        steps = response(whole, state.inner, inner, state.ones, params, extra)
        new = ProximalState(inner, next_state(tx, state.ones), state.taken + 1)
        return after(params, moves, steps, state.taken), new

    return optax.GradientTransformationExtraArgs(init, update)


def prox(z: Array, step: Array, tile: tuple[int, ...]) -> Array:
    """The group soft threshold in a metric, by tiles: steps 3 and 4.

    `step` is that of each weight times the strength, [...] like z.
    """
    if all(extent == 1 for extent in tile):
        return jnp.sign(z) * jnp.maximum(jnp.abs(z) - step, 0.0)
    a = step * jnp.sqrt(spread(unit_sizes(z.shape, tile), _even(tile, z.shape), z.shape))
    ratio = lambda top, bottom: jnp.where(top == 0, 0.0, top / jnp.where(top == 0, 1.0, bottom))
    total = lambda x: pool(x, tile)
    over = lambda units: spread(units, tile, z.shape)
    dead = total(ratio(z, a) ** 2) <= 1.0
    size = jnp.abs(z)
    most = lambda x: pool(jnp.maximum(x, 0.0), tile, jnp.max)
    norm = jnp.sqrt(total(z**2))
    low = jnp.maximum(norm - most(a), most(size - a))  # no ratio below is above 1

    def better(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        n, _, number = carry
        below = over(n) + a
        squares = ratio(z, below) ** 2
        q = jnp.sqrt(total(squares))
        gain = (q - 1.0) * ratio(q**2, total(ratio(squares, below)))
        change = jnp.where(dead, 0.0, jnp.maximum(gain, 0.0))  # from below: it only grows
        return n + change, change, number + 1

    def unsettled(carry: tuple[Array, Array, Array]) -> Array:
        n, change, number = carry
        return (number < MOST) & (change > 1e-6 * n).any()

    n, _, _ = lax.while_loop(unsettled, better, better((low, low, jnp.zeros((), jnp.int32))))
    return jnp.where(over(dead), 0.0, z * ratio(over(n), over(n) + a))


def _even(tile: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The tile for spreading `unit_sizes`, which has length 1 along axes divided evenly."""
    return tuple(n if n % t == 0 else t for t, n in zip(tile, shape, strict=True))


def checked_strengths(strengths: tuple) -> tuple[tuple[str, float | Schedule], ...]:
    """The pairs, if they are."""
    found = pairs(strengths) if strengths else ()
    example = 'pass pairs of a pattern and a strength, such as (".*", 0.05)'
    if not found:
        raise ValueError(f"strengths: none given; {example}")
    for pair in found:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise ValueError(f"strengths: {example}; got {shown(pair)}")
        check_pattern(pattern=pair[0])
        check_curve("[0, inf)", strength=pair[1])
    return found
