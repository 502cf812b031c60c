"""Convolutions that hold single kept weights, with kernels for the CPU."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jsparse._values import check_whole
from jsparse.export._packing.convolution import conv_dot, conv_gradients_at, plain_conv_dot
from jsparse.export._packing.formats import MOST, as_kernel, csr_matrix
from jsparse.export._packing.packed import Linked, Products
from jsparse.export._packing.structure import CsrSizes, conv_sizes
from jsparse.export._packing.windows import Geometry, geometry_from


class CsrConv(Linked):
    """A convolution over one or two axes that holds only the weights it keeps, with a bias.

    `pack(model, csr())` makes it from a trained `nnx.Conv`; a new one is all zeros, to be filled
    from a file. It can be trained like any layer: the values and the bias are its parameters, and
    the mask is fixed unless a `jsparse.PackedOptimizer` changes it. Its kernel is stored as a
    matrix with a row for each feature and tap. A call takes [..., axes, features] to
    [..., axes, outputs].

    Args:
      in_features: of x.
      out_features: of y.
      kernel_size: of the window, on each axis.
      kept: weights.
      width: features a group, at most 65536 divided by the taps of the window.
      strides: of the window, one for all axes or one for each.
      padding: as for `nnx.Conv`.
      kernel_dilation: of the window, like strides.
      use_bias: whether there is a bias.
      dtype: of the computation; that of x and the values if not given.
      param_dtype: of the values.

    Raises:
      TypeError: a size is not a whole number.
      ValueError: sizes that no kernel has; an unknown padding.

    Example:
      >>> CsrConv(16, 32, (3, 3), kept=200, width=16).values.shape
      (200,)
    """

    format = "csr conv"
    products = Products(conv_dot, plain_conv_dot)

    geometry: Geometry
    """The window."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        *,
        kept: int,
        width: int,
        strides: int | Sequence[int] = 1,
        padding: Any = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
    ):
        check_whole(in_features=in_features, out_features=out_features, width=width)
        self._set_features(in_features, out_features)
        self.geometry = geometry_from(kernel_size, strides, padding, kernel_dilation)
        self.width = width
        if (inputs := width * math.prod(self.geometry.kernel_size)) > MOST:
            raise ValueError(
                f"width, groups of {width} features, makes groups of {inputs} inputs with this "
                f"window; allowed are 1 to {MOST}"
            )
        self.product = self.products.kernel
        self._set_arrays(self._sizes(kept), use_bias, dtype, param_dtype)

    def _sizes(self, kept: int) -> CsrSizes:
        return conv_sizes(
            self.in_features, self.out_features, kept, self.width, self.geometry.kernel_size
        )

    @property
    def sizes(self) -> CsrSizes:
        """Sizes of the matrix [features * taps, outputs]: `kept` is the room for links."""
        return self._sizes(self.values.size)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel, [*window, features, outputs]."""
        return (*self.geometry.kernel_size, self.in_features, self.out_features)

    def kernel_matrix(self) -> Array:
        """The whole kernel as a matrix [features * taps, outputs], with zeros."""
        sizes = self.sizes
        shape = sizes.inputs, sizes.outputs
        return csr_matrix(self.arrays(self.values[...]), shape, sizes.width)

    def kernel(self) -> Array:
        """The whole kernel [*window, features, outputs], as `nnx.Conv` has it."""
        return as_kernel(self.kernel_matrix(), self.kernel_shape)

    def _check_input(self, x: Array) -> None:
        axes = len(self.geometry.kernel_size)
        if x.ndim <= axes or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {x.shape}, the layer takes [..., {self.in_features}] with "
                f"{axes} axes for its window before that; give it {self.in_features} features"
            )

    def _multiplied(self, x: Array, floats: Array) -> Array:
        axes = len(self.geometry.kernel_size)
        before, image = x.shape[: -axes - 1], x.shape[-axes - 1 : -1]
        if len(before) != 1:
            x = x.reshape(math.prod(before), *image, self.in_features)
        x, pads = self.geometry.padded(x)
        window = self.geometry.window(
            x.shape[1:-1],
            pads,
            features=self.in_features,
            outputs=self.out_features,
            width=self.width,
        )
        x = x.reshape(x.shape[0], *window.image, self.in_features)
        y = self.product(self.arrays(floats), x, window)
        if self.probe is not None:
            y = self.probe(y, x, conv_gradients_at, window)
        return y.reshape(*before, *y.shape[3 - axes : 3], self.out_features)
