"""How a weight changes to compensate for a factor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jsparse.export._shrinking.cut import Cut
from jsparse.export._shrinking.places import Where, named


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """The change of a weight w: factor * (w + plus) - plus.

    Attributes:
      factor: one for all elements, or one for each, [...] as the weight of full size, but of
        length 1 along axes where they are the same.
      plus: what is added to the weight before it is used.
    """

    factor: float | np.ndarray
    plus: float = 0.0

    def of(self, value: jax.Array, cut: Cut | None) -> jax.Array:
        """The weight, cut already, after it in its dtype; a weakly typed one stays so."""
        wide = jnp.promote_types(value.dtype, jnp.float32)
        given = value if value.dtype == wide else value.astype(wide)
        factor = self.factor
        if isinstance(factor, np.ndarray):
            for axis, kept in cut.keep.items() if cut else ():
                factor = factor.take(kept, axis) if factor.shape[axis] > 1 else factor
            factor = jnp.asarray(factor, wide)
        made = factor * (given + self.plus) - self.plus
        return made if value.dtype == wide else made.astype(value.dtype)

    def times(self, factor: float, where: Where) -> float | np.ndarray:
        """The factor times another one at some places: one number where all are the same."""
        if where is None:
            return self.factor * factor
        for axis in range(where.ndim):
            first = where.take([0], axis)
            where = first if (where == first).all() else where
        each = self.factor * np.where(where, factor, 1.0)
        return float(each.flat[0]) if (each == each.flat[0]).all() else each

    def by_path(self, path: str) -> dict[str, float]:
        """The factor by path of the weight, or of its parts, such as `kernel[:, 0:16]`."""
        if not isinstance(self.factor, np.ndarray):
            return {path: self.factor}
        values = [float(one) for one in np.unique(self.factor) if one != 1]
        return {f"{path}[{named(self.factor == one)}]": one for one in values}
