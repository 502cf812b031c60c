"""What a layer multiplies with its kernel: rows of inputs, summed as a moment as the model runs.

A convolution multiplies each window of its input, one row for each place, with its kernel as a
matrix [window * inputs, outputs]. If it has groups of channels, each has its own rows.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jsparse._roles import multiplies_inputs
from jsparse._score import wide
from jsparse._slots import slots
from jsparse._sparse import Sparse
from jsparse._values import shown
from jsparse._variables import write
from jsparse._watch import watch_in_place

Moment = Callable[[Array], Array]
"""From the inputs of a layer [n, inputs], a sum over n."""
SEEN = "inputs_seen"
"""Name of the variable of a Sparse that holds the moment of its inputs so far."""


def squares(x: Array) -> Array:
    """The sum of the squares of each input, [inputs], from [n, inputs]."""
    return (x**2).sum(0)


def gram(x: Array) -> Array:
    """X^T X of the inputs [n, inputs] of a layer."""
    return jnp.matmul(x.T, x, precision=lax.Precision.HIGHEST)


class Sum(nnx.Variable):
    """The moment of a layer's inputs so far, [stack..., groups, of a layer]."""


def watch_inputs(model: nnx.Module, moment: Moment, order: dict[str, None]) -> None:
    """Make the layers sum a moment of their inputs, in a variable of the Sparse that they read.

    The order gets the path of each weight when a layer first reads it.

    Raises:
      ValueError: a weight of another layer than `nnx.Linear`, `nnx.LinearGeneral` or `nnx.Conv`.
    """
    first: dict[int, str] = {}
    for slot in slots(model, Sparse):
        part, path = slot.value, first.setdefault(id(slot.value), slot.path)
        if not multiplies_inputs(slot.parent, slot.key):
            raise ValueError(
                f"{slot.path} of {type(slot.parent).__name__} is not pruned by its inputs; kernels "
                "of nnx.Linear, nnx.Conv and nnx.LinearGeneral (attention has these) without batch "
                "axes and without a mask of Flax's are: leave it out of the pattern of sparsify"
            )
        stack = part.weight[...].shape[: part.rule.role.stack]
        groups = getattr(slot.parent, "feature_group_count", 1)
        one = jax.eval_shape(moment, jax.ShapeDtypeStruct((1, inputs_of(part)), jnp.float32))
        setattr(part, SEEN, Sum(jnp.zeros((*stack, groups, *one.shape))))

        def add(layer: Any, inputs: Array, _: Array, path: str = path) -> None:
            order.setdefault(path)
            seen = vars(layer.kernel)[SEEN]
            rows = _windows(layer, inputs) if isinstance(layer, nnx.Conv) else _rows(layer, inputs)
            if not rows.shape[1]:
                raise ValueError(f"{path} gets no inputs: {shown(inputs)}; leave empty batches out")
            new = [moment(one.astype(wide(one.dtype))) for one in rows]
            write(seen, seen[...] + jnp.stack(new))

        watch_in_place(slot.parent, add)


def inputs_of(part: Sparse) -> int:
    """How many weights feed one output of a layer: windows times inputs, of its group."""
    shape, role = part.weight[...].shape, part.rule.role
    apart = (*range(role.stack), *role.output_axes(len(shape)))
    return math.prod(n for axis, n in enumerate(shape) if axis not in apart)


def matrices(part: Sparse, array: Array, groups: int) -> Array:
    """[as the weight] -> [stack..., groups, inputs of an output, outputs of a group]."""
    stack = array.shape[: part.rule.role.stack]
    return jnp.moveaxis(array.reshape(*stack, inputs_of(part), groups, -1), -2, -3)


def from_matrices(part: Sparse, array: Array) -> Array:
    """The inverse of `matrices`: back to the shape of the weight."""
    return jnp.moveaxis(array, -3, -2).reshape(part.weight[...].shape)


def times_inputs(part: Sparse, squares: Array) -> Array:
    """|w_ij| times the norm of input j, [as the weight], from the sums of the squares of inputs."""
    groups = squares.shape[part.rule.role.stack]
    weight = part.weight[...]
    size = jnp.abs(matrices(part, weight.astype(wide(weight.dtype)), groups))
    return from_matrices(part, size * jnp.sqrt(squares)[..., None])


def _rows(layer: Any, inputs: Array) -> Array:
    """The inputs as the layer contracts them with its kernel, [1, n, inputs]."""
    axes = layer.axis if isinstance(layer, nnx.LinearGeneral) else -1
    axes = axes if isinstance(axes, tuple) else (axes,)
    last = tuple(range(inputs.ndim - len(axes), inputs.ndim))
    size = math.prod(inputs.shape[axis] for axis in axes)
    return jnp.moveaxis(inputs, axes, last).reshape(1, -1, size)


def _windows(layer: nnx.Conv, inputs: Array) -> Array:
    """The windows that a convolution multiplies with its kernel, [groups, n, window * inputs].

    Read at the convolution, after the layer has handled padding and batches.
    """
    convolve, seen = layer.conv_general_dilated, []

    def read(x: Array, kernel: Array, strides: Any, padding: Any, **named: Any) -> Array:
        window, groups = kernel.shape[:-2], named["feature_group_count"]
        names = ("lhs_dilation", "rhs_dilation", "dimension_numbers")
        patches = lax.conv_general_dilated_patches(
            x, window, strides, padding, **{name: named[name] for name in names},
            precision=lax.Precision.HIGHEST,
        )  # fmt: skip
        # [..., groups * inputs of a group * window]
        apart = patches.reshape(-1, groups, x.shape[-1] // groups, math.prod(window))
        seen.append(apart.transpose(1, 0, 3, 2).reshape(groups, len(apart), -1))
        return convolve(x, kernel, strides, padding, **named)

    layer.conv_general_dilated = read
    nnx.Conv.__call__(layer, inputs)
    layer.conv_general_dilated = convolve
    return seen[0]
