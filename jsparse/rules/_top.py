"""Magnitude: at each forward pass, keep the largest units of the dense weight.

1. Each unit has a score, its root mean square.
2. Within each group of the scope, the fraction `density` of units with the highest scores is kept.
3. In the backward pass, gradients go straight through the mask: dW = G.

Numbers: the baseline of other methods' experiments; no figure of its own is published.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jsparse._checks import check_density, check_rivalry
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._step import straight_through
from jsparse._values import by_density
from jsparse.rules._rule import (
    State,
    check_structure,
    init_by_magnitude,
    mask_as_gates,
    mask_of_winners,
    no_cost,
    own_density,
    score_by_magnitude,
    unchanged,
)


@by_density
@dataclass(frozen=True, kw_only=True)
class Top:
    """Keep the fraction of units with the largest magnitude, with a straight-through gradient.

        W' = W * M,   dL/dW = dL/dW'

    N:M sparsity is `Top(density=n / m, scope=Groups(m))`. The density counts units: if blocks
    at an edge are smaller, the density in weights differs slightly.

    Args:
      density: fraction of the units of each group to keep, in (0, 1]; at least one unit is kept.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units compete: Whole, PerOutput, Groups(m) or WholeModel.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; a scope in which no units compete.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jsparse._pattern import Groups
      >>> rule = Top(density=0.5, scope=Groups(2))
      >>> weight = jnp.array([[0.3, -0.1], [0.2, 0.5]])
      >>> rule.mask(weight, rule.init(weight, jax.random.key(0))).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference: Han et al., Learning both weights and connections, 2015, section 3; Zhou et al.,
    Learning N:M fine-grained structured sparse networks, 2021, section 3.1.
    """

    density: float
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_structure(self)
        check_density(self.density)
        check_rivalry("Top", self.scope)

    init = init_by_magnitude
    score = score_by_magnitude
    kept = own_density
    mask = mask_of_winners
    gates = mask_as_gates

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked weight; the gradient passes straight through to the dense weight."""
        return straight_through(weight, self.mask(weight, state))

    cost = no_cost
    advance = unchanged
