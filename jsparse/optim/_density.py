"""Density control: adjust alpha of learned thresholds to reach a given final density."""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jsparse._checks import check_density
from jsparse._counting import any_under_vmap
from jsparse._schedule import cubic
from jsparse._slots import ruled_parts
from jsparse._sparse import Sparse
from jsparse._values import by_density, check_in, check_whole
from jsparse._variables import write
from jsparse.optim._task import norm
from jsparse.rules._remaining import whole_shape
from jsparse.rules._threshold import Threshold

MOVES = 4.0
"""A cost with this many times the task's gradient moves thresholds; more moves them no further."""
AT_GOAL = math.log(math.e - 1.0)
"""softplus of it is 1."""
BELOW = 0.07
"""This far below its goal, as a fraction of it, a model is not pushed at all."""


@by_density
@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetDensity:
    """Adjust alpha during training so a model with learned thresholds ends at a given density.

    The goal decreases from 1 to `density` along a cubic curve over the first fraction `ramp` of the
    steps. With e = log(current density / goal):

        alpha = alpha_0 * min(bound, exp(memory) * below(e) * softplus(gain * e + log(exp(1) - 1)))
        memory += gain_memory * e / steps
        below(e) = clip(1 + e / 0.07, 0, 1)

    At its goal, a model is pushed by exp(memory) * alpha_0, which the memory makes as strong as
    what brings weights back. The response to a distance is nearly linear: a steeper one oscillates
    ever more widely where thresholds lag, as under momentum. At 7 % below its goal, a model is no
    longer pushed, and only the gradient of the data brings weights back; with a density of 1 it
    never is. Within a factor of two of its reset density, a layer's alpha is scaled down linearly,
    reaching 0 at the reset; for a goal that layers cannot meet above it, make the rule with
    reset=0.

    The bound is what moves thresholds: there the cost's gradient has 4 times the largest norm that
    the task's gradient for the same thresholds had so far, where finite (and alpha_0 is always
    allowed), so a step that `optax.apply_if_finite` or loss scaling skips leaves it as it was. More
    would move them no further under Adam, dwarf the task's gradient in a global norm, and throw
    thresholds past all weights under SGD. While alpha is at its bound, the memory does not grow. So
    alpha, and the cost reported, follow the scale of the task's loss.

    Only layers whose thresholds are trained are steered and counted, so a frozen layer does not
    change the goal of the others. In runs up to 1,000 steps, `Optimizer` warns if its steps are too
    short for thresholds to get there. It cannot know whether weights keep ahead of thresholds, as
    they may where steps stay long while gradients shrink (Lion, signs, a short memory of squared
    gradients): give thresholds a higher rate there, `route(model, tx, optax.adam(1e-2))`.

    Args:
      density: fraction of the weights under `Threshold` rules to keep at the end, in (0, 1]: of
        layers whose thresholds are trained.
      steps: train steps of the whole run, as counted by the optimizer.
      ramp: fraction of the steps after which the goal equals `density`.
      gain: how strongly alpha responds to the current distance.
      gain_memory: how strongly it responds to the distance accumulated over the run, which counts
        as one unit of time.
      every: steps between corrections; at most a two-hundredth of the run.

    Raises:
      ValueError: density or ramp outside (0, 1], steps or every below 1, a gain out of range.

    Reference: none; the paper has no target density.
    """

    density: float
    steps: int
    ramp: float = 0.7
    gain: float = 4.0
    gain_memory: float = 40.0
    every: int = 10

    def __post_init__(self) -> None:
        check_density(self.density)
        check_whole(steps=self.steps, every=self.every)
        check_in("(0, inf)", gain=self.gain)
        check_in("[0, inf)", gain_memory=self.gain_memory)
        check_in("(0, 1]", ramp=self.ramp)

    def init(self, model: nnx.Module) -> Array:
        """The initial memory, [2]: what is accumulated, and the task's largest gradient so far.

        Raises:
          ValueError: the model has no learned thresholds, or one with alpha 0.
        """
        parts = threshold_parts(model)
        if not parts or any(_rule(part).alpha == 0 for part in parts.values()):
            raise ValueError(
                f"TargetDensity adjusts alpha of Threshold rules, but found {len(parts)} weights "
                "under Threshold; all need alpha > 0. For a fixed density use Top(density=...)"
            )
        return jnp.zeros(2)

    def apply(
        self, model: nnx.Module, memory: Array, step: Array, gradients: Mapping[str, Array]
    ) -> Array:
        """Set each alpha for the next step, every `every` steps; on other steps nothing changes.

        Args:
          model: the model in training; its alphas are set in place.
          memory: [2], what `init` or the last call returned.
          step: [], integer, the number of steps before this one.
          gradients: `jsparse.optim.task_gradients` of this step; thresholds that are not in it are
            frozen.

        Returns:
          The new memory, [2].
        """
        steered = {f"{path}/threshold": part for path, part in threshold_parts(model).items()}
        pulls = {path: gradients[path] for path in steered if path in gradients}
        parts = [steered[path] for path in pulls]
        if not parts:
            return memory
        every = max(1, min(self.every, self.steps // 200))
        due = step % every == 0

        def steer() -> tuple[Array, list[Array]]:
            kept = [_kept(part) for part in parts]
            total = sum(k.sum() for k in kept) / sum(map(_size, parts))
            distance = jnp.log(jnp.maximum(total, 1e-6)) - jnp.log(self.goal(step))
            grown = memory[0] + self.gain_memory * every / self.steps * distance
            grown = jnp.clip(grown, -8.0, 8.0)
            push = jnp.exp(grown) * jax.nn.softplus(self.gain * distance + AT_GOAL)
            push = push * jnp.clip(1.0 + distance / BELOW, 0.0, 1.0) * float(self.density < 1)
            pull = norm(pulls.values())
            peak = jnp.where(jnp.isfinite(pull), jnp.maximum(memory[1], pull), memory[1])
            bound = jnp.maximum(1.0, MOVES * peak / norm(map(_cost_slope, parts)))
            grown = jnp.where(push > bound, jnp.minimum(grown, memory[0]), grown)
            push = jnp.minimum(push, bound)
            alphas = [push * _alpha(part, k) for part, k in zip(parts, kept, strict=True)]
            new = jnp.stack([grown, peak]), alphas
            return jax.tree.map(partial(jnp.where, due), new, now)

        now = memory, [part.alpha[...] for part in parts]
        memory, alphas = lax.cond(any_under_vmap(due), steer, lambda: now)
        for part, alpha in zip(parts, alphas, strict=True):
            write(part.alpha, alpha)
        return memory

    def goal(self, step: Array) -> Array:
        """The goal for the density after `step` steps, []."""
        return cubic(1.0, self.density, 0, max(1, round(self.ramp * self.steps)))(step)


def threshold_parts(model: nnx.Module) -> dict[str, Sparse]:
    """The weights of a model under a `Threshold` rule, by path."""
    return {p: part for p, part in ruled_parts(model).items() if isinstance(part.rule, Threshold)}


def _rule(part: Sparse) -> Threshold:
    assert isinstance(part.rule, Threshold)
    return part.rule


def _size(part: Sparse) -> int:
    """Number of weights, including those of units removed during training."""
    shape = part.weight.shape
    stack = part.rule.role.stack
    return math.prod(shape[:stack]) * math.prod(whole_shape(part.rule, shape[stack:]))


def _cost_slope(part: Sparse) -> Array:
    """The gradient of the cost at the rule's own alpha, without its sign: like the thresholds."""
    return _rule(part).alpha * jnp.exp(-part.threshold[...])


def _kept(part: Sparse) -> Array:
    """Number of weights kept in each layer of a stack: shaped like alpha."""
    mask = part.read_mask().astype(jnp.float32)
    return mask.sum(axis=tuple(range(part.alpha[...].ndim, mask.ndim)))


def _alpha(part: Sparse, kept: Array) -> Array:
    """The rule's own alpha, scaled down near the layer's reset: shaped like alpha."""
    limit = _rule(part).reset_limit
    alpha = jnp.full_like(part.alpha[...], _rule(part).alpha)
    if limit == 0:
        return alpha
    size = _size(part) / max(1, kept.size)
    return alpha * jnp.clip(kept / (limit * size) - 1.0, 0.0, 1.0)
