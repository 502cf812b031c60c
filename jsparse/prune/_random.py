"""Random masks: the baseline for every method, and the initial masks of SET and RigL.

1. Each weight has a random score.
2. The highest scores of each layer are kept, as many as a budget says.

Numbers: the rows "random" of experiments/at_birth.py.
"""

import jax
from jax import Array

from jsparse._coupled import shared_value
from jsparse._surgery import Model
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_key
from jsparse.prune._choice import Selector, by_layer, keep_highest, stored_parts
from jsparse.rules._rule import APART

EVENLY = by_layer()


@by_density
@outside_jit
def random(model: Model, *, density: float, key: Array, choose: Selector = EVENLY) -> Model:
    """A copy of the model that keeps random weights.

    With `choose=by_layer(jsparse.schedule.erdos_renyi_kernel)` thin layers keep more; SET and RigL
    start from such masks.

    Args:
      model: a model with weights, or groups of coupled units, under `Held`; what is masked stays
        masked.
      density: fraction of these weights to keep, in (0, 1].
      key: random key; the same key gives the same masks.
      choose: how many weights each layer keeps.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; no weight under `Held`.

    Example:
      >>> import jax, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> int(jsparse.masks(random(model, density=0.5, key=jax.random.key(0)))["kernel"].sum())
      6

    Reference: Evci et al., Rigging the lottery (RigL), ICML 2020, section 3 ("static").
    """
    check_key(key=key)
    key = jax.random.fold_in(key, APART)  # or Rngs(0) and key(0) draw weights and mask alike
    scores = {
        path: jax.random.uniform(
            jax.random.fold_in(key, n), shared_value(part, part.weight[...]).shape
        )
        for n, (path, part) in enumerate(stored_parts(model).items())
    }
    return keep_highest(model, scores, density, choose)
