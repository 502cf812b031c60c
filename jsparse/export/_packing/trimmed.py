"""Packed layers after training with changing links: only the links are left."""

from typing import TypeVar

from flax import nnx

from jsparse._surgery import copied
from jsparse.export._packing.csr import Csr
from jsparse.export._packing.packers import settings_of
from jsparse.export._packing.replacing import places_of, put_in_place

Model = TypeVar("Model", bound=nnx.Module)


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
    return put_in_place(copy, places_of(copy, Csr), lambda place: _trimmed(place.value))


def _trimmed(layer: Csr) -> Csr:
    if not layer.loose:
        return layer
    kept = layer.kept
    made = Csr(
        layer.in_shape,
        layer.out_shape,
        kept=kept,
        width=layer.width,
        product=layer.product,
        **settings_of(layer, layer.param_dtype),
    )
    made.values[...], made.indices[...] = layer.values[...][:kept], layer.indices[...][:kept]
    made.starts[...], made.bias = layer.starts[...], layer.bias
    made.check()
    return made
