"""What a network's units reveal about its world: a linear map, judged on held-out frames."""

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score


def probe(
    features: np.ndarray, targets: Mapping[str, np.ndarray], held_out: np.ndarray, penalty: float
) -> dict[str, float]:
    """R^2 of ridge regressions on held-out frames; 0 is as good as the mean, 1 is exact.

    Minimizes |y - b - Xw|^2 + penalty n |w|^2, with X standardized on the n frames of the fit.

    Args:
      features: [frames, units].
      targets: [frames] each.
      held_out: [frames], whether a frame is kept from the fit. Frames of one rally resemble each
        other, so they belong on the same side.
      penalty: of the squared weights.

    Returns:
      R^2 of each target.

    Raises:
      ValueError: all frames are on one side.
    """
    fit = ~held_out
    if not fit.any() or fit.all():
        raise ValueError(
            f"held_out is {bool(held_out[0])} for all {len(held_out)} frames; give some to "
            "each side"
        )
    x = np.asarray(features, np.float64)
    mean, spread = x[fit].mean(axis=0), x[fit].std(axis=0)
    x = (x - mean) / np.where(spread > 1e-9, spread, 1.0)
    y = np.stack([*targets.values()], axis=1).astype(np.float64)
    model = Ridge(penalty * fit.sum(), solver="cholesky").fit(x[fit], y[fit])
    found = r2_score(y[held_out], model.predict(x[held_out]), multioutput="raw_values")
    return dict(zip(targets, np.asarray(found).tolist(), strict=True))
