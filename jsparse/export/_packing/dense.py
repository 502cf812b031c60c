"""Dense layers whose kernel is a matrix: its two sides, and why others have none."""

import math
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from jsparse.export._packing.formats import as_matrix
from jsparse.export._packing.windows import window_fault

Dense = nnx.Linear | nnx.LinearGeneral | nnx.Einsum | nnx.Conv
STOCK = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv)


class Sides(NamedTuple):
    """Which axes of a kernel are the rows of a matrix, and which its columns.

    Attributes:
      ins: axes that the last axes of x are multiplied with, in their order; all are counted from
        the last one, as a stack of layers has more axes in front.
      outs: axes that become the last axes of y, in their order.
    """

    ins: tuple[int, ...]
    outs: tuple[int, ...]


def sides_of(layer: Any) -> Sides:
    """The two sides of a kernel.

    Raises:
      ValueError: the layer is not a product with one matrix over the last axes of x.
    """
    if isinstance(layer, nnx.LinearGeneral):
        return _general(layer)
    if isinstance(layer, nnx.Einsum):
        return _einsum(layer.einsum_str)
    return Sides((-2,), (-1,))


def _general(layer: nnx.LinearGeneral) -> Sides:
    ins, outs = len(layer.in_features), len(layer.out_features)
    last = tuple(range(-ins, 0))
    if layer.batch_axis:
        raise ValueError(f"it has batch axes {dict(layer.batch_axis)}, so more than one matrix")
    if tuple(layer.axis) != last or not outs:
        raise ValueError(f"it is over the axes {tuple(layer.axis)} of its input, not {last}")
    return Sides(tuple(range(-ins - outs, -outs)), tuple(range(-outs, 0)))


def _einsum(equation: str) -> Sides:
    """The sides of "...d,hdk->...hk" and the like: x and y have the same axes before these."""
    operands, y = equation.replace(" ", "").replace("...", ".").split("->")
    x, kernel = operands.split(",")
    ins = "".join(letter for letter in x if letter in kernel)
    outs = "".join(letter for letter in y if letter in kernel)
    before = x.removesuffix(ins)
    once = all(count == 1 for side in (x, kernel, y) for count in Counter(side).values())
    plain = once and "." not in kernel and sorted(ins + outs) == sorted(kernel)
    if not (plain and ins and outs and x == before + ins and y == before + outs):
        raise ValueError(f"{equation!r} is not a product with one matrix over the last axes")
    axes = {letter: n - len(kernel) for n, letter in enumerate(kernel)}
    return Sides(tuple(axes[letter] for letter in ins), tuple(axes[letter] for letter in outs))


def features_of(layer: Dense) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last axes of x and of y of a layer that can be packed."""
    shape, (ins, outs) = layer.kernel.shape, sides_of(layer)
    return tuple(shape[axis] for axis in ins), tuple(shape[axis] for axis in outs)


def stack_of(layer: Dense) -> tuple[int, ...]:
    """The first axes of the kernel of a layer that is a stack of layers; () for one layer."""
    window = len(layer.kernel_size) if isinstance(layer, nnx.Conv) else 0
    return layer.kernel.shape[: layer.kernel.ndim - window - sum(map(len, sides_of(layer)))]


def kernel_of(layer: Dense) -> np.ndarray:
    """The kernel of a layer, [in, out], where each tap of each feature counts as an input.

    A stack of layers has its axes before these.

    Raises:
      ValueError: it cannot be packed, and why.
    """
    if why := why_not_packable(layer):
        raise ValueError(f"{type(layer).__name__} cannot be packed: {why}")
    return matrix_of(layer, layer.kernel[...])


def matrix_of(layer: Dense, array: Any) -> np.ndarray:
    """An array in the shape of the kernel of a layer that can be packed, as [*stack, in, out].

    Each tap of each feature counts as an input.
    """
    if has_window(layer):
        return as_matrix(np.asarray(array))
    ins, outs = sides_of(layer)
    shape = (*stack_of(layer), *map(math.prod, features_of(layer)))
    last = range(-len(ins) - len(outs), 0)
    return np.moveaxis(np.asarray(array), (*ins, *outs), tuple(last)).reshape(shape)


def why_not_packable(layer: Any) -> str:
    """Why a layer cannot be packed; empty if it can."""
    if type(layer) not in STOCK:
        names = [f"nnx.{kind.__name__}" for kind in STOCK]
        return f"its type is {type(layer).__name__}, not {', '.join(names[:-1])} or {names[-1]}"
    if not isinstance(layer.kernel, nnx.Variable) or len(jax.tree.leaves(layer.kernel)) != 1:
        kind = layer.kernel.get_value() if isinstance(layer.kernel, nnx.Variable) else layer.kernel
        return (
            f"its kernel is a {type(kind).__name__}, not an array; pack the model before it is "
            "quantized, with int8(format) for 8-bit weights"
        )
    try:
        ins, outs = sides_of(layer)
    except ValueError as error:
        return str(error)
    window = len(layer.kernel_size) if isinstance(layer, nnx.Conv) else 0
    if (extra := layer.kernel.ndim - window - len(ins) - len(outs)) and (window or extra < 0):
        return f"a stack of convolutions: its kernel has {layer.kernel.ndim} axes"
    if has_window(layer) and (why := window_fault(layer)):
        return why
    return _shape_fault(layer) or _product_fault(layer)


def _shape_fault(layer: Any) -> str:
    """Why a kernel and a bias have shapes other than the layer says; empty if they do not."""
    stack, sides = stack_of(layer), features_of(layer)
    told = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    as_axes = tuple(one if isinstance(one, tuple) else (one,) for one in told)
    if stack and isinstance(layer, nnx.Linear | nnx.LinearGeneral) and as_axes != sides:
        shape, last = list(layer.kernel.shape), [*as_axes[0], *as_axes[1]]
        return f"a stack whose kernel is {shape}; only those that end in {last} are packed"
    if layer.bias is not None and layer.bias.shape != (*stack, *sides[1]):
        return f"its bias has shape {layer.bias.shape}, its outputs {(*stack, *sides[1])}"
    return ""


def _product_fault(layer: Any) -> str:
    """What a matrix layer computes differently from packed ones; empty if nothing."""
    stock = {
        "conv_general_dilated": jax.lax.conv_general_dilated,
        "dot_general": jax.lax.dot_general,
        "dot_general_cls": None,
        "einsum_op": jnp.einsum,
    }
    for name, usual in stock.items():
        if getattr(layer, name, None) not in (None, usual):
            return "it has a custom product"
    if layer.promote_dtype is not promote_dtype:
        return "it has a custom dtype promotion"
    if getattr(layer, "preferred_element_type", None) is not None:
        return "its product has a different dtype"
    return ""


def has_window(layer: Any) -> bool:
    """Whether a layer is a convolution that is more than a product over channels at each place."""
    if not isinstance(layer, nnx.Conv):
        return False
    ones = [layer.kernel_size, layer.strides, layer.kernel_dilation, layer.input_dilation]
    wide = any(np.any(np.asarray(1 if one is None else one) != 1) for one in ones)
    padded = not isinstance(layer.padding, str) and np.any(np.asarray(layer.padding))
    return bool(wide or padded or layer.feature_group_count != 1 or layer.mask is not None)
