"""Wanda: prune a trained model by |weight| times the norm of its input, without weight updates.

1. |X_j|: the norm of input j of the layer over all tokens of the calibration data; in a
   convolution, of each place in the window, over all places of the window.
2. Score: |w_ij| * |X_j|.
3. The highest scores of each output are kept, or N of each M consecutive inputs.
4. Weights are not updated. The next layer is calibrated with the inputs that the pruned one gives.

Here calibration is weight by weight; the authors proceed block by block through the transformer, as
the argument `together` allows.

Numbers: the rows "Wanda" of experiments/one_shot.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_rivalry, check_scope
from jsparse._pattern import PerOutput, Scope, WholeModel
from jsparse._pure import Forward, call
from jsparse._sparse import Sparse
from jsparse._surgery import Model
from jsparse._topk import winners
from jsparse._untraced import outside_jit
from jsparse._values import by_density
from jsparse.prune._calibration import ALONE, densities_of, prune_in_order
from jsparse.prune._inputs import squares, times_inputs
from jsparse.rules._stacked import over_stack

EACH_OUTPUT = PerOutput()


@by_density
@outside_jit
def wanda(
    model: Model,
    batches: Iterable[Any],
    *,
    density: float | Mapping[str, float],
    scope: Scope = EACH_OUTPUT,
    forward: Forward = call,
    together: str = ALONE,
) -> Model:
    """A copy of the model that keeps large weights with large inputs.

    N of M is `density=n / m, scope=Groups(m)`.

    Args:
      model: trained, with weights under `Held` in layers `nnx.Linear`, `nnx.LinearGeneral`
        (attention has these) or `nnx.Conv`; masked weights stay masked.
      batches: calibration data; each new shape is traced and compiled by itself. An operation of
        the model runs once on each, whatever the depth; layers that share weights, and the body
        of a scan, run once for each weight in them.
      density: fraction of the weights of each group of the scope to keep, in (0, 1]; or one for
        each weight by path, such as `owl` gives.
      scope: which weights compete: `PerOutput()`, `Groups(m)` or `Whole()`.
      forward: runs the model on a batch, in eval mode; by default `model(batch)`.
      together: a regular expression for the beginning of a path. Weights in which it matches the
        same text are calibrated before any of them is pruned: "blocks/[0-9]+" a block at a time, in
        two runs, as the authors do; "" all weights on the dense model. By default each by itself.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; a scope in which no units compete; a weight of another
        kind of layer, or of a layer that is not called; no batches; inputs that are not finite; an
        expression that is invalid or matches no path.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(4, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.array([[1.0], [-4.0], [3.0], [-2.0]])
      >>> x = jnp.array([[5.0, 0.1, 1.0, 3.0]])
      >>> jsparse.masks(wanda(model, [x], density=0.5))["kernel"].ravel().tolist()
      [1.0, 0.0, 0.0, 1.0]

    Reference: Sun, Liu, Bair and Kolter, A simple and effective pruning approach for large language
    models, ICLR 2024, equation 1 and algorithm 1.
    """
    check_scope(scope)
    check_rivalry("wanda", scope)
    if isinstance(scope, WholeModel):
        raise ValueError(
            f"wanda compares within a layer, got scope {scope}; use PerOutput(), Whole() or "
            "Groups(m)"
        )

    densities = densities_of(model, density)

    def prune(path: str, part: Sparse, seen: Array) -> tuple[Array, Array]:
        weight, mask = part.weight[...], part.mask[...]
        score = jnp.where(mask > 0, times_inputs(part, seen), -jnp.inf)  # (1, 2)
        best = lambda score: winners(score, densities[path], scope, part.rule.role)
        kept = over_stack(best, part.rule.role.stack)(score)  # (3)
        return weight, mask * kept.astype(mask.dtype)

    return prune_in_order(model, batches, forward, squares, prune, together)
