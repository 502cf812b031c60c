"""Sparse convolutions: the product and its gradients, with kernels for the CPU.

y[n, i, j, o] is the sum of w x[n, s i + d k - p, ..., c] over the weights w that are kept of each
window. The kernels (`kernels/conv.h`) take x and y with each channel as a plane, and the batch
innermost if there are enough images: as a layout in memory, which XLA keeps from layer to layer,
through the operations between them. On other platforms, on meshes and without a compiler, the
kernel is filled in.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse.export._packing.bilinear import bilinear, dense_kernel, plain_outer
from jsparse.export._packing.formats import MOST, CsrArrays
from jsparse.export._packing.packed import WIDEST, has_kernel

BATCH_LAST, PLANES = (3, 1, 2, 0), (0, 3, 1, 2)
"""How images [n, h, w, c] lie in memory, from the outermost axis to the innermost."""
MANY = WIDEST
"""The number of images from which the batch is innermost."""
AXES = ("NHWC", "HWIO", "NHWC")

Pair = tuple[int, int]


class Window(NamedTuple):
    """A convolution over two axes, all that is known when it is compiled.

    Attributes:
      features: of x.
      outputs: of y.
      width: features a group.
      image: height and width of x.
      size: of the window.
      strides: of the window.
      dilation: of the window.
      padding: (before, after) of each axis; zeros, or cut where negative.
      lanes: floats in a vector, at most.
    """

    features: int
    outputs: int
    width: int
    image: Pair
    size: Pair
    strides: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]
    lanes: int = WIDEST

    @property
    def taps(self) -> int:
        """The number of places in the window."""
        return self.size[0] * self.size[1]

    def fits(self) -> bool:
        """Whether the kernels take it; the padding must be known."""
        pads = [abs(side) for pair in self.padding for side in pair if isinstance(side, int)]
        sides = zip(self.size, self.dilation, strict=True)
        sizes = [self.taps, math.prod(self.strides), *((n - 1) * d for n, d in sides), *pads]
        return len(pads) == 4 and max(sizes) <= MOST

    @property
    def group(self) -> int:
        """Inputs of the matrix that are stored together."""
        return self.width * self.taps

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel: [height, width, features, outputs]."""
        return (*self.size, self.features, self.outputs)

    def x_shape(self, batch: Any) -> tuple[Any, ...]:
        """The shape of x."""
        return (batch, *self.image, self.features)

    def multiply(self, kernel: Array, x: Array) -> Array:
        """The convolution with a dense kernel."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=AXES,
        )

    def by_kernel(self, name: str, shape: tuple[int, ...], *args: Array) -> Array:
        """A kernel; images among the arguments and results lie as it needs them."""
        batch = args[-1].shape[0]
        batch_last = isinstance(batch, int) and batch >= MANY
        order = BATCH_LAST if batch_last else PLANES
        layout = lambda shape: order if len(shape) == len(order) else None
        call = jax.ffi.ffi_call(
            name,
            jax.ShapeDtypeStruct(shape, jnp.float32),
            input_layouts=[layout(one.shape) for one in args],
            output_layouts=layout(shape),
        )
        before = [pad[0] for pad in self.padding]
        settings = [*self.size, *self.strides, *self.dilation, *before]
        return call(
            *args,
            window=np.array(settings, np.int64),
            width=np.int64(self.width),
            batch_last=np.int64(batch_last),
            lanes=np.int64(self.lanes),
        )


_product, _transposed, _outer = bilinear("csr_convolution", "jsparse_conv")


def conv_dot(arrays: CsrArrays, x: Array, window: Window) -> Array:
    """The convolution of x with what is kept of a kernel, a matrix [features * taps, outputs].

    x is [batch, height, width, features], of the same dtype as the values.
    """
    if not (arrays.values.size and window.fits() and has_kernel(x, *arrays)):
        return plain_conv_dot(arrays, x, window)
    values, images = arrays.values.astype(jnp.float32), x.astype(jnp.float32)
    y = _product(window, values, images, arrays.indices, arrays.starts)
    return y.astype(x.dtype)


def plain_conv_dot(arrays: CsrArrays, x: Array, window: Window) -> Array:
    """`conv_dot` in plain JAX, for any platform: the kernel is filled in at each call."""
    return window.multiply(dense_kernel(arrays, window), x)


def conv_gradients_at(window: Window, indices: Array, starts: Array, x: Array, dy: Array) -> Array:
    """The gradient of the kernel at these places only, as in `CsrArrays`: float32 [places]."""
    given = x.astype(jnp.float32), dy.astype(jnp.float32), indices, starts
    able = window.fits() and has_kernel(*given)
    return (_outer if able else plain_outer)(window, *given)
