"""Top-KAST: a sparse forward pass, and a gradient for somewhat more weights.

1. Forward, the largest weights of each layer count: a fraction `density` of them.
2. Backward, a larger fraction is trained, `backward`: of the weights that do not count those that
   are nearest to it, with the gradient that they would have if they did.
3. All others stand still, with the value that they have, until the trained ones fall below them.
4. A penalty draws all weights that are trained to 0, those that do not count 1 / density times as
   much, so that only what is useful stays: add `cost` of each layer to the loss.

Numbers: no figure of the paper is reproduced here yet. Beside other methods on small networks in
`experiments/compare.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_density
from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_competition, check_steps, largest
from jsparse.rules._rule import to_weights


@dataclass(frozen=True, kw_only=True)
class TopKAST:
    """Keep the largest weights, train some more.

    The trained set is chosen at each step. Before the first choice of masks, after step `every`,
    the masks are those that the model starts with.

    Args:
      density: fraction of the units that count, in (0, 1].
      backward: fraction of the units that are trained, from `density` to 1.
      every: steps between choices of the mask.
      unit: what is kept together; units are scored by root mean squares.
      scope: who competes: `Whole`, `PerOutput` or `Groups`.
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
        check_density(self.backward)
        check_steps(every=self.every)
        check_competition(self)
        if self.backward < self.density:
            raise ValueError(
                f"TopKAST got density={self.density}, backward={self.backward}; what counts is "
                "trained too, so give a backward of density or more"
            )

    def due(self, step: Array) -> Array:
        """Every so many steps."""
        return step % self.every == 0

    def trained(self, mask: Array, weight: Array) -> Array:
        """2. [...], the mask and the largest of the other units."""
        return jnp.maximum(mask, self._largest(mask, weight, self.backward))

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """1. [...], the mask of the largest units."""
        return self._largest(mask, weight, self.density)

    def cost(self, mask: Array, weight: Array) -> Array:
        """4. []: the penalty of a layer, to add to the loss with a factor of one's own.

            sum_i |w_i| where the mask is 1, |w_i| / density elsewhere

        What is not trained has no share in the gradient, whatever its penalty.
        """
        return jnp.sum(jnp.abs(weight) * jnp.where(mask > 0, 1.0, 1.0 / self.density))

    def _largest(self, mask: Array, weight: Array, density: float) -> Array:
        return to_weights(self, largest(self, weight, density), mask)
