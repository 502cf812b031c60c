"""Windows of dense and packed convolutions, and which cannot be packed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jsparse._values import check_shape, is_whole, shown
from jsparse.export._packing.convolution import Window
from jsparse.export._packing.formats import MOST

PADS = ("SAME", "SAME_LOWER", "VALID", "CIRCULAR", "REFLECT", "CAUSAL")
ROLLED = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
AXES = (1, 2)
"""How many axes a window of a packed layer may have."""

Pads = str | tuple[tuple[int, int], ...]


class Geometry(NamedTuple):
    """A window as a layer has it, over one or two axes.

    Attributes:
      kernel_size: of each axis.
      strides: of each axis.
      padding: a name that Flax knows, or (before, after) of each axis.
      kernel_dilation: of each axis.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pads
    kernel_dilation: tuple[int, ...]

    def padded(self, x: Array) -> tuple[Array, tuple[tuple[int, int], ...]]:
        """x [batch, *axes, features], and the zeros still to add; other padding is already in x."""
        pairs = zip(self.kernel_size, self.kernel_dilation, strict=True)
        reach = [(size - 1) * dilation for size, dilation in pairs]
        if not isinstance(self.padding, str):
            return x, self.padding
        if self.padding == "CAUSAL":
            return x, ((reach[0], 0),)
        if self.padding in ROLLED:  # as Flax divides it
            around = [((n // 2), (n + 1) // 2) for n in reach]
            x = jnp.pad(x, [(0, 0), *around, (0, 0)], mode=ROLLED[self.padding])
            return x, ((0, 0),) * len(around)
        sides = [n + 1 for n in reach]
        pads = jax.lax.padtype_to_pads(x.shape[1:-1], sides, self.strides, self.padding)
        known = lambda n: int(n) if is_whole(n) else n  # JAX 0.7 gives NumPy's
        return x, tuple((known(before), known(after)) for before, after in pads)

    def window(
        self,
        image: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        *,
        features: int,
        outputs: int,
        width: int,
    ) -> Window:
        """Over two axes of an image, of which the first is 1 for a window over one.

        The pads are those of `padded`; `width` is in features a group.
        """
        two = lambda given, fill: (fill, *given) if len(given) == 1 else tuple(given)
        return Window(
            features,
            outputs,
            width,
            image=two(image, 1),
            size=two(self.kernel_size, 1),
            strides=two(self.strides, 1),
            dilation=two(self.kernel_dilation, 1),
            padding=two(pads, (0, 0)),
        )

    def as_json(self) -> dict[str, Any]:
        """The settings by name, with lists in place of tuples."""
        plain = lambda value: value if isinstance(value, str | int) else list(map(plain, value))
        return {name: plain(value) for name, value in self._asdict().items()}


def geometry_from(
    kernel_size: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Any = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
) -> Geometry:
    """A window from what users and files give.

    Raises:
      TypeError: a size is not a whole number.
      ValueError: a size below 1, another number of axes, an unknown padding, or too many taps.
    """
    size = check_shape("kernel_size", kernel_size)
    if len(size) not in AXES:
        raise ValueError(f"kernel_size must be a tuple of one or two sizes; got {shown(size)}")
    steps = _each(len(size), strides=strides)
    dilation = _each(len(size), kernel_dilation=kernel_dilation)
    if math.prod(size) > MOST:
        raise ValueError(f"kernel_size {size} has {math.prod(size):,} taps; allowed are {MOST:,}")
    return Geometry(size, steps, _pads(padding, len(size)), dilation)


def geometry_in(settings: Mapping[str, Any]) -> Geometry:
    """The window in the settings of a packed layer, as a file has them."""
    return geometry_from(*(settings[name] for name in Geometry._fields))


def geometry_of(layer: nnx.Conv) -> Geometry:
    """The window of a dense layer; raises as `geometry_from`, for windows that cannot be packed."""
    ones = lambda given: 1 if given is None else given
    sides = ones(layer.strides), layer.padding, ones(layer.kernel_dilation)
    return geometry_from(tuple(layer.kernel_size), *sides)


def window_fault(layer: nnx.Conv) -> str:
    """Why a convolution cannot be packed; empty if it can."""
    if layer.feature_group_count != 1:
        each = layer.in_features // layer.feature_group_count
        return (
            f"its features are in {layer.feature_group_count} groups of {each}, each with its own "
            "kernel"
        )
    if layer.mask is not None:
        return (
            "it has a mask of Flax's, which packed layers do not apply; multiply its kernel by the "
            "mask, set its mask to None, and pack again"
        )
    if np.any(np.asarray(layer.input_dilation or 1) != 1):
        return f"it dilates its input by {layer.input_dilation}"
    if len(layer.kernel_size) not in AXES:
        return f"its window is over {len(layer.kernel_size)} axes; packed ones are over one or two"
    try:
        geometry_of(layer)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _each(axes: int, **given: Any) -> tuple[int, ...]:
    """One size for each axis, or for all."""
    ((name, value),) = given.items()
    if is_whole(value):
        value = (value,) * axes
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a whole number or a tuple; got {shown(value)}")
    sizes = check_shape(name, value)
    if len(sizes) != axes:
        raise ValueError(f"{name} must be a tuple of {axes} sizes; got {shown(value)}")
    return sizes


def _pads(padding: Any, axes: int) -> Pads:
    allowed = f"{', '.join(PADS)}, a whole number, or for each of {axes} axes one or two"
    wrong = f"padding must be one of {allowed}; got {shown(padding)}"
    if isinstance(padding, str):
        name = padding.upper()  # JAX takes "same" as well
        if name not in PADS or (name == "CAUSAL" and axes != 1):
            raise ValueError(wrong)
        return name
    if is_whole(padding):
        return ((int(padding), int(padding)),) * axes
    if not isinstance(padding, tuple | list) or len(padding) != axes:
        raise ValueError(wrong)
    pairs = [(one, one) if is_whole(one) else one for one in padding]
    for pair in pairs:
        two = isinstance(pair, tuple | list) and len(pair) == 2
        if not two or not all(is_whole(n) and abs(n) <= MOST for n in pair):
            raise ValueError(wrong)
    return tuple((int(before), int(after)) for before, after in pairs)
