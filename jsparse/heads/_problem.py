"""What a head minimizes, and how far it is from the minimum.

    sum_i s_i loss(x_i W + b, y_i) + lambda ((1 - a) / 2 |W|^2 + a sum of sizes of W)

The x_i are standardized; s_i is 1 / n for each of n training rows and 0 for the others. The sizes
are |W_jk|, or, grouped by feature, the 2-norms of the rows W_j. The bias is not penalized.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LEAST_MIX = 1e-3
"""At the start of the path a smaller mix is replaced by this one, as in the authors' code."""


def norms(weight: Array) -> Array:
    """The 2-norm of each feature's weights, [features, 1]."""
    return jnp.sqrt((weight**2).sum(axis=1, keepdims=True))


def identity(outputs: Array) -> Array:
    """The mean that outputs stand for in regression: themselves."""
    return outputs


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["targets", "share", "mix"],
    meta_fields=["mean", "size"],
)
@dataclass(frozen=True)
class Problem:
    """The loss and the penalty, without their weight lambda."""

    targets: Array  # [rows, outputs]; of classes, 1 for the one and 0 for the others
    share: Array  # the weight of each row, [rows]
    mix: Array  # a, the part of the penalty that makes zeros
    mean: Callable[[Array], Array]  # from outputs to what they predict: softmax or the identity
    size: Callable[[Array], Array]  # of weights: [features, outputs], or grouped [features, 1]

    @jax.jit
    def residual(self, outputs: Array) -> Array:
        """The gradient of the loss by the outputs, [rows, outputs]."""
        return self.share[:, None] * (self.mean(outputs) - self.targets)

    def rows(self, part: slice) -> "Problem":
        """The problem of some rows."""
        return replace(self, targets=self.targets[part], share=self.share[part])

    @jax.jit
    def shrunk(self, weight: Array, step: Array, lam: Array) -> Array:
        """The proximal step: each size is reduced by step * lambda * a, at most to 0."""
        size, cut = self.size(weight), step * lam * self.mix
        left = jnp.where(size > cut, 1 - cut / jnp.where(size > cut, size, 1), 0)
        return left * weight / (1 + step * lam * (1 - self.mix))

    @jax.jit
    def violation(self, weight: Array, slope: tuple[Array, Array], lam: Array) -> Array:
        """The largest violation of the optimality conditions (KKT), divided by lambda; [].

        The gradient of the smooth part has the size lambda * a against the sign of a weight that is
        not 0, and at most this size where the weight is 0; the gradient by the bias is 0.
        """
        smooth = slope[0] + lam * (1 - self.mix) * weight
        size = self.size(weight)
        direction = weight / jnp.where(size > 0, size, 1)
        alive = self.size(smooth + lam * self.mix * direction)
        dead = jnp.maximum(self.size(smooth) - lam * self.mix, 0)
        worst = jnp.where(size > 0, alive, dead).max()
        return jnp.maximum(worst, jnp.abs(slope[1]).max()) / lam

    @jax.jit
    def largest(self, slope: tuple[Array, Array]) -> Array:
        """The lambda from which on all weights are 0, given the gradients there; []."""
        return self.size(slope[0]).max() / jnp.maximum(self.mix, LEAST_MIX)


class Fit(NamedTuple):
    """A head that is being solved."""

    weight: Array  # of the standardized features, [features, outputs]
    bias: Array  # [outputs]
    outputs: Array  # of all rows, [rows, outputs]
    slope: tuple[Array, Array]  # gradients of the loss, without the penalty, by weight and bias
    step: Array  # the solver's last step size, []
    passes: Array  # over the data, []
    optimality: Array  # how far it is from the minimum, see `violation`, []
