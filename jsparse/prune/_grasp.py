"""GraSP: keep the weights that preserve gradient flow, before the first step.

1. g = dL/dw at initialization, over all batches; L is computed from logits / 200.
2. Hg, the product of the Hessian of the same loss with g, again over all batches.
3. Importance: -w * Hg, to first order half of the increase in the squared norm of the gradient when
   the weight is removed. The weights with the LARGEST importance are removed, since the gradient is
   larger without them; hence score = w * Hg here, high = kept.
4. The highest scores over all layers are kept.

Mind the sign: scores are not absolute values, and the weights kept first are those whose removal
would shrink the gradient most. Only prunable weights enter g and H. Dropout is off, and batch norm
uses the statistics of each batch.

Numbers: the rows "GraSP" of experiments/at_birth.py.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._checks import check_density
from jsparse._surgery import Model
from jsparse._untraced import explain_abstract_model, outside_jit
from jsparse._values import by_density, each_batch
from jsparse.prune._choice import Arrays, Selector, check_choice, globally, keep_highest
from jsparse.prune._weights import Loss, held_masks, mean_over, slope, weights_of


@by_density
@outside_jit
def grasp(
    model: Model, loss: Loss, batches: Iterable[Any], *, density: float, choose: Selector = globally
) -> Model:
    """A copy of the model that keeps the weights that preserve gradient flow.

    The authors use 10 samples per class (25 for 200 classes) and divide the logits by 200:

        loss = lambda model, batch: cross_entropy(model(batch[0]) / 200, batch[1]).mean()

    Args:
      model: a model with weights under `Held`, at initialization; masked weights stay masked.
      loss: loss(model, batch) -> [], the mean over the batch; twice differentiable.
      batches: one or more, of the same shape, since each new shape is compiled separately. They are
        processed twice.
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
      >>> model = jsparse.sparsify(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.ones((2, 1))
      >>> loss = lambda model, x: (model(x) ** 2).mean()
      >>> small = grasp(model, loss, [jnp.array([[1.0, 3.0]])], density=0.5)
      >>> jsparse.masks(small)["kernel"].tolist()
      [[0.0], [1.0]]

    Reference: Wang, Zhang and Grosse, Picking winning tickets before training by preserving
    gradient flow, ICLR 2020, algorithm 1 and equation 8.
    """
    check_density(density)
    check_choice(choose)
    return keep_highest(model, grasp_scores(model, loss, batches), density, choose)


@explain_abstract_model
def grasp_scores(model: nnx.Module, loss: Loss, batches: Iterable[Any]) -> dict[str, Array]:
    """The scores of `grasp` by path, [...] like the weights."""
    values, rest, build = weights_of(model)
    masks = held_masks(model)
    batches = list(each_batch(batches))
    gradient = slope(loss, build)

    def product(values: Arrays, rest: Any, g: Arrays, batch: Any) -> Arrays:
        # reverse mode twice: forward mode fails for rules with only a custom backward pass
        def along(values: Arrays) -> Array:
            slopes = gradient(values, rest, batch)
            return sum((jnp.vdot(slopes[path], g[path]) for path in g), jnp.zeros(()))

        return jax.grad(along)(values)

    g = mean_over(batches, gradient, values, rest)  # (1)
    g = {path: (masks[path] * g[path]).astype(value.dtype) for path, value in values.items()}
    hg = mean_over(batches, product, values, rest, g)  # (2)
    return {path: values[path].astype(hg[path].dtype) * hg[path] for path in values}  # (3)
