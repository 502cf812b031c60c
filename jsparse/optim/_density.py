"""Density control: adjust alpha of learned thresholds to reach a given final density."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jsparse._checks import check_density
from jsparse._schedule import cubic
from jsparse._slots import sparse_parts
from jsparse._sparse import Sparse
from jsparse._values import by_density, check_in, check_whole
from jsparse.rules._remaining import whole_shape
from jsparse.rules._threshold import Threshold


@by_density
@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetDensity:
    """Adjust alpha during training so a model with learned thresholds ends at a given density.

    The goal decreases from 1 to `density` along a cubic curve over the first fraction `ramp` of the
    steps. With e = log(current density / goal):

        alpha = alpha_0 * exp(memory) * max(0, exp(gain * e) - 1)
        memory += gain_memory * e / steps

    so a model at or below its goal is not pushed, and only the gradient of the data brings weights
    back. Within a factor of two of its reset density, a layer's alpha is scaled down linearly,
    reaching 0 at the reset.

    Args:
      density: fraction of the weights under `Threshold` rules to keep at the end, in (0, 1].
      steps: train steps of the whole run, as counted by the optimizer.
      ramp: fraction of the steps after which the goal equals `density`.
      gain: how strongly alpha responds to the current distance.
      gain_memory: how strongly it responds to the distance accumulated over the run, which counts
        as one unit of time.
      every: steps between corrections.

    Raises:
      ValueError: density or ramp outside (0, 1], steps or every below 1, a gain out of range.

    Reference: none; the paper has no target density.
    """

    density: float
    steps: int
    ramp: float = 0.7
    gain: float = 8.0
    gain_memory: float = 40.0
    every: int = 10

    def __post_init__(self) -> None:
        check_density(self.density)
        check_whole(steps=self.steps, every=self.every)
        check_in("(0, inf)", gain=self.gain)
        check_in("[0, inf)", gain_memory=self.gain_memory)
        check_in("(0, 1]", ramp=self.ramp)

    def init(self, model: nnx.Module) -> Array:
        """The initial memory, []: nothing is accumulated yet.

        Raises:
          ValueError: the model has no learned thresholds, or one with alpha 0.
        """
        parts = threshold_parts(model)
        if not parts or any(_rule(part).alpha == 0 for part in parts.values()):
            raise ValueError(
                f"TargetDensity adjusts alpha of Threshold rules, but found {len(parts)} weights "
                "under Threshold; all need alpha > 0. For a fixed density use Top(density=...)"
            )
        return jnp.zeros(())

    def apply(self, model: nnx.Module, memory: Array, step: Array) -> Array:
        """Set each alpha for the next step, every `every` steps; on other steps nothing changes.

        Args:
          model: the model in training; its alphas are set in place.
          memory: [], what `init` or the last call returned.
          step: [], integer, the number of steps before this one.

        Returns:
          The new memory, [].
        """
        parts = list(threshold_parts(model).values())
        rate = self.gain_memory * self.every / self.steps

        def steer(_: None) -> tuple[Array, list[Array]]:
            kept = [_kept(part) for part in parts]
            total = sum(k.sum() for k in kept) / sum(map(_size, parts))
            distance = jnp.log(jnp.maximum(total, 1e-6)) - jnp.log(self.goal(step))
            grown = jnp.clip(memory + rate * distance, -8.0, 8.0)
            push = jnp.exp(grown) * jnp.expm1(jnp.clip(self.gain * distance, 0.0, 4.0))
            return grown, [push * _alpha(part, k) for part, k in zip(parts, kept, strict=True)]

        def stay(_: None) -> tuple[Array, list[Array]]:
            return memory, [part.alpha[...] for part in parts]

        memory, alphas = lax.cond(step % self.every == 0, steer, stay, None)
        for part, alpha in zip(parts, alphas, strict=True):
            part.alpha[...] = alpha
        return memory

    def goal(self, step: Array) -> Array:
        """The goal for the density after `step` steps, []."""
        return cubic(1.0, self.density, 0, max(1, round(self.ramp * self.steps)))(step)


def threshold_parts(model: nnx.Module) -> dict[str, Sparse]:
    """The weights of a model under a `Threshold` rule, by path."""
    return {p: part for p, part in sparse_parts(model).items() if isinstance(part.rule, Threshold)}


def _rule(part: Sparse) -> Threshold:
    assert isinstance(part.rule, Threshold)
    return part.rule


def _size(part: Sparse) -> int:
    """Number of weights, including those of units removed during training."""
    shape = part.weight.shape
    stack = part.rule.role.stack
    return math.prod(shape[:stack]) * math.prod(whole_shape(part.rule, shape[stack:]))


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
