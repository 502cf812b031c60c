"""Dynamic Sparse Training: learned thresholds.

1. Each unit of weights has a score, |w| for a single weight.
2. Each output unit has a learned threshold t, 0 at the start. M = step(score - t). Not in the
   paper: t = 0 keeps weights that are 0 too. If they were masked, their gradient would be 0, and a
   layer that is initialized with zeros would never train.
3. The layer reads W * M. In the backward pass, the step has a long-tailed slope H, so the weight
   (even where it is masked) and the threshold both receive gradients:
       dW = G * (M + |W| H(|W| - t)),   dt = -sum(G * W * H(|W| - t)).
4. The loss gains alpha * sum(exp(-t)), which pushes thresholds up.
5. If a layer has dropped to 1 % of its weights or fewer, its thresholds are reset to 0; recurrent
   cells are exempt.
6. Not in the paper: a threshold below -1 is set to -1. Below -1 all weights are kept and the slope
   is 0, so only the cost acts on the threshold, and one large step can take it so low that exp(-t)
   overflows; this is how the authors' code ends in NaN (`experiments/dst_cifar.py`).

Numbers: Table 1 of the paper, in `experiments/dst_mnist.py` and `experiments/dst_lstm.py`.
No figure is published for thresholds on the norm of a unit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._checks import check_threshold_scope, check_weight
from jsparse._counting import any_under_vmap, count
from jsparse._pattern import PerOutput, Role, Scope, Unit, Weight
from jsparse._score import wide
from jsparse._step import Slope, long_tailed, step
from jsparse._values import check_function, check_in, is_number
from jsparse.rules._remaining import lasting_magnitude, whole_shape
from jsparse.rules._rule import (
    State,
    check_structure,
    mask_as_gates,
    sharing,
    to_weights,
    weight_times_mask,
)

LOWEST = -1.0
"""Any lower threshold has the same effect: all weights are kept and the slope is 0."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Keep the units whose magnitude exceeds a learned threshold; all of them while it is 0.

        M = step(s(W) - t),   W' = W * M,   cost = alpha * sum(exp(-t))

    where s is the root mean square of a unit, |w| for a single weight. Below t = -1 the exponential
    continues as its tangent, and the events of the train step set t back to -1.

    Args:
      alpha: weight of the regularizer, 0 or more; higher is sparser. A control such as
        `TargetDensity` may change it while training.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units share a threshold: PerOutput (as in the paper), Whole or Each.
      reset: density at or below which the thresholds of a layer are reset to 0; 0 disables resets.
      reset_recurrent: the same for the weights of recurrent cells: those in an nnx.RNNCellBase,
        and those with Role(recurrent=True).
      slope: used as the derivative of the step.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: alpha or a reset out of range; a scope in which units do not share a threshold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = Threshold(alpha=1e-3)
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> state = rule.init(weight, jax.random.key(0)) | {"threshold": jnp.array([0.25, 0.2])}
      >>> rule.mask(weight, state).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference: Liu et al., Dynamic Sparse Training, ICLR 2020, sections 3.2 to 3.4.
    """

    alpha: float = 5e-4
    unit: Unit = Weight()
    scope: Scope = PerOutput()
    reset: float = 0.01
    reset_recurrent: float = 0.0
    slope: Slope = long_tailed
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ("threshold",)
    alone: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_structure(self)
        check_function(slope=self.slope)
        if not (is_number(self.alpha) and 0 <= self.alpha < float("inf")):
            raise ValueError(
                f"alpha, the weight of the cost, is a number, 0 or more; got {self.alpha!r}. To "
                "change it during training, pass Optimizer a control such as TargetDensity"
            )
        check_threshold_scope("Threshold", self.scope)
        check_in("[0, 1)", reset=self.reset, reset_recurrent=self.reset_recurrent)

    @property
    def reset_limit(self) -> float:
        """Density at or below which the thresholds of this layer are reset; 0 disables resets."""
        return self.reset_recurrent if self.role.recurrent else self.reset

    def init(self, weight: Array, key: Array) -> State:
        """Thresholds at 0, one per group of the scope: [out] by default; and alpha, []."""
        check_weight(weight)
        dtype = wide(weight.dtype)
        groups = [n for n, along in sharing(self, weight.shape) if not along]
        return {"threshold": jnp.zeros(groups, dtype), "alpha": jnp.asarray(self.alpha, dtype)}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 0 or 1; differentiable in weight and threshold."""
        score = lasting_magnitude(self, weight, state)
        threshold = _zero_lowered(state["threshold"]).reshape(
            [1 if along else n for n, along in sharing(self, weight.shape)]
        )
        return to_weights(self, step(score - threshold, self.slope), weight)

    gates = mask_as_gates
    apply = weight_times_mask

    def cost(self, state: State) -> Array:
        """[], alpha * sum(exp(-t)); alpha itself receives no gradient."""
        return lax.stop_gradient(state["alpha"]) * _price(state["threshold"]).sum()

    def advance(self, weight: Array, state: State) -> State:
        """The state with thresholds raised to at least -1, or reset to 0 in a nearly dead layer."""
        limit, threshold = self.reset_limit, jnp.maximum(state["threshold"], LOWEST)
        state = state | {"threshold": threshold}
        if limit == 0 or weight.size == 0:
            return state
        whole = whole_shape(self, weight.shape)
        tiles = [math.prod(self.unit.tile(shape, self.role)) for shape in (weight.shape, whole)]
        size = math.prod(whole) * tiles[0] / tiles[1]  # removed units count as dropped
        dead = self._keeps_at_most(limit * size, weight, state)
        return state | {"threshold": lax.select(dead, jnp.zeros_like(threshold), threshold)}

    @partial(jax.jit, static_argnums=(0, 1), inline=True)
    def _keeps_at_most(self, limit: float, weight: Array, state: State) -> Array:
        """Whether no more than `limit` weights are kept, [].

        If a quarter of the layer already keeps more, the rest need not be counted.
        """

        def few(part: Array) -> Array:
            kept = count(self.mask(part, state) > 0, tuple(range(part.ndim)))
            return kept.astype(jnp.float32) <= limit

        quarter = self._every_fourth(weight)
        if quarter is weight:
            return few(weight)
        return lax.cond(any_under_vmap(few(quarter)), lambda: few(weight), lambda: jnp.array(False))

    def _every_fourth(self, weight: Array) -> Array:
        """Every fourth weight along the longest axis that shares its thresholds.

        The whole weight if it is small or split over devices, if its units are larger than one
        weight, or if no axis shares a threshold.
        """
        shared = [axis for axis, (_, along) in enumerate(sharing(self, weight.shape)) if along]
        apart = any(jax.typeof(weight).sharding.spec)
        if weight.size < 1 << 17 or self.unit != Weight() or not shared or apart:
            return weight
        axis = max(shared, key=lambda a: weight.shape[a])
        return lax.slice_in_dim(weight, 0, weight.shape[axis], 4, axis)


def _zero_lowered(threshold: Array) -> Array:
    """Thresholds, of which 0 becomes the next lower number, so that a score of 0 exceeds it."""
    least = jnp.finfo(threshold.dtype).tiny
    return threshold - (threshold == 0).astype(threshold.dtype) * least


@jax.custom_jvp
def _price(threshold: Array) -> Array:
    """exp(-t), and below -1 its tangent there: [...].

    Automatic differentiation would round otherwise, and repeated runs would end elsewhere.
    """
    return _price_jvp((threshold,), (threshold,))[0]  # the value, for any tangent


@_price.defjvp
def _price_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (threshold,), (change,) = primals, tangents
    bounded = jnp.maximum(threshold, LOWEST)
    there = jnp.exp(-bounded)
    return there * (1 + (bounded - threshold)), -there * change
