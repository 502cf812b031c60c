"""Dense layers whose kernel is a matrix: from what to what, and why others have none."""

import math
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from jsparse.export._packing.convolution import as_matrix
from jsparse.export._packing.windows import window_fault

Dense = nnx.Linear | nnx.LinearGeneral | nnx.Einsum | nnx.Conv
STOCK = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv)


class Sides(NamedTuple):
    """Which axes of a kernel are the rows of a matrix, and which its columns.

    Attributes:
      ins: axes that the last axes of x are multiplied with, in their order.
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
    return Sides(tuple(range(ins)), tuple(range(ins, ins + outs)))


def _einsum(equation: str) -> Sides:
    """Of "...d,hdk->...hk" and the like: what x and y have before these axes is the same."""
    operands, y = equation.replace(" ", "").replace("...", ".").split("->")
    x, kernel = operands.split(",")
    ins = "".join(letter for letter in x if letter in kernel)
    outs = "".join(letter for letter in y if letter in kernel)
    before = x.removesuffix(ins)
    once = all(count == 1 for side in (x, kernel, y) for count in Counter(side).values())
    plain = once and "." not in kernel and sorted(ins + outs) == sorted(kernel)
    if not (plain and ins and outs and x == before + ins and y == before + outs):
        raise ValueError(f"{equation!r} is not a product with one matrix over the last axes")
    return Sides(tuple(map(kernel.index, ins)), tuple(map(kernel.index, outs)))


def features_of(layer: Dense) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last axes of x and of y of a layer that can be packed."""
    shape, (ins, outs) = layer.kernel.shape, sides_of(layer)
    return tuple(shape[axis] for axis in ins), tuple(shape[axis] for axis in outs)


def is_between(layer: Any, ins: tuple[int, ...], outs: tuple[int, ...]) -> bool:
    """Whether a layer has one matrix, from such last axes of x to such of y."""
    try:
        return features_of(layer) == (ins, outs) and layer.kernel.size == math.prod(ins + outs)
    except ValueError:
        return False


def kernel_of(layer: Dense) -> np.ndarray:
    """The kernel of a layer that can be packed, [in, out], in being each tap of each feature.

    Raises:
      ValueError: its kernel is not a matrix.
    """
    if has_window(layer):
        return as_matrix(np.asarray(layer.kernel[...]))
    return matrix_of(layer, layer.kernel[...])


def matrix_of(layer: Dense, array: Any) -> np.ndarray:
    """An array in the shape of the kernel of a layer that can be packed, as [in, out]."""
    ins, outs = sides_of(layer)
    wide, high = map(math.prod, features_of(layer))
    last = range(-len(ins) - len(outs), 0)
    return np.moveaxis(np.asarray(array), (*ins, *outs), tuple(last)).reshape(wide, high)


def fault(layer: Any) -> str:
    """Why a layer cannot be packed; empty if it can."""
    if type(layer) not in STOCK:
        names = [f"nnx.{kind.__name__}" for kind in STOCK]
        return f"its type is {type(layer).__name__}, not {', '.join(names[:-1])} or {names[-1]}"
    if not isinstance(layer.kernel, nnx.Variable) or len(jax.tree.leaves(layer.kernel)) != 1:
        kind = layer.kernel.get_value() if isinstance(layer.kernel, nnx.Variable) else layer.kernel
        return (
            f"its kernel is a {type(kind).__name__}, not an array; pack the model before it is "
            "quantised, with int8(format) for 8-bit weights"
        )
    try:
        ins, outs = sides_of(layer)
    except ValueError as error:
        return str(error)
    window = tuple(layer.kernel_size) if isinstance(layer, nnx.Conv) else ()
    if layer.kernel.ndim != len(window) + len(ins) + len(outs):
        return f"a stack of layers: its kernel has {layer.kernel.ndim} axes"
    if has_window(layer) and (why := window_fault(layer)):
        return why
    return _unusual(layer)


def _unusual(layer: Any) -> str:
    """What a layer that is a matrix computes in a way that packed ones do not; empty if nothing."""
    stock = {
        "conv_general_dilated": jax.lax.conv_general_dilated,
        "dot_general": jax.lax.dot_general,
        "dot_general_cls": None,
        "einsum_op": jnp.einsum,
    }
    for name, usual in stock.items():
        if getattr(layer, name, None) not in (None, usual):
            return "it has a product of its own"
    if layer.promote_dtype is not promote_dtype:
        return "it promotes dtypes in a way of its own"
    if getattr(layer, "preferred_element_type", None) is not None:
        return "its product has a dtype of its own"
    if isinstance(layer, nnx.Einsum) and layer.bias is not None:
        shape, outs = tuple(layer.bias.shape), features_of(layer)[1]
        if shape != outs:
            return f"its bias has shape {shape}, its outputs {outs}"
    return ""


def has_window(layer: Any) -> bool:
    """Whether a layer is a convolution that is more than a product over channels at each place."""
    return isinstance(layer, nnx.Conv) and not _is_linear(layer)


def _is_linear(layer: nnx.Conv) -> bool:
    """Whether a convolution is a product over channels at each place."""
    ones = [layer.kernel_size, layer.strides, layer.kernel_dilation, layer.input_dilation]
    padded = not isinstance(layer.padding, str) and np.any(np.asarray(layer.padding))
    window = all(np.all(np.asarray(1 if one is None else one) == 1) for one in ones)
    return window and not padded and layer.feature_group_count == 1 and layer.mask is None
