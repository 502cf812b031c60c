"""One head of a path."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jsparse._sparse import Sparse
from jsparse._surgery import sparsify_in_place
from jsparse.rules._held import Held


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """A sparse head at one strength of the penalty; made by `elastic_net_path`.

    Attributes:
      weight: of the standardized features, [features, outputs]; exact zeros where dropped.
      bias: [outputs].
      lam: lambda, the strength.
      kept: number of weights that are not 0.
      accuracy: on the validation rows, or on all if there are none: the fraction of labels that
        are right; in regression R^2, the explained part of the variance of all outputs together.
      regression: whether the outputs are targets of a regression; classes otherwise.
      optimality: the largest violation of the optimality conditions, in units of lambda.
      mean: of the features over the training rows, [features].
      std: their deviation, 0 for a constant feature, [features].
    """

    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    lam: float
    kept: int
    accuracy: float
    regression: bool = False
    optimality: float
    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)

    @property
    def features_per_class(self) -> float:
        """Weights that are not 0, per output."""
        return self.kept / self.weight.shape[1]

    @property
    def raw_weight(self) -> np.ndarray:
        """The weight for raw features, [features, outputs]: divided by their deviation."""
        return self.weight * inverse(self.std)[:, None]

    def head(self) -> nnx.Linear:
        """The head as a layer on raw features, its kernel under `Held`.

        The mean goes into the bias and the deviation into the kernel, so the outputs are those of
        `weight` and `bias` on standardized features.

        Returns:
          An `nnx.Linear`, features to outputs; 0 for dropped weights.
        """
        features, outputs = self.weight.shape
        layer = nnx.Linear(features, outputs, rngs=nnx.Rngs(0))
        put(layer, self)
        return layer


def words_of(point: Point) -> tuple[str, str]:
    """What a table calls `accuracy`, and what it calls an output."""
    return ("R²", "target") if point.regression else ("accuracy", "class")


def inverse(std: np.ndarray) -> np.ndarray:
    """1 / deviation, [features]; 0 for a constant feature."""
    return np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)


def put(layer: nnx.Linear, point: Point) -> None:
    """Give a layer the head's kernel, under `Held`, and its bias, in the types it has."""
    raw = point.raw_weight
    bias = point.bias.astype(np.float64) - point.mean @ raw
    kernel: Any = layer.kernel.weight if isinstance(layer.kernel, Sparse) else layer.kernel
    dtype = kernel.dtype
    layer.kernel = nnx.Param(jnp.asarray(raw, dtype))
    layer.bias, layer.use_bias = nnx.Param(jnp.asarray(bias, dtype)), True
    sparsify_in_place(layer, ("kernel", Held()))
    layer.kernel.mask[...] = jnp.asarray(point.weight != 0, dtype)  # type: ignore[union-attr]
