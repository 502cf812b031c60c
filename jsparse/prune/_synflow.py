"""SynFlow: keep the weights on the strongest paths, without any data.

1. The network is made linear: each parameter is replaced by its absolute value, and offsets (biases
   and means) by 0; batch norm is in eval mode, and dropout is off.
2. R = 1^T |W_L| ... |W_1| 1: the sum of the outputs for an input of ones.
3. Score: w * dR/dw, the part of R that flows through the weight; the scores of each layer sum to R.
4. The highest scores over all layers are kept, a fraction density^(k/n) of them in round k of n.
5. Steps 2 to 4 are repeated with the new masks, for n = 100 rounds; a single round may drop a whole
   layer.

R grows like a product over the layers and can overflow float32; the authors compute in float64.
Here the input and the output are scaled by powers of two, which preserves the order of the scores
to the last bit, because the linear network has no offsets.

Numbers: the rows "SynFlow" of experiments/at_birth.py.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jsparse._checks import check_density
from jsparse._pure import calling
from jsparse._score import wide
from jsparse._slots import slots
from jsparse._surgery import Model, fold
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_shape, check_whole
from jsparse.prune._choice import Arrays, Selector, check_choice, globally, held_parts, keep_highest
from jsparse.prune._weights import Weights, held_masks, kept_share, split

LARGEST = 120
"""Largest exponent of the scale."""


@by_density
@outside_jit
def synflow(
    model: Model,
    shape: tuple[int, ...],
    *,
    density: float,
    rounds: int = 100,
    choose: Selector = globally,
    **options: Any,
) -> Model:
    """A copy of the model that keeps the weights with the highest synaptic flow.

    For networks whose layers are linear apart from ReLU, pooling and batch norm.

    Args:
      model: a model with weights under `Held`; masked weights stay masked.
      shape: shape of an input, with its batch axis: (1, 28, 28).
      density: fraction of the weights to keep, in (0, 1].
      rounds: number of pruning rounds.
      choose: which weights compete: `globally`, or `by_layer(budget)`.
      **options: further arguments of the call by name, passed as they are: masks, settings.

    Returns:
      The model with new stored masks.

    Raises:
      ValueError: density out of range; rounds below 1; no weight under `Held`; a model through
        which no signal passes, or whose flow overflows even when scaled; a layer that would lose
        all its weights.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(4, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.array([[1.0], [-4.0], [3.0], [-2.0]])
      >>> jsparse.masks(synflow(model, (1, 4), density=0.5, rounds=2))["kernel"].ravel().tolist()
      [0.0, 1.0, 1.0, 0.0]

    Reference: Tanaka et al., Pruning neural networks without any data by iteratively conserving
    synaptic flow, NeurIPS 2020, algorithm 1 and equation 2.
    """
    check_density(density)
    check_whole(rounds=rounds)
    check_choice(choose)
    flow = _Flow(model, shape, options)
    start = kept_share(held_masks(model))
    for k in range(1, rounds + 1):
        part = min(1.0, start * (density / start) ** (k / rounds)) if density < start else density
        model = keep_highest(model, flow(held_masks(model)), part, choose)  # (4)
    return model


@outside_jit
def synflow_scores(model: nnx.Module, shape: tuple[int, ...], **options: Any) -> dict[str, Array]:
    """The scores of one `synflow` round by path, [...] like the weights, up to a power of two."""
    return _Flow(model, shape, options)(held_masks(model))


class _Flow:
    """The scores of a model under given masks, scaled as for the previous masks."""

    def __init__(self, model: nnx.Module, shape: tuple[int, ...], options: Mapping[str, Any]):
        shape = check_shape("shape", shape)
        self.values, self.rest, build = _linearized(model)
        self.exponent, self.example = 0, jax.ShapeDtypeStruct(shape, jnp.float32)

        @jax.jit
        def scores(values: Arrays, masks: Arrays, rest: Any, exponent: Array) -> Arrays:
            scale = jnp.exp2(exponent)

            def total(values: Arrays) -> Array:  # (2)
                linear: Any = build(values, rest)
                outputs = linear(jnp.full(shape, scale), **options)
                leaves = [leaf for leaf in jax.tree.leaves(outputs) if _is_floating(leaf)]
                return scale * sum((x.astype(jnp.float32).sum() for x in leaves), jnp.zeros(()))

            values = {path: value * masks[path] for path, value in values.items()}
            slopes = jax.grad(total)(values)
            return {path: value * slopes[path] for path, value in values.items()}  # (3)

        self.scores = scores

    def __call__(self, masks: Arrays) -> dict[str, Array]:
        """The scores; if a new scale is needed, it is set to bring the highest score near 1."""
        tries = [self.exponent, *(sign * n for n in range(30, LARGEST + 1, 30) for sign in (-1, 1))]
        finite = False
        for exponent in tries:
            with calling("shape", self.example):
                found = dict(self.scores(self.values, masks, self.rest, jnp.float32(exponent)))
            highest = max(float(score.max()) for score in found.values())
            whole = all(bool(jnp.isfinite(score).all()) for score in found.values())
            finite = finite or whole
            if whole and highest > 2.0**-100:
                if not 2.0**-40 < highest < 2.0**100:
                    near = exponent - round(math.log2(highest) / 2)
                    self.exponent = max(-LARGEST, min(LARGEST, near))
                return found
        if finite:
            raise ValueError(
                "no signal passes from the input to the output through the kept weights; start "
                "with denser masks, and without layers of zeros"
            )
        raise ValueError(
            f"the flow overflows float32 even with inputs of 2^-{LARGEST}; start with smaller "
            "weights: scaling a whole layer keeps the order of the scores in a plain chain"
        )


def _linearized(model: nnx.Module) -> Weights:
    """The model with absolute values and without offsets (1), split into its parts."""
    plain = fold(model)
    plain.eval()
    for slot in slots(plain):
        value = slot.value[...]
        if _is_floating(value):
            value = jnp.abs(value.astype(wide(value.dtype)))
            offset = slot.key in ("bias", "mean")
            slot.value[...] = jnp.zeros_like(value) if offset else value
    return split(plain, held_parts(model))


def _is_floating(value: Any) -> bool:
    return isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.floating)
