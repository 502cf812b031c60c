"""Magnitude pruning: keep the largest weights.

1. Score: |w|.
2. The highest scores are kept.

Before training it prunes the initial values; in a trained model it is the one-shot baseline.

Numbers: the rows "magnitude" of experiments/at_birth.py and experiments/one_shot.py.
"""

from jsparse._surgery import Model
from jsparse._untraced import outside_jit
from jsparse._values import by_density
from jsparse.prune._choice import Selector, globally, keep_highest, magnitudes


@by_density
@outside_jit
def magnitude(model: Model, *, density: float, choose: Selector = globally) -> Model:
    """A copy of the model that keeps its largest weights.

    Args:
      model: a model with weights, or groups of coupled units, under `Held`; what is masked stays
        masked.
      density: fraction of these weights to keep, in (0, 1].
      choose: which weights compete: `globally`, or `by_layer(budget)`.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; no weight under `Held`; a layer that would lose all its
        weights.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(1, 4, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.array([[1.0, -4.0, 3.0, -2.0]])
      >>> jsparse.masks(magnitude(model, density=0.5))["kernel"].tolist()
      [[0.0, 1.0, 1.0, 0.0]]

    Reference: Han et al., Learning both weights and connections, 2015, section 3.
    """
    return keep_highest(model, magnitudes(model), density, choose)
