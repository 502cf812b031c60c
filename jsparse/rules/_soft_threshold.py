"""Soft threshold reparameterisation (STR): weights shrink towards 0 by a learned amount.

1. Each layer has a number s, learned, and from it a threshold g(s) = sigmoid(s).
2. The layer reads sign(W) relu(|W| - g(s)).
3. Gradients are those of this formula: none reaches a weight below the threshold.
4. Weight decay on s raises the threshold from s_init, where it is nearly 0.

Numbers: Table 1 of the paper is ImageNet and was not run. Beside other methods on small networks in
`experiments/compare.py`. For units larger than a weight no figure is published.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_not_negative, check_own, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._score import wide
from jsparse._step import masked
from jsparse.rules._rule import State, lasting_magnitude, sharing, to_weights


@dataclass(frozen=True, kw_only=True)
class SoftThreshold:
    """Shrink each unit by a learned threshold; what is below it is 0.

        W' = W * relu(1 - g(s) / rms(W)),   g = sigmoid,   cost = decay / 2 * sum(s^2)

    with rms the root mean square of a unit, so that single weights read sign(W) relu(|W| - g(s)).
    A unit of zeros stays one.

    Args:
      s_init: s at the start. The paper's 90 % sparse ResNet-50 has -3200, where g is 0 in floats
        and decay alone brings it up over half a million steps; near -5 it moves at once.
      decay: weight decay of s, 0 or more; the paper's is that of the weights, 2.25e-5 at 90 %. As a
        part of the loss it is weight decay under SGD, not under Adam.
      unit: what falls together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: who shares a threshold: Whole (the paper's), PerOutput or Each.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: decay out of range; s_init not finite; a scope that shares no threshold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = SoftThreshold(s_init=0.0)
      >>> weight = jnp.array([[0.75, -0.1], [0.25, -2.0]])
      >>> rule.apply(weight, rule.init(weight, jax.random.key(0))).tolist()
      [[0.25, -0.0], [0.0, -1.5]]

    Reference: Kusupati et al., Soft threshold weight reparameterization for learnable sparsity,
    ICML 2020, section 3; constants from the authors' code.
    """

    s_init: float = -5.0
    decay: float = 1e-4
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ("s",)
    alone: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_not_negative(decay=self.decay)
        if not abs(self.s_init) < float("inf"):
            raise ValueError(f"s_init is a finite number, such as -5; got {self.s_init}")
        check_own("SoftThreshold", self.scope, "groups and whole models share no threshold")

    def init(self, weight: Array, key: Array) -> State:
        """s, one a group of the scope: [] by default."""
        check_weight(weight)
        groups = [n for n, along in sharing(self, weight.shape) if not along]
        return {"s": jnp.full(groups, self.s_init, wide(weight.dtype))}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] as the weight, 1 above the threshold, constant for differentiation."""
        return to_weights(self, self._left(weight, state) > 0, weight)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the shrunk weight."""
        return masked(weight, to_weights(self, self._left(weight, state), weight))

    def cost(self, state: State) -> Array:
        """[], the decay of s."""
        return self.decay / 2 * (state["s"] ** 2).sum()

    def advance(self, weight: Array, state: State) -> State:
        """Nothing happens between steps."""
        return state

    def _left(self, weight: Array, state: State) -> Array:
        """What is left of each unit, relu(1 - g(s) / rms): [grid of units]."""
        size = lasting_magnitude(self, weight, state)
        s = state["s"].reshape([1 if along else n for n, along in sharing(self, weight.shape)])
        above = size - jax.nn.sigmoid(s)
        # no division by 0 where a unit is below, in either pass
        return jnp.where(above > 0, above / jnp.where(above > 0, size, 1.0), 0.0)
