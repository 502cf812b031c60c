"""SR-STE: keep the largest units and let the others decay, which stabilizes the mask.

1. Within each group of the scope, the fraction `density` of largest units is kept, as in `Top`.
2. In the backward pass, gradients go straight through the mask, and masked weights decay:
       dW = G + decay * (1 - M) * W.

Numbers: the published tables are for ImageNet and were not reproduced; `experiments/structured.py`
measures N of 8 on a small network.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from jsparse._checks import check_density, check_rivalry
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._step import refined
from jsparse._values import by_density, check_in
from jsparse.rules._rule import (
    State,
    check_structure,
    init_by_magnitude,
    mask_of_winners,
    no_cost,
    own_density,
    score_by_magnitude,
    unchanged,
)


@by_density
@dataclass(frozen=True, kw_only=True)
class SRSTE:
    """Keep the fraction of units with the largest magnitude; let the others decay.

        W' = W * M,   dL/dW = dL/dW' + decay * (1 - M) * W

    N:M sparsity, the subject of the paper, is `SRSTE(density=n / m, scope=Groups(m))`. Each read of
    a weight adds the decay once, and forward-mode differentiation is not supported; `refined` in
    `jsparse/_step.py` says why.

    Args:
      density: fraction of the units of each group to keep, in (0, 1]; at least one unit is kept.
      decay: how strongly masked weights decay toward 0, 0 or more.
      unit: what is pruned together: Weight, Kernel, Filter, Channel, Head or Block.
      scope: which units compete: Whole, PerOutput, Groups(m) or WholeModel.
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; decay below 0; a scope in which no units compete.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jsparse._pattern import Groups
      >>> rule = SRSTE(density=0.5, decay=0.1, scope=Groups(2))
      >>> weight = jnp.array([[4.0], [-3.0]])
      >>> state = rule.init(weight, jax.random.key(0))
      >>> jax.grad(lambda w: rule.apply(w, state).sum())(weight).round(1).tolist()
      [[1.0], [0.7]]

    Reference: Zhou et al., Learning N:M fine-grained structured sparse networks, 2021, section 3.
    """

    density: float
    decay: float = 2e-4
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    learned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_structure(self)
        check_density(self.density)
        check_in("[0, inf)", decay=self.decay)
        check_rivalry("SRSTE", self.scope)

    init = init_by_magnitude
    score = score_by_magnitude
    kept = own_density
    mask = mask_of_winners

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked weight; the gradient is that of step 2."""
        return refined(weight, self.mask(weight, state), self.decay)

    cost = no_cost
    advance = unchanged
