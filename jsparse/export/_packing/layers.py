"""Replace layers by packed ones, which hold only the kept weights, and back."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

from jsparse._slots import Slot
from jsparse._surgery import fold
from jsparse._untraced import outside_jit
from jsparse._values import check_pattern
from jsparse.export._packing.block import BlockSparse
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.csr_conv import CsrConv
from jsparse.export._packing.dense import features_of, has_window, stack_of, why_not_packable
from jsparse.export._packing.int8 import BlockSparseInt8, CsrInt8
from jsparse.export._packing.packed import Packed
from jsparse.export._packing.packers import Format, NotStored, check_format, settings_of
from jsparse.export._packing.replacing import layers_of, places_of, put_in_place, shared_with_dense
from jsparse.export._packing.structure import features_in, features_json
from jsparse.export._packing.windows import Geometry, geometry_in, geometry_of

Model = TypeVar("Model", bound=nnx.Module)
FORMATS = {kind.format: kind for kind in (Csr, CsrConv, BlockSparse, CsrInt8, BlockSparseInt8)}
SHOWN = 8
"""Layers named in one warning."""


@outside_jit
def pack(model: Model, format: Format, where: str = ".*") -> Model:
    """A plain model whose layers hold only the kept weights.

    `nnx.Linear`, `nnx.LinearGeneral` over the last axes (such as the projections of attention), an
    `nnx.Einsum` that is such a product, and `nnx.Conv` over one or two axes become layers in the
    given format, which hold the nonzero weights. Windows larger than 1, and layers stacked along
    the first axis for `nnx.scan` or `nnx.vmap`, need `csr()`. Everything else stays dense:
    embeddings, convolutions that are grouped (including depthwise), stacked or over three axes,
    layers with a custom product or a kernel shared with a dense layer, and layers that would take
    as many bytes or more. A warning says which layers with a kernel stayed dense, and why;
    `left_dense` lists all of them. Call the format on a layer, `csr()(layer)`, to pack it whatever
    its size; `pick` measures what is faster. The kernels skip pruned weights, so an infinite or NaN
    input reaches fewer outputs than in a dense product, where 0 times it is NaN.

    Args:
      model: any NNX module, sparse or folded; not changed.
      format: `csr()`, `blocks((64, 64))`, or `int8` of one of these.
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
      >>> from jsparse.export import csr
      >>> model = sparsify(nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
      ...                  (".*/kernel", Top(density=0.25)))
      >>> pack(model, csr()).layers[0].values.shape
      (3,)
    """
    check_format(format)
    check_pattern(where=where)
    plain = fold(model)
    places = [place for place in layers_of(plain) if re.fullmatch(where, place.path)]
    cannot = {place.path: why for place in places if (why := why_not_packable(place.value))}
    made, larger = _packed_or_why([place for place in places if place.path not in cannot], format)
    left = cannot | larger
    shared = shared_with_dense(plain, [place for place in places if place.path not in left])
    left |= shared
    able = [place for place in places if place.path not in left]
    if not made or (shared and not able):
        given = "; ".join(f"{place.path or 'the model'}: {left[place.path]}" for place in places)
        given = given or "no layer there; only layers of Flax NNX are packed, none of Linen"
        raise ValueError(f"no layer at {where!r} can be packed: {given}")
    if left:
        shown_ones = [f"{path or 'the model'}: {why}" for path, why in list(left.items())[:SHOWN]]
        more = [f"and {len(left) - SHOWN} more"] if len(left) > SHOWN else []
        warnings.warn(
            f"pack left {len(left)} of {len(places)} layers dense: "
            f"{'; '.join([*shown_ones, *more])}. To pack some layers only, name them: "
            "pack(model, format, where)",
            stacklevel=2,
        )
    return put_in_place(plain, able, lambda place: made[id(place.value)])


def _packed_or_why(
    places: Sequence[Slot], format: Format
) -> tuple[dict[int, Packed], dict[str, str]]:
    """Layers in a format, by the id of the dense one; and why not, by path, if not smaller."""
    made: dict[int, Packed] = {}
    larger: dict[str, str] = {}
    for place in places:
        layer: Any = place.value
        if id(layer) not in made:
            try:
                made[id(layer)] = format(layer)
            except NotStored as error:
                larger[place.path] = str(error)
                continue
            except ValueError as error:
                raise ValueError(f"{place.path or 'the model'}: {error}") from error
        dense, packed = bytes_of(layer), bytes_of(made[id(layer)])
        if packed >= dense:
            larger[place.path] = f"packed it would take {packed:,} bytes, dense it takes {dense:,}"
    return made, larger


def bytes_of(model: nnx.Module) -> int:
    """Bytes of the variables of a layer or a model, without random streams."""
    state = nnx.state(model, nnx.Not(nnx.RngState))
    return sum(array.nbytes for array in jax.tree.leaves(state))


def unpack(model: Model) -> Model:
    """A plain dense copy: each packed layer becomes an `nnx.Linear` with zeros.

    Or an `nnx.LinearGeneral`, where inputs or outputs are several axes, or an `nnx.Conv`.

    Args:
      model: any NNX module.

    Returns:
      The copy. Convolutions with a window of 1 that were packed come back as linear layers.
    """
    copy = fold(model)
    return put_in_place(copy, places_of(copy, Packed), lambda place: dense_layer(place.value))


def put_packed(model: Model, layers: Mapping[str, Mapping[str, Any]]) -> Model:
    """A copy of a model with empty packed layers, to be filled from a file.

    The settings of each are given by its path, as model.json has them; the model has a dense or
    packed layer there.

    Raises:
      ValueError: the model has no such layer in such a place, or one of another size.
    """
    plain = fold(model)
    places = {place.path: place for place in (*layers_of(plain), *places_of(plain, Packed))}
    if wrong := [path for path in layers if path not in places]:
        raise ValueError(
            f"{wrong[0] or 'the model'} is a packed layer in the file, and the model has no linear "
            "layer or convolution there; it is of another model"
        )
    chosen = [places[path] for path in layers]
    for place in chosen:
        layer, wanted, found = place.value, _form_in(layers[place.path]), _form_of(place.value)
        if found != wanted:
            if isinstance(layer, Packed):
                own = f"a packed layer {found}"
            else:
                own = f"a kernel {list(layer.kernel.shape)}{found.window_text() if found else ''}"
            raise ValueError(
                f"{place.path or 'the model'} is packed in the file, {wanted}, and the model has "
                f"{own} there; it is of another model"
            )
    return put_in_place(plain, chosen, lambda place: _empty(layers[place.path]))


class _Form(NamedTuple):
    """What a packed layer has in common with a layer in whose place it may stand."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    stack: tuple[int, ...]
    window: Geometry | None

    def __str__(self) -> str:
        sides = f"from {features_json(self.ins)} to {features_json(self.outs)} features"
        return sides + self.window_text()

    def window_text(self) -> str:
        """The settings of the window, if there is one."""
        settings = self.window.as_json().items() if self.window else ()
        return "".join(f", {name} {value}" for name, value in settings)


def _form_in(settings: Mapping[str, Any]) -> _Form:
    window = geometry_in(settings) if settings["format"] == CsrConv.format else None
    return _Form(*features_in(settings), tuple(settings.get("stack", ())), window)


def _form_of(layer: Any) -> _Form | None:
    """The form of a packed layer, or of a dense one that may become one; None for others."""
    if isinstance(layer, Packed):
        window = layer.geometry if isinstance(layer, CsrConv) else None
        return _Form(layer.in_shape, layer.out_shape, layer.stack, window)
    if has_window(layer) and why_not_packable(layer):
        return None
    window = geometry_of(layer) if has_window(layer) else None
    try:
        return _Form(*features_of(layer), stack_of(layer), window)
    except ValueError:
        return None


def _empty(settings: Mapping[str, Any]) -> Packed:
    given = {name: settings[name] for name in settings if name not in ("format", "kernel_of")}
    if "block" in given:
        given["block"] = tuple(given["block"])
    return FORMATS[settings["format"]](**given)


def left_dense(model: nnx.Module, *formats: Format) -> dict[str, str]:
    """Why a layer with a kernel would not be packed, by path; the others would.

    Args:
      model: any NNX module, sparse or folded.
      *formats: such as `csr()`: layers that none of these makes smaller are named as well.
    """
    plain = fold(model)
    places = layers_of(plain)
    why = {place.path: text for place in places if (text := why_not_packable(place.value))}
    able = [place for place in places if place.path not in why]
    for format in formats:
        check_format(format)
    larger = [_packed_or_why(able, format)[1] for format in formats]
    for place in able:
        reasons = [one[place.path] for one in larger if place.path in one]
        if formats and len(reasons) == len(formats):
            why[place.path] = "; ".join(dict.fromkeys(reasons))
    return why | shared_with_dense(plain, [place for place in places if place.path not in why])


def dense_layer(layer: Packed) -> nnx.Linear | nnx.LinearGeneral | nnx.Conv:
    """A packed layer as a dense one, with zeros where nothing is kept; they share the bias."""
    given = {"rngs": nnx.Rngs(0), **settings_of(layer, layer.param_dtype)}
    ins, outs = layer.in_shape, layer.out_shape
    if isinstance(layer, CsrConv):
        window: Any = layer.geometry._asdict()
        dense: Any = nnx.Conv(*ins, *outs, **window, **given)
    elif len(ins) == len(outs) == 1:
        dense = nnx.Linear(*ins, *outs, **given)
    else:
        dense = nnx.LinearGeneral(ins, outs, axis=tuple(range(-len(ins), 0)), **given)
    kernel = layer.kernel() if isinstance(layer, CsrConv) else layer.kernel_matrix()
    dense.kernel = nnx.Param(kernel.reshape(layer.kernel_shape))
    dense.bias = layer.bias
    return dense
