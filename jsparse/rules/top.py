"""Magnitude: keep the largest, chosen anew from the dense weight at each forward pass.

1. Each unit has a score, its root mean square.
2. Within each group of the scope the highest `density` of the units is kept.
3. Going back the mask is passed straight through: dW = G.

Numbers: the baseline of other methods' experiments; no figure of its own is published.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jsparse.pattern import Each, Groups, Role, Scope, Unit, Weight, Whole, grid_shape, spread, top
from jsparse.rules.rule import State, check_weight
from jsparse.schedule import check_density
from jsparse.score import magnitude
from jsparse.step import straight_through


@dataclass(frozen=True, kw_only=True)
class Top:
    """Keep the fraction of the units with the largest magnitude, with a straight-through gradient.

        W' = W * M,   dL/dW = dL/dW'

    N:M sparsity is `Top(density=n / m, scope=Groups(m))`. The density counts units: where an edge
    cuts blocks, the density in weights differs a little.

    Args:
      density: fraction of the units of each group to keep, in (0, 1]; at least one unit is kept.
      unit: what falls together: Weight, Kernel, Filter, Channel or Block.
      scope: who competes: Whole, PerOutput or Groups(m).
      role: the meaning of the weight's axes; `sparsify` fills it in for stock layers.

    Raises:
      ValueError: density outside (0, 1]; a scope in which nothing competes.

    Example:
      >>> import jax, jax.numpy as jnp
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

    def __post_init__(self) -> None:
        check_density(self.density)
        if isinstance(self.scope, Each):
            raise ValueError(
                "with scope Each() no unit competes, so Top would keep all; use Whole(), "
                "PerOutput() or Groups(m)"
            )

    def init(self, weight: Array, key: Array) -> State:
        """No state.

        Raises:
          ValueError: the groups of the scope do not divide the axis that they lie on.
        """
        check_weight(weight)
        tile = self.unit.tile(weight.shape, self.role)
        self._groups(grid_shape(weight.shape, tile))
        return {}

    def mask(self, weight: Array, state: State) -> Array:
        """[...] as the weight, 0 or 1, constant for differentiation."""
        tile = self.unit.tile(weight.shape, self.role)
        score = magnitude(lax.stop_gradient(weight), tile)
        shape, axes = self._groups(score.shape)
        kept = top(score.reshape(shape), self.density, axes).reshape(score.shape)
        return spread(kept.astype(weight.dtype), tile, weight.shape)

    def apply(self, weight: Array, state: State) -> Array:
        """[...], the masked weight; the gradient passes straight through to the dense weight."""
        return straight_through(weight, self.mask(weight, state))

    def cost(self, state: State) -> Array:
        """[], nothing is learned."""
        return jnp.zeros(())

    def advance(self, weight: Array, state: State) -> State:
        """Nothing happens between steps."""
        return state

    def _groups(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape in which to compare the units, and the axes along which they compete."""
        axes = self.scope.axes(len(grid), self.role)
        if not isinstance(self.scope, Groups):
            return grid, axes
        (axis,) = axes
        size = self.scope.size
        if grid[axis] % size:
            raise ValueError(
                f"axis {axis} has length {grid[axis]}, not a multiple of {size}; "
                "pad it or choose another group size"
            )
        shape = (*grid[:axis], grid[axis] // size, size, *grid[axis + 1 :])
        return shape, (axis + 1,)
