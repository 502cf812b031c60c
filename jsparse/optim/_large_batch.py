"""Large batches: LAMB and LARS as in the papers, for models with thresholds and gates.

1. The weights of layers take steps proportional to their own norm: the trust ratio of each layer.
2. Thresholds, gate logits, biases and norm scales do not. Parameters that start at 0 would hardly
   move with steps proportional to their norm, so all of these go to Adam, without decay.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from jsparse._paths import map_by_path, named
from jsparse._roles import role_of
from jsparse._schedule import check_curve
from jsparse._slots import slots
from jsparse._sparse import Sparse
from jsparse._values import check_flag, check_in, check_transform, check_whole, is_number, known

Rate = optax.ScalarOrSchedule
_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm)


def lamb(
    model: Any,
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bounds: tuple[float, float] = (0.0, float("inf")),
) -> optax.GradientTransformationExtraArgs:
    """Adam whose step in each layer is phi(norm of the weights) / (norm of the step) times as long.

    With Adam's bias-corrected r, the step is u = r + weight_decay * w, multiplied by
    phi(|w|) / |u|, where phi clips |w| to `bounds`, or by 1 where a norm is 0. All parameters other
    than weights of layers (see `route`) take Adam's own step at the same rate. `optax.lamb` differs
    in applying the trust ratio to every parameter; thresholds that start at 0 then hardly move.
    What a stored mask hides is in no norm under `jsparse.Optimizer`; other optimizers see it.

    Args:
      model: nnx.Module, or another tree of arrays to train.
      learning_rate: a number or a schedule, such as one from `batch_schedule`.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
      weight_decay: for the weights of layers only.
      bounds: lower and upper bound of the norm in the trust ratio.

    Returns:
      An optax transform for `jsparse.Optimizer`.

    Raises:
      TypeError: the learning rate is neither a number nor a schedule.
      ValueError: a number out of range; the model has no weights of layers.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, lamb(model, 1e-2), wrt=nnx.Param)

    Reference: You et al., Large batch optimization for deep learning, ICLR 2020, algorithm 2.
    """
    _check_rates(learning_rate=learning_rate)
    check_in("[0, 1)", **known(b1=b1, b2=b2))
    check_in("[0, inf)", **known(eps=eps, weight_decay=weight_decay))
    pair = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(map(is_number, bounds))
    if not pair or not 0 <= bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be a lower and a higher norm, both 0 or more; got {bounds}")
    low, high = bounds

    def scaled(step: Array, weight: Array, stack: int) -> Array:
        size, length = _norm(weight, stack), _norm(step, stack)
        return _or_one(size, length, jnp.clip(size, low, high) / length) * step

    weights = optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay),
        _by_layer(scaled, _weight_stacks(model)),
        optax.scale_by_learning_rate(learning_rate),
    )
    return route(model, weights, optax.adam(learning_rate, b1, b2, eps))


def lars(
    model: Any,
    learning_rate: Rate,
    *,
    rest_learning_rate: Rate = 1e-3,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    coefficient: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum whose rate in each layer is proportional to |w| / |g|.

    The gradient g + weight_decay * w is multiplied by
    coefficient * |w| / (|g| + weight_decay * |w|), or by 1 where a norm is 0; the learning rate and
    then the momentum follow. `optax.lars` divides by the norm of the sum instead. All parameters
    other than weights of layers (see `route`) go to Adam with a separate rate, since the rates of
    LARS are hundreds of times those of Adam.

    Args:
      model: nnx.Module, or another tree of arrays to train.
      learning_rate: for the weights of layers, a number or a schedule.
      rest_learning_rate: for everything else, the rate of Adam.
      momentum: decay of the accumulated steps.
      nesterov: whether to use Nesterov momentum.
      weight_decay: for the weights of layers only.
      coefficient: the trust coefficient of the paper.

    Returns:
      An optax transform for `jsparse.Optimizer`.

    Raises:
      TypeError: a rate is neither a number nor a schedule.
      ValueError: a number out of range; the model has no weights of layers.

    Reference: You et al., Large batch training of convolutional networks, 2017, algorithm 1.
    """
    _check_rates(learning_rate=learning_rate, rest_learning_rate=rest_learning_rate)
    check_in("[0, 1)", **known(momentum=momentum))
    check_in("[0, inf)", **known(weight_decay=weight_decay))
    check_in("(0, inf)", **known(coefficient=coefficient))
    check_flag(nesterov=nesterov)

    def scaled(gradient: Array, weight: Array, stack: int) -> Array:
        size, slope = _norm(weight, stack), _norm(gradient, stack)
        local = coefficient * size / (slope + weight_decay * size)
        return _or_one(size, slope, local) * (gradient + weight_decay * weight)

    weights = optax.chain(
        _by_layer(scaled, _weight_stacks(model)),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum, nesterov),
    )
    return route(model, weights, optax.adam(rest_learning_rate))


def route(
    model: Any, weights: optax.GradientTransformation, rest: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """One transform for the weights of layers, another for everything else.

    Everything else means thresholds, gate logits, scores and whatever else a rule learns, biases,
    parameters of normalization, and parameters of rank 1. If a tree of arrays is a tuple, such as
    (params, learned) from `jsparse.tree`, only its first element has weights of layers.

    Args:
      model: nnx.Module, or another tree of arrays to train.
      weights: any optax transform, for kernels, embeddings and other weights.
      rest: any optax transform, for everything else.

    Returns:
      An optax transform.

    Raises:
      TypeError: one of the two is not an optax transform.
      ValueError: the model has no weights of layers.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> tx = route(model, optax.adamw(1e-3, weight_decay=0.1), optax.adam(1e-3))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    """
    check_transform(weights=weights, rest=rest)
    stacks = _weight_stacks(model)

    def labels(params: Any) -> Any:
        label = lambda path, _: "weights" if path in stacks else "rest"
        return map_by_path(label, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    tx = optax.partition({"weights": weights, "rest": rest}, labels)
    tx.update.routed = True  # type: ignore[attr-defined]  # decay is as asked for: see Optimizer
    return tx


def batch_schedule(
    batch: int,
    *,
    samples: int,
    epochs: float,
    learning_rate: float,
    at_batch: int,
    warmup_epochs: float,
) -> optax.Schedule:
    """The learning rate of a run at one batch size, from a recipe known for another.

    The rate is proportional to the square root of the batch size, and the length of the warm-up to
    the batch size. After a linear warm-up, the rate decreases linearly to 0.

    Args:
      batch: samples per step.
      samples: samples per epoch.
      epochs: length of the run.
      learning_rate: peak rate at batch size `at_batch`.
      at_batch: batch size of the recipe.
      warmup_epochs: length of the warm-up at batch size `at_batch`.

    Returns:
      An optax schedule over train steps.

    Raises:
      ValueError: a number out of range; a warm-up as long as the run.

    Example:
      >>> rate = batch_schedule(
      ...     256, samples=50_000, epochs=10, learning_rate=4e-2, at_batch=1024, warmup_epochs=2
      ... )
      >>> [round(float(rate(step)), 4) for step in (0, 97, 1950)]
      [0.0, 0.02, 0.0]

    Reference: You et al., Large batch optimization for deep learning, ICLR 2020, section 4.3.
    """
    check_whole(batch=batch, at_batch=at_batch, samples=samples)
    check_in("(0, inf)", epochs=epochs, learning_rate=learning_rate)
    check_in("[0, inf)", warmup_epochs=warmup_epochs)
    steps = int(epochs * (samples // batch))
    warmup = int(warmup_epochs * batch / at_batch * (samples // batch))
    if not 0 <= warmup < steps:
        raise ValueError(
            f"at batch {batch} the run has {steps} steps and the warm-up {warmup}; train for more "
            "epochs, warm up for fewer, or use a smaller batch"
        )
    peak = learning_rate * (batch / at_batch) ** 0.5
    rise = optax.linear_schedule(0.0, peak, max(1, warmup))
    fall = optax.linear_schedule(peak, 0.0, steps - warmup)
    return optax.join_schedules([rise, fall], [warmup])


def _check_rates(**rates: Rate) -> None:
    """Refuse rates below 0 and schedules that are not finite."""
    for name, rate in known(**rates).items():
        check_curve("(-inf, inf)" if callable(rate) else "[0, inf)", **{name: rate})  # type: ignore


def _by_layer(
    scaled: Callable[[Array, Array, int], Array], stacks: Mapping[str, int]
) -> optax.GradientTransformation:
    """Scale the step of each weight by a function of step, weight and number of stacked axes."""

    def scale(steps: Any, weights: Any) -> Any:
        one = lambda path, step, weight: scaled(step, weight, stacks[path]).astype(step.dtype)
        return map_by_path(one, steps, weights)

    return optax.stateless(scale)


def _or_one(size: Array, length: Array, ratio: Array) -> Array:
    """The ratio of two norms, 1 where one of them is 0."""
    return jnp.where((size > 0) & (length > 0), ratio, 1.0)


def _norm(array: Array, stack: int) -> Array:
    """The norm of each layer of a stack: [stack..., rest...] -> [stack..., 1...], float32."""
    wide = array.astype(jnp.float32)
    return jnp.sqrt(jnp.sum(wide * wide, axis=tuple(range(stack, array.ndim)), keepdims=True))


def _weight_stacks(model: Any) -> dict[str, int]:
    """Number of leading axes that stack layers, for each weight of a layer, by path."""
    stacks = _in_module(model) if isinstance(model, nnx.Module) else _in_tree(model)
    if not stacks:
        raise ValueError(
            "the model has no weights of layers: no array of rank 2 or more that is not a bias or "
            "part of a normalization"
        )
    return stacks


def _in_module(model: nnx.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for slot in slots(model):
        if isinstance(slot.value, Sparse):
            found[f"{slot.path}/weight"] = slot.value.rule.role.stack
        elif isinstance(slot.value, nnx.Param) and not isinstance(slot.parent, _NORMS):
            rank = slot.value[...].ndim
            stack = role_of(slot.parent, slot.key, rank).stack
            if slot.key != "bias" and rank - stack >= 2:
                found[slot.path] = stack
    return found


def _in_tree(tree: Any) -> dict[str, int]:
    return {
        path: 0
        for path, leaf in named(tree).items()
        if jnp.ndim(leaf) >= 2
        and path.rpartition("/")[2] not in ("bias", "scale")
        and (not isinstance(tree, tuple) or path.startswith("0/"))
    }
