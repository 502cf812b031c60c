"""Powerpropagation: the larger a weight, the faster it grows; such weights prune well.

1. The trained parameter is theta, and w = theta |theta|^(alpha - 1), with alpha 1 or more.
2. It starts at theta = sign(w) |w|^(1 / alpha), so w starts at the initial value of the layer.
3. In the backward pass, dtheta = G alpha |theta|^(alpha - 1): small weights hardly move.
4. The largest weights are kept, M = top(|theta|), and dtheta is multiplied by M.

Numbers: the paper reports LeNet-300-100 only as a curve; `experiments/compare.py` compares methods
on small networks. No figure is published for units larger than a single weight.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jsparse._checks import check_density, check_rivalry, check_weight
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._step import masked, signed_power
from jsparse._values import by_density, check_in
from jsparse.rules._rule import (
    State,
    check_structure,
    mask_of_winners,
    no_cost,
    own_density,
    score_by_magnitude,
    unchanged,
    with_cut,
)


@by_density
@dataclass(frozen=True, kw_only=True)
class Powerpropagation:
    """Train theta, let the layer read a power of it, and keep the largest units.

        W' = theta |theta|^(alpha - 1) * top(|theta|)

    The Param holds theta instead of the weight. First train with density 1; then
    `sparsify(fold(model), (pattern, Powerpropagation(density=...)))` prunes the model for further
    training. A theta of exactly 0 stays 0, because its gradient is 0: use another rule for layers
    that are initialized with zeros.

    Args:
      density: fraction of the units of each group to keep, in (0, 1]; 1 trains a dense model.
      alpha: the power, 1 or more; with 1 the rule is `Top` without a straight-through gradient.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block; units are
        compared by the root mean square of theta.
      scope: which units compete: Whole, PerOutput, Groups(m) or WholeModel.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; alpha below 1; a scope in which no units compete.

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
        check_structure(self)
        check_density(self.density)
        check_rivalry("Powerpropagation", self.scope)
        check_in("[1, inf)", alpha=self.alpha)

    def init(self, weight: Array, key: Array) -> State:
        """theta, [...], which replaces the weight; with scope `WholeModel` also the cut, [4].

        Raises:
          ValueError: the group size of the scope does not divide the length of its axis.
        """
        check_weight(weight)
        theta = signed_power(weight, 1 / self.alpha)
        return with_cut(self, theta, {"weight": theta})

    score = score_by_magnitude
    kept = own_density
    mask = mask_of_winners

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked power of theta."""
        return masked(signed_power(weight, self.alpha), self.mask(weight, state))

    cost = no_cost
    advance = unchanged
