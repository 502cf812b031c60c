"""OWL: densities of layers for one-shot pruning, higher where there are more outliers.

1. A_ij = |w_ij| * |X_j| of each weight, with the norm of its input over the calibration data, as in
   Wanda; all on the dense model.
2. D_l: the part of the weights of a layer (a block of a transformer) with A_ij > outlier * mean(A),
   the mean over the layer.
3. The density of a layer is density + 2 * spread * (D_l - D) / (max D - min D), where D is the mean
   of the D_l over all weights, so that the density over all is the given one.

Numbers: the rows "OWL" of experiments/one_shot.py; none is published for a model of that size.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from jsparse._checks import check_density
from jsparse._pure import Forward, call
from jsparse._sparse import Sparse
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_in, check_pattern
from jsparse.prune._calibration import grouped, prune_in_order
from jsparse.prune._inputs import squares, times_inputs


@by_density
@outside_jit
def owl(
    model: nnx.Module,
    batches: Iterable[Any],
    *,
    density: float,
    layers: str,
    spread: float = 0.08,
    outlier: float = 5.0,
    forward: Forward = call,
) -> dict[str, float]:
    """The density of each weight for `wanda` and `sparsegpt`, from the outliers of its layer.

        wanda(model, batches, density=owl(model, batches, density=0.3, layers="blocks/[0-9]+"))

    Args:
      model: trained, with weights under `Held`, as for `wanda`; masked weights do not count.
      batches: calibration data; a list if `wanda` reads it too.
      density: fraction of all weights to keep, in (0, 1).
      layers: a regular expression for the beginning of a path. Weights in which it matches the same
        text are one layer, such as a block of a transformer: "blocks/[0-9]+". A weight in which it
        does not match is a layer by itself, as is every weight with ".*".
      spread: half of the distance between the lowest density and the highest, in [0, 1].
      outlier: how many times the mean of its layer makes a product A an outlier, above 0.
      forward: runs the model on a batch, in eval mode; by default `model(batch)`.

    Returns:
      Densities by path. If all layers have the same share of outliers, all are `density`.

    Raises:
      ValueError: a density that would be 0 or less, or above 1; numbers out of range; as for
        `wanda`.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> model = jsparse.sparsify(model, (".*/kernel", jsparse.Held()))
      >>> found = owl(model, [jnp.eye(4)], density=0.5, layers=".*", outlier=2.0)
      >>> {path: round(density, 3) for path, density in found.items()}
      {'layers/0/kernel': 0.431, 'layers/2/kernel': 0.591}

    Reference: Yin et al., Outlier weighed layerwise sparsity (OWL), ICML 2024, section 3.
    """
    check_density(density)
    check_in("[0, 1]", spread=spread)
    check_in("(0, inf)", outlier=outlier)
    check_pattern(layers=layers)
    found: dict[str, np.ndarray] = {}

    def note(path: str, part: Sparse, seen: Array) -> tuple[Array, Array]:
        weight, mask = part.weight[...], part.mask[...]
        size = np.asarray(times_inputs(part, seen), np.float64)  # (1)
        found[path] = size[np.asarray(mask) > 0]
        return weight, mask

    prune_in_order(model, batches, forward, squares, note, "")
    of = grouped(found, layers=layers)
    counts = np.array([sum(found[path].size for path in own) for own in of])
    parts = np.array([_outliers([found[path] for path in own], outlier) for own in of])
    middle, wide = (parts * counts).sum() / max(counts.sum(), 1), np.ptp(parts)
    each = density + (2 * spread * (parts - middle) / wide if wide else np.zeros(len(parts)))  # (3)
    if each.min() <= 0 or each.max() > 1:
        raise ValueError(
            f"spread {spread} gives densities from {each.min():.3g} to {each.max():.3g}, and they "
            f"must be in (0, 1]; use a smaller spread for density {density}"
        )
    return {path: one for own, one in zip(of, each.tolist(), strict=True) for path in own}


def _outliers(sizes: list[np.ndarray], times: float) -> float:
    """The share of the entries of a layer that exceed a multiple of their mean (2)."""
    joined = np.concatenate(sizes)
    return float((joined > times * joined.mean()).mean()) if len(joined) else 0.0
