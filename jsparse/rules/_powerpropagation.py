"""Powerpropagation: weights that grow the faster the larger they are, then prune well.

1. The trained parameter is theta, and w = theta |theta|^(alpha - 1), with alpha 1 or more.
2. It starts at theta = sign(w) |w|^(1 / alpha), so that w starts as the layer initialises it.
3. Going back, dtheta = G alpha |theta|^(alpha - 1): small weights hardly move.
4. The largest are kept: M = top(|theta|), dtheta times M.

Numbers: the paper shows LeNet-300-100 as a curve only. Beside other methods on small networks in
`experiments/compare.py`. For units larger than a weight no figure is published.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_density, check_rivalry, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._step import masked, signed_power
from jsparse.rules._rule import State, unit_magnitude, winning, with_cut


@dataclass(frozen=True, kw_only=True)
class Powerpropagation:
    """Train theta where the layer reads a power of it, and keep the largest.

        W' = theta |theta|^(alpha - 1) * top(|theta|)

    The Param holds theta from then on. Train with density 1; then
    `sparsify(fold(model), (pattern, Powerpropagation(density=...)))` prunes and trains on. A theta
    of exactly 0 stays there, as its gradient is 0: give layers that start at 0 another rule.

    Args:
      density: fraction of the units of each group to keep, in (0, 1]; 1 trains a dense model.
      alpha: the power, 1 or more; 1 is `Top` without its straight-through gradient.
      unit: what falls together: Weight, Kernel, Filter, Channel, Head or Block; units are compared
        by the root mean square of theta.
      scope: who competes: Whole, PerOutput, Groups(m) or WholeModel.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; alpha below 1; a scope in which nothing competes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rule = Powerpropagation(density=0.5, alpha=2.0)
      >>> state = rule.init(jnp.array([4.0, -9.0]), jax.random.key(0))
      >>> theta = state.pop("weight")
      >>> theta.tolist(), rule.apply(theta, state).tolist()
      ([2.0, -3.0], [0.0, -9.0])

    Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 2.
    """

    density: float = 1.0
    alpha: float = 2.0
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_density(self.density)
        check_rivalry("Powerpropagation", self.scope)
        if not 1 <= self.alpha < float("inf"):
            raise ValueError(f"alpha is a power of 1 or more, got {self.alpha}; 1 changes nothing")

    def init(self, weight: Array, key: Array) -> State:
        """theta, [...] as the weight and in its place; for a whole model the cut, [3].

        Raises:
          ValueError: the groups of the scope do not divide the axis that they lie on.
        """
        check_weight(weight)
        theta = signed_power(weight, 1 / self.alpha)
        return with_cut(self, theta, {"weight": theta})

    def score(self, weight: Array, state: State) -> Array:
        """[grid of units], the magnitude of theta."""
        return unit_magnitude(self, weight)

    def kept(self, state: State) -> float:
        """The density."""
        return self.density

    def mask(self, weight: Array, state: State) -> Array:
        """[...] as theta, 0 or 1, constant for differentiation."""
        return winning(self, weight, state)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked power of theta."""
        return masked(signed_power(weight, self.alpha), self.mask(weight, state))

    def cost(self, state: State) -> Array:
        """[], nothing is learned beside theta."""
        return jnp.zeros(())

    def advance(self, weight: Array, state: State) -> State:
        """Nothing happens between steps."""
        return state
