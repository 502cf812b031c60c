"""Layers of links, made without a dense matrix: drawn, given, or left after training."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._surgery import copied
from jsparse._values import check_in, check_key, check_whole, shown
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.csr_conv import CsrConv
from jsparse.export._packing.formats import CsrArrays, width_at
from jsparse.export._packing.packed import Linked, features
from jsparse.export._packing.packers import settings_of
from jsparse.export._packing.places import in_order, per_output, uniform_places, whole_numbers
from jsparse.export._packing.replacing import places_of, put_in_place
from jsparse.export._packing.structure import CsrSizes

Model = TypeVar("Model", bound=nnx.Module)


def random_csr(
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    links: int,
    key: Array,
    scale: float = 1.0,
    width: int = 0,
    **settings: Any,
) -> Csr:
    """A layer where each output has the same number of links, to inputs drawn uniformly.

    Values are normal with variance scale / links, so an output starts with the same variance as in
    a dense layer with that initialization, however few links it has.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      links: of each output, at most as many as there are inputs.
      key: for places and values.
      scale: 1 as in `nnx.Linear`; 2 before a ReLU (He).
      width: inputs a group; by default the density decides, as in `jsparse.export.csr`.
      **settings: use_bias, dtype, param_dtype and product, as for `Csr`.

    Raises:
      TypeError: a size is not a whole number, or key not a random key.
      ValueError: more links than inputs; a scale that is not above 0.

    Example:
      >>> layer = random_csr(784, 300, links=20, key=jax.random.key(0))
      >>> layer.values.shape
      (6000,)

    Reference: Evci et al., Gradient flow in sparse neural networks and how lottery tickets win,
    AAAI 2022, section 3.1, for the initialization.
    """
    check_whole(0, links=links)
    check_key(key=key)
    where, of_values = jax.random.split(key)
    places = per_output(*features(in_features, out_features), links, where)
    drawn = _with_values(places, of_values, scale)
    return csr_from_arrays(in_features, out_features, **drawn, width=width, **settings)


def erdos_renyi_csr(
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    factor: float,
    key: Array,
    scale: float = 1.0,
    width: int = 0,
    **settings: Any,
) -> Csr:
    """A layer of round(factor (inputs + outputs)) links drawn uniformly from the whole matrix.

    An output may have more links than another, or none; the variance of its values is scale
    divided by its own number of links. Where the factor asks for more links than there are
    places, all of them are kept.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      factor: links for each input and output, above 0; epsilon in the paper.
      key: for places and values.
      scale: as for `random_csr`.
      width: as for `random_csr`.
      **settings: as for `random_csr`.

    Raises:
      TypeError: a size is not a whole number, or key not a random key.
      ValueError: a factor or a scale that is not above 0.

    Example:
      >>> layer = erdos_renyi_csr(784, 300, factor=20, key=jax.random.key(0))
      >>> layer.values.shape
      (21680,)

    Reference: Mocanu et al., SET, 2018, equation 1. Evci et al., 2022, as for `random_csr`.
    """
    check_in("(0, inf)", factor=factor)
    check_key(key=key)
    inputs, outputs = features(in_features, out_features)
    where, of_values = jax.random.split(key)
    kept = round(min(inputs * outputs, float(factor) * (inputs + outputs)))
    places = uniform_places(inputs, outputs, kept, where)
    drawn = _with_values(places, of_values, scale)
    return csr_from_arrays(in_features, out_features, **drawn, width=width, **settings)


def csr_from_arrays(
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    rows: Any,
    columns: Any,
    values: Any,
    width: int = 0,
    **settings: Any,
) -> Csr:
    """A layer with these links, in any order.

    Args:
      in_features: of x; a tuple for its last axes.
      out_features: of y, likewise.
      rows: [kept], the input of each link, counted over all axes.
      columns: [kept], its output.
      values: [kept].
      width: as for `random_csr`.
      **settings: as for `random_csr`.

    Raises:
      TypeError: rows or columns are not whole numbers.
      ValueError: arrays of different lengths, a place outside the matrix, or one given twice.

    Example:
      >>> layer = csr_from_arrays(3, 2, rows=[2, 0], columns=[1, 0], values=[5.0, 7.0])
      >>> layer.kernel_matrix().tolist()
      [[7.0, 0.0], [0.0, 0.0], [0.0, 5.0]]
    """
    check_whole(0, width=width)
    inputs, outputs = features(in_features, out_features)
    columns, rows = whole_numbers("columns", columns), whole_numbers("rows", rows)
    kept, found = len(rows), np.asarray(values)
    real = any(jnp.issubdtype(found.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if found.shape != (kept,) or not real:
        raise ValueError(
            f"values must be a vector with one number for each of {kept} rows; got {shown(values)}"
        )
    width = width or width_at(kept / max(1, inputs * outputs), inputs)
    order, *structure = in_order(rows, columns, CsrSizes(inputs, outputs, kept, width))
    made = Csr(in_features, out_features, kept=kept, width=width, **settings)
    made._fill(CsrArrays(jnp.asarray(found[order], made.values[...].dtype), *structure))
    return made


def _with_values(places: tuple[np.ndarray, np.ndarray], key: Array, scale: float) -> dict[str, Any]:
    """Links at these places, with values scaled to the fan-in of their output."""
    check_in("(0, inf)", scale=scale)
    rows, columns = places
    fan_in = np.bincount(columns)[columns]
    normal = np.asarray(jax.random.normal(key, rows.shape))
    values = normal * np.sqrt(scale / fan_in).astype(np.float32)
    return {"rows": rows, "columns": columns, "values": values}


def trim(model: Model) -> Model:
    """A copy whose packed layers hold their links and nothing else, to save or to train with.

    After `Gradual` or `Below` has dropped links, arrays have room at the end, as their shapes stay
    the same within a compiled train step; and layers under `RigL` hold the places where links may
    grow. Other layers are copied as they are.

    Args:
      model: any NNX module; not changed. After a `jsparse.PackedOptimizer` has trained it, the
        copy needs a new one.

    Returns:
      The copy.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jsparse.export import random_csr
      >>> layer = random_csr(8, 4, links=3, key=jax.random.key(0))
      >>> layer.starts[...] = jnp.minimum(layer.starts[...], 7)
      >>> trim(layer).values.shape
      (7,)
    """
    copy = copied(model)
    return put_in_place(copy, places_of(copy, Linked), lambda place: _trimmed(place.value))


def _trimmed(layer: Linked) -> Linked:
    if not layer.loose:
        return layer
    kept = layer.kept
    settings = {"kept": kept, "width": layer.width, **settings_of(layer, layer.param_dtype)}
    if isinstance(layer, CsrConv):
        window = layer.geometry._asdict()
        made: Linked = CsrConv(layer.in_features, layer.out_features, **window, **settings)
    else:
        made = Csr(layer.in_shape, layer.out_shape, **settings)
    made.product = layer.product
    made._fill(CsrArrays(layer.values[...][:kept], layer.indices[...][:kept], layer.starts[...]))
    made.bias = layer.bias
    made.check()
    return made
