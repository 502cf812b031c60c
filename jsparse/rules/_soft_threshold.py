"""Soft threshold reparameterization (STR): weights shrink toward 0 by a learned amount.

1. Each layer learns a number s, which gives a threshold g(s) = sigmoid(s).
2. The layer reads sign(W) relu(|W| - g(s)).
3. Gradients are those of this formula: weights below the threshold receive none.
4. Weight decay on s raises the threshold from its start at g(s_init), which is almost 0.
5. Not in the paper: while s is at most -16, where g(s) is 1e-7, the threshold counts as 0 and keeps
   all weights, those that are 0 too, and where all weights that share s are 0, s starts at -20 or
   lower. By the formula of step 2 such weights would never receive a gradient.

Numbers: Table 1 of the paper is for ImageNet and was not reproduced; `experiments/compare.py`
compares methods on small networks. No figure is published for units larger than a single weight.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_threshold_scope, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._step import masked
from jsparse._values import check_in
from jsparse.rules._remaining import lasting_magnitude
from jsparse.rules._rule import (
    State,
    check_structure,
    sharing,
    to_weights,
    unchanged,
    unit_magnitude,
)

NEGLIGIBLE = -16.0
"""Up to here the threshold counts as 0: it is 1e-7, the resolution of a weight of 1."""
START_AT_0 = -20.0
"""Where s starts if all weights are 0: low enough for them to move before it counts."""


@dataclass(frozen=True, kw_only=True)
class SoftThreshold:
    """Shrink each unit by a learned threshold; units below it become 0.

        W' = W * relu(1 - g(s) / rms(W)),   g = sigmoid,   cost = decay / 2 * sum(s^2)

    where rms is the root mean square of a unit; for single weights W' = sign(W) relu(|W| - g(s)).
    While s is at most -16 all units are kept as they are.

    Args:
      s_init: initial s. The paper uses -3200 for a 90 % sparse ResNet-50: g is 0 in floating point
        there, and decay alone raises it over half a million steps; near -5 it moves immediately.
        Weights that are all 0 start at -20 or lower, and so train as dense ones at first.
      decay: weight decay of s, 0 or more; the paper uses that of the weights, 2.25e-5 at 90 %. As a
        term of the loss, it acts as weight decay under SGD, but not under Adam.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units share a threshold: Whole (as in the paper), PerOutput or Each.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: decay out of range; s_init not finite; a scope in which units do not share a
        threshold.

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
        check_structure(self)
        check_in("[0, inf)", decay=self.decay)
        check_in("(-inf, inf)", s_init=self.s_init)
        check_threshold_scope("SoftThreshold", self.scope)

    def init(self, weight: Array, key: Array) -> State:
        """s, one per group of the scope: [] by default."""
        check_weight(weight)
        shared = tuple(a for a, (_, along) in enumerate(sharing(self, weight.shape)) if along)
        largest = unit_magnitude(self, weight).max(axis=shared, initial=0.0)
        first = jnp.full_like(largest, self.s_init)
        return {"s": jnp.where(largest == 0, jnp.minimum(first, START_AT_0), first)}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] like the weight, 1 above the threshold; constant for differentiation."""
        return to_weights(self, self.gates(weight, state) > 0, weight)

    def gates(self, weight: Array, state: State) -> Array:
        """The remaining fraction of each unit, relu(1 - g(s) / rms): [grid of units]."""
        size = lasting_magnitude(self, weight, state)
        s = state["s"].reshape([1 if along else n for n, along in sharing(self, weight.shape)])
        above = size - jax.nn.sigmoid(s)
        # no division by 0 below the threshold, in either pass
        left = jnp.where(above > 0, above / jnp.where(above > 0, size, 1.0), 0.0)
        return jnp.where(s <= NEGLIGIBLE, 1.0, left)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the shrunk weight."""
        return masked(weight, to_weights(self, self.gates(weight, state), weight))

    def cost(self, state: State) -> Array:
        """[], the decay of s."""
        return self.decay / 2 * (state["s"] ** 2).sum()

    advance = unchanged
