"""SNIP: keep the weights to which the loss is most sensitive, before the first step.

1. g = dL/dw at initialization, accumulated over the batches before the absolute value is taken.
2. Score: |g * w| = |dL/dc|, how fast the loss changes as the weight's connection c moves from 1 to
   0; the authors divide by the sum over all weights, which does not change the order.
3. The highest scores over all layers are kept.

Dropout is off, and batch norm uses the statistics of each batch.

Numbers: the rows "SNIP" of experiments/at_birth.py.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._checks import check_density
from jsparse._surgery import Model
from jsparse._untraced import explain_abstract_model, outside_jit
from jsparse._values import by_density
from jsparse.prune._choice import Selector, check_choice, globally, keep_highest
from jsparse.prune._weights import Loss, mean_over, slope, weights_of


@by_density
@outside_jit
def snip(
    model: Model, loss: Loss, batches: Iterable[Any], *, density: float, choose: Selector = globally
) -> Model:
    """A copy of the model that keeps the weights with the highest connection sensitivity.

    Args:
      model: a model with weights under `Held`, at initialization; masked weights stay masked.
      loss: loss(model, batch) -> [], the mean over the batch.
      batches: one or more, of the same shape, since each new shape is compiled separately.
      density: fraction of the weights to keep, in (0, 1].
      choose: which weights compete: `globally`, or `by_layer(budget)`.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; no weight under `Held`; no batches; NaN scores; a layer
        that would lose all its weights.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(4, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.ones((4, 1))
      >>> loss = lambda model, x: model(x).sum()
      >>> small = snip(model, loss, [jnp.array([[1.0, -3.0, 2.0, 0.0]])], density=0.5)
      >>> jsparse.masks(small)["kernel"].ravel().tolist()
      [0.0, 1.0, 1.0, 0.0]

    Reference: Lee, Ajanthan and Torr, SNIP: single-shot network pruning based on connection
    sensitivity, ICLR 2019, algorithm 1.
    """
    check_density(density)
    check_choice(choose)
    return keep_highest(model, snip_scores(model, loss, batches), density, choose)


@explain_abstract_model
def snip_scores(model: nnx.Module, loss: Loss, batches: Iterable[Any]) -> dict[str, Array]:
    """The scores of `snip` by path, [...] like the weights."""
    values, rest, build = weights_of(model)
    g = mean_over(batches, slope(loss, build), values, rest)  # (1)
    return {path: jnp.abs(g[path] * value.astype(g[path].dtype)) for path, value in values.items()}
