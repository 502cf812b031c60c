"""Replace linear layers by packed ones, which hold only the kept weights, and back."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from jsparse._slots import Slot, slots
from jsparse._surgery import fold
from jsparse._values import check_function, check_pattern, check_whole, shown
from jsparse.export._packing.block import BlockSparse, Product, block_dot, check_block
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.formats import MOST, block_arrays, csr_arrays, group_width
from jsparse.export._packing.packed import Packed
from jsparse.export._packing.structure import sizes_of

Model = TypeVar("Model", bound=nnx.Module)
Dense = nnx.Linear | nnx.Conv
Format = Callable[[Dense], Packed]


def csr(width: int = 0) -> Format:
    """The format that holds single weights, for unstructured masks.

    Args:
      width: inputs a group: weights are stored by group, then by output, to keep the inputs of a
        group in the nearest cache. 256 to 512 suits batches; 65536, no groups, suits single rows
        and densities below 2 %. By default the density decides, for batches.

    Returns:
      A function from a layer to a `Csr`, for `pack`.
    """
    check_whole(0, width=width)

    def packed(layer: Dense) -> Csr:
        kernel = kernel_of(layer)
        chosen = min(width or group_width(kernel), MOST, max(1, kernel.shape[0]))
        arrays = csr_arrays(kernel, chosen)
        made = Csr(
            *kernel.shape, kept=len(arrays.values), width=chosen, **_settings(layer, kernel.dtype)
        )
        made.indices[...], made.starts[...] = arrays.indices, arrays.starts
        made.values[...], made.bias = arrays.values, layer.bias
        made.check()
        return made

    return packed


def blocks(block: tuple[int, int], product: Product = block_dot) -> Format:
    """The format that holds whole blocks, for block masks.

    Args:
      block: inputs and outputs of a block; at the edges it may extend past the matrix.
      product: `block_dot`, or `jsparse.export.pallas_dot` for GPU and TPU.

    Returns:
      A function from a layer to a `BlockSparse`, for `pack`.

    Raises:
      ValueError: a side below 1.
    """
    check_block(block)
    check_function(product=product)

    def packed(layer: Dense) -> BlockSparse:
        kernel = kernel_of(layer)
        arrays = block_arrays(kernel, block)
        made = BlockSparse(
            *kernel.shape,
            block=block,
            kept=len(arrays.values),
            product=product,
            **_settings(layer, kernel.dtype),
        )
        made.rows[...], made.starts[...] = arrays.rows, arrays.starts
        made.values[...], made.bias = arrays.values, layer.bias
        made.check()
        return made

    return packed


def pack(model: Model, format: Format, where: str = ".*") -> Model:
    """A plain model whose linear layers hold only the kept weights.

    `nnx.Linear` and convolutions with a window of 1 become layers in the given format, which hold
    the nonzero weights. Everything else stays dense: embeddings, other convolutions, stacked
    layers, layers with a shared kernel or a product of their own; `left_dense` says which and why.
    The kernels skip pruned weights, so an infinite or NaN input reaches fewer outputs than in a
    dense product, where 0 times it is NaN.

    Args:
      model: any NNX module, sparse or folded; not changed.
      format: `csr()`, or `blocks((64, 64))`.
      where: a regular expression, matched against the whole path of a layer.

    Returns:
      A model without rules, which can be trained further with fixed masks: the kept values are
      `nnx.Param`s, their positions are not (so take gradients with `nnx.grad`).

    Raises:
      ValueError: no layer there can be packed; the error says why.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
      ...                  (".*/kernel", Top(density=0.25)))
      >>> pack(model, csr()).layers[0].values.shape
      (3,)
    """
    if format in (csr, blocks):
        raise TypeError(f"format is {shown(format)}; call it: {format.__name__}(...)")
    check_function(format=format)
    check_pattern(where=where)
    plain = fold(model)
    places = [place for place in layers_of(plain) if re.fullmatch(where, place.path)]
    why = left_dense(plain)
    if all(place.path in why for place in places):
        given = "; ".join(f"{place.path or 'the model'}: {why[place.path]}" for place in places)
        raise ValueError(f"no layer at {where!r} can be packed: {given or 'no linear layer there'}")
    able = [place for place in places if place.path not in why]
    return put_in_place(plain, able, lambda place: format(place.value))


def put_in_place(model: Model, places: list[Slot], make: Callable[[Slot], nnx.Module]) -> Model:
    """The model itself with new layers in some places; shared layers stay shared.

    The new layer instead, if the model is the layer itself, at the empty path.
    """
    made: dict[int, Any] = {}
    for place in places:
        if id(place.value) not in made:
            made[id(place.value)] = make(place)
        if not place.path:
            return made[id(place.value)]
        place.put(made[id(place.value)])
    return model


def unpack(model: Model) -> Model:
    """A plain dense copy: each packed layer becomes an `nnx.Linear` with zeros.

    Args:
      model: any NNX module.

    Returns:
      The copy. Convolutions with a window of 1 that were packed come back as linear layers.
    """
    copy = fold(model)
    return put_in_place(copy, _places(copy, Packed), lambda place: _linear(place.value))


def packed_layers(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """The settings of each packed layer, by path, ready for JSON: see `put_packed`."""
    return {place.path: _as_json(place.value) for place in _places(model, Packed)}


def _as_json(layer: Packed) -> dict[str, Any]:
    format: dict[str, Any] = {"format": "csr", "width": getattr(layer, "width", 0)}
    if isinstance(layer, BlockSparse):
        format = {"format": "blocks", "block": list(layer.block)}
    return format | {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "kept": layer.values.shape[0],
        "use_bias": layer.bias is not None,
        "dtype": None if layer.dtype is None else jnp.dtype(layer.dtype).name,
        "param_dtype": layer.values[...].dtype.name,
    }


def put_packed(model: Model, layers: Mapping[str, Mapping[str, Any]]) -> Model:
    """A copy of a model with empty packed layers, to be filled from a file.

    Args:
      model: any NNX module, sparse or folded; not changed.
      layers: from `packed_layers`.

    Raises:
      ValueError: the model has no linear layer in such a place, or one of another size.
    """
    plain = fold(model)
    places = {place.path: place for place in layers_of(plain)}
    if wrong := [path for path in layers if path not in places]:
        raise ValueError(
            f"{wrong[0] or 'the model'} is a packed layer in the file, and the model has no linear "
            "layer there; it is of another model"
        )
    chosen = [places[path] for path in layers]
    for place in chosen:
        shape, sizes = tuple(place.value.kernel.shape), sizes_of(layers[place.path])
        if shape[-2:] != sizes[:2] or math.prod(shape[:-2]) != 1:
            raise ValueError(
                f"{place.path or 'the model'} is packed in the file, from {sizes.inputs} to "
                f"{sizes.outputs} features, and the model has a kernel {list(shape)} there; it is "
                "of another model"
            )
    return put_in_place(plain, chosen, lambda place: _empty(layers[place.path]))


def _empty(settings: Mapping[str, Any]) -> Packed:
    given = {name: value for name, value in settings.items() if name not in ("format", "block")}
    if settings["format"] == "csr":
        return Csr(**given)
    return BlockSparse(**given, block=tuple(settings["block"]))


def left_dense(model: nnx.Module) -> dict[str, str]:
    """Why a layer with a kernel cannot be packed, by path; the others can.

    Args:
      model: any NNX module, sparse or folded.
    """
    plain = fold(model)
    users: dict[int, set[int]] = {}
    for slot in slots(plain):
        users.setdefault(id(slot.value), set()).add(id(slot.parent))
    why = {place.path: _fault(place.value, users) for place in layers_of(plain)}
    return {path: reason for path, reason in why.items() if reason}


def kernel_of(layer: Dense) -> np.ndarray:
    """The kernel of a layer that can be packed, [in, out]."""
    kernel = np.asarray(layer.kernel[...])
    return kernel.reshape(kernel.shape[-2:])


def _fault(layer: Any, users: dict[int, set[int]]) -> str:
    if type(layer) not in (nnx.Linear, nnx.Conv):
        return f"its type is {type(layer).__name__}, not nnx.Linear"
    if len(users[id(layer.kernel)]) > 1:
        return "its kernel is shared with another layer"
    window = tuple(layer.kernel_size) if isinstance(layer, nnx.Conv) else ()
    if layer.kernel.ndim != len(window) + 2:
        return f"a stack of layers: its kernel has {layer.kernel.ndim} axes"
    if isinstance(layer, nnx.Conv):
        if not _is_linear(layer):
            return f"a convolution with a window of {window}, strides or groups"
        if layer.conv_general_dilated is not jax.lax.conv_general_dilated:
            return "it has a product of its own"
    elif layer.dot_general is not jax.lax.dot_general:
        return "it has a product of its own"
    if layer.promote_dtype is not promote_dtype:
        return "it promotes dtypes in a way of its own"
    if getattr(layer, "preferred_element_type", None) is not None:
        return "its product has a dtype of its own"
    return ""


def _is_linear(layer: nnx.Conv) -> bool:
    """Whether a convolution is a product over channels at each place."""
    ones = [layer.kernel_size, layer.strides, layer.kernel_dilation, layer.input_dilation]
    padded = not isinstance(layer.padding, str) and np.any(np.asarray(layer.padding))
    window = all(np.all(np.asarray(1 if one is None else one) == 1) for one in ones)
    return window and not padded and layer.feature_group_count == 1 and layer.mask is None


def _settings(layer: Any, param_dtype: Any) -> dict[str, Any]:
    """What dense and packed layers have in common."""
    use_bias = layer.bias is not None
    return {"use_bias": use_bias, "dtype": layer.dtype, "param_dtype": param_dtype}


def layers_of(model: nnx.Module) -> list[Slot]:
    """Every place with a layer that has a kernel; the model itself has the empty path."""
    convolutions = nnx.Conv | nnx.ConvTranspose
    return _places(model, nnx.Linear | convolutions | nnx.LinearGeneral | nnx.Einsum)


def _places(model: nnx.Module, kinds: Any) -> list[Slot]:
    """Every place that holds a layer of some kinds; the model itself has the empty path."""
    if isinstance(model, kinds):
        return [Slot("", None, "", model, False)]
    return slots(model, kinds)


def _linear(layer: Packed) -> nnx.Linear:
    sizes = layer.in_features, layer.out_features
    dense = nnx.Linear(*sizes, rngs=nnx.Rngs(0), **_settings(layer, layer.param_dtype))
    dense.kernel[...], dense.bias = layer.kernel_matrix(), layer.bias
    return dense
