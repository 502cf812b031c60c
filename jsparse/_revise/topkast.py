"""Top-KAST: a sparse forward pass, and gradients for a larger set of weights.

1. The forward pass uses the largest weights of each layer, a fraction `density` of them.
2. The backward pass trains a larger fraction, `backward`: also the largest of the other weights,
   with the gradients that they would have if the forward pass used them.
3. The remaining weights are frozen at their values, until trained weights shrink below them.
4. A penalty pulls all trained weights toward 0, by a factor 1 / density more strongly if the
   forward pass does not use them, so only useful weights persist: add the `cost` of each layer to
   the loss.

Numbers: no figure of the paper is reproduced here yet; `experiments/compare.py` compares methods on
small networks.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_density
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_competition, check_steps, largest
from jsparse._score import absolute
from jsparse._values import by_density, check_in
from jsparse.rules._rule import to_weights


@by_density
@dataclass(frozen=True, kw_only=True)
class TopKAST:
    """Use the largest weights, in the forward pass; train a larger set.

    The trained set is chosen at each step. The model keeps its initial masks until they are first
    updated, after step `every`.

    Args:
      density: fraction of the units that the forward pass uses, in (0, 1].
      backward: fraction of the units that are trained, from `density` to 1.
      every: steps between updates of the mask.
      unit: what is kept together; units are scored by root mean square.
      scope: which units compete: `Whole`, `PerOutput` or `Groups`.
      role: the meaning of the weight's axes; see `roles` of `revise`.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = jnp.array([4.0, 3.0, 2.0, 1.0])
      >>> by = TopKAST(density=0.25, backward=0.75)
      >>> by.trained(jnp.array([1.0, 0.0, 0.0, 0.0]), weight).tolist()
      [1.0, 1.0, 1.0, 0.0]

    Reference: Jayakumar et al., Top-KAST: Top-K always sparse training, NeurIPS 2020.
    """

    density: float
    backward: float
    every: int = 1
    unit: Unit = Weight()
    scope: Scope = Whole()
    role: Role = Role()
    pauses: ClassVar[bool] = False
    clears: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_density(self.density)
        check_in("(0, 1]", backward=self.backward)
        check_steps(every=self.every)
        check_competition(self)
        if self.backward < self.density:
            raise ValueError(
                f"TopKAST got density={self.density}, backward={self.backward}; kept units "
                "are trained too, so set backward to density or more"
            )

    def due(self, step: Array) -> Array:
        """Every `every` steps."""
        return step % self.every == 0

    def trained(self, mask: Array, weight: Array) -> Array:
        """2. [...], the mask together with the largest of the other units."""
        return jnp.maximum(mask, self._largest(mask, weight, self.backward))

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """1. [...], the mask of the largest units."""
        return self._largest(mask, weight, self.density)

    def cost(self, mask: Array, weight: Array) -> Array:
        """4. []: the penalty of a layer, to add to the loss with a coefficient of your choice.

            sum_i |w_i| where the mask is 1, |w_i| / density elsewhere

        Weights that are 0, and those that are not trained, get no gradient from the penalty.
        """
        return jnp.sum(absolute(weight) * jnp.where(mask > 0, 1.0, 1.0 / self.density))

    def _largest(self, mask: Array, weight: Array, density: float) -> Array:
        return to_weights(self, largest(self, weight, density), mask)
