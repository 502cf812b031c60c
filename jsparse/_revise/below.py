"""Threshold pruning: drop the weights whose magnitude is below a threshold, for good.

1. The threshold of a layer is `quality` times the standard deviation of its kept weights.
2. Every `every` steps, weights of smaller magnitude are dropped. They are 0 and do not come back.
3. The others are trained on.

Numbers: no figure of the paper is reproduced here.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from jsparse._pattern import Role, Scope, Unit, Weight, Whole
from jsparse._revise.revision import check_periodic, only_kept, periodic
from jsparse._values import check_in
from jsparse.rules._rule import check_structure


@dataclass(frozen=True, kw_only=True)
class Below:
    """Drop the weights below a threshold, however many that are.

    Args:
      quality: threshold of a layer, in standard deviations of its kept weights; above 0. With
        1, about a third of normal weights is left; with 4, nothing or almost nothing.
      last: step of the last pruning.
      every: steps between prunings.
      first: step from which prunings are counted: they happen at first + every, first + 2 every,
        ..., and at `first` itself unless it is 0.
      role: the meaning of the weight's axes; see `roles` of `revise`.

    Raises:
      ValueError: steps or a quality out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask, weight = jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array([0.1, 2.0, -2.0, 0.0])
      >>> by = Below(quality=0.5, last=10, every=1)
      >>> by(mask, weight, weight, step=jnp.array(1), key=jax.random.key(0)).tolist()
      [0.0, 1.0, 1.0, 0.0]

    Reference: Han et al., Learning both weights and connections for efficient neural networks,
    NeurIPS 2015, section 3.
    """

    quality: float
    last: int
    every: int = 100
    first: int = 0
    role: Role = Role()
    pauses: ClassVar[bool] = False
    clears: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = False
    grown: ClassVar[float] = 0.0
    unit: ClassVar[Unit] = Weight()
    scope: ClassVar[Scope] = Whole()

    def __post_init__(self) -> None:
        check_in("(0, inf)", quality=self.quality)
        check_structure(self)
        check_periodic(self, "drop anything")

    due = periodic  # 2.
    trained = only_kept

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """1. and 2. [...], the mask of the weights that reach the threshold."""
        return self.moved(mask, weight, weight, step=step, size=mask.size)

    def moved(self, mask: Array, weight: Array, growth: Array, *, step: Array, size: int) -> Array:
        """1. and 2. [...], the same for the links of a packed layer."""
        on = mask > 0
        threshold = self.quality * jnp.std(weight.astype(jnp.float32), where=on)
        small = jnp.abs(weight.astype(jnp.float32)) < threshold  # never where one is NaN
        return (on & ~small).astype(mask.dtype)
