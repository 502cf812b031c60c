"""Sparse convolutions: the product and its gradients, with kernels for the CPU.

y[n, i, j, o] is the sum of w x[n, s i + d k - p, ..., c] over the weights w that are kept of each
window. The kernels (`kernels/conv.h`) take x and y with each channel as a plane, and the batch
innermost if there are enough images: as a layout in memory, which XLA keeps from layer to layer,
through the operations between them. On other platforms, on meshes and without a compiler, the
kernel is filled in.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsparse.export._packing.bilinear import Contraction, bilinear
from jsparse.export._packing.formats import MOST, CsrArrays, csr_matrix, csr_places, on_mesh
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


def conv_dot(arrays: CsrArrays, x: Array, window: Window) -> Array:
    """The convolution of x with what is kept of a kernel.

    Args:
      arrays: of the kernel as a matrix [features * taps, outputs].
      x: [batch, height, width, features], of the same dtype as the values.
      window: the rest.
    """
    if not (arrays.values.size and window.fits() and has_kernel(x)) or on_mesh(x, *arrays):
        return plain_conv_dot(arrays, x, window)
    values, images = arrays.values.astype(jnp.float32), x.astype(jnp.float32)
    y = _product(window, values, images, arrays.indices, arrays.starts)
    return y.astype(x.dtype)


def plain_conv_dot(arrays: CsrArrays, x: Array, window: Window) -> Array:
    """`conv_dot` in plain JAX, for any platform: the kernel is filled in at each call."""
    return _plain(window, whole_kernel(arrays, window), x)


def whole_kernel(arrays: CsrArrays, window: Window) -> Array:
    """[height, width, features, outputs] of a window, with zeros where nothing is kept."""
    return as_kernel(_matrix(window, *arrays), window.size)


def as_matrix(kernel: Any) -> Any:
    """A kernel [..., features, outputs] as a matrix: features, then taps of each."""
    features, outputs = kernel.shape[-2:]
    return kernel.reshape(-1, features, outputs).swapaxes(0, 1).reshape(-1, outputs)


def as_kernel(matrix: Any, size: tuple[int, ...]) -> Any:
    """The kernel [*size, features, outputs] of such a matrix."""
    taps = math.prod(size)
    features, outputs = matrix.shape[0] // taps, matrix.shape[1]
    return matrix.reshape(features, taps, outputs).swapaxes(0, 1).reshape(*size, features, outputs)


def _matrix(window: Window, values: Array, indices: Array, starts: Array) -> Array:
    shape = (window.features * window.taps, window.outputs)
    return csr_matrix(CsrArrays(values, indices, starts), shape, window.width * window.taps)


def _plain(window: Window, kernel: Array, x: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=AXES,
    )


def _images(window: Window, batch: Any) -> Any:
    return jax.ShapeDtypeStruct((batch, *window.image, window.features), jnp.float32)


def _kernel(window: Window) -> Any:
    return jax.ShapeDtypeStruct((*window.size, window.features, window.outputs), jnp.float32)


def _plain_forward(window: Window, values: Array, x: Array, *structure: Array) -> Array:
    return plain_conv_dot(CsrArrays(values, *structure), x, window)


def _plain_backward(window: Window, values: Array, dy: Array, *structure: Array) -> Array:
    kernel = whole_kernel(CsrArrays(values, *structure), window)
    product = functools.partial(_plain, window, kernel)
    return jax.linear_transpose(product, _images(window, dy.shape[0]))(dy)[0]


def _plain_weights(window: Window, x: Array, dy: Array, indices: Array, starts: Array) -> Array:
    arrays = CsrArrays(indices, indices, starts)
    places = csr_places(arrays, window.outputs, window.width * window.taps)
    product = lambda kernel: _plain(window, kernel, x)
    whole = as_matrix(jax.linear_transpose(product, _kernel(window))(dy)[0])
    return whole.at[places].get(mode="fill", fill_value=0)


def _forward(window: Window, values: Array, x: Array, *structure: Array) -> Array:
    y = jax.eval_shape(functools.partial(_plain, window), _kernel(window), x)
    return _call("jsparse_conv_forward", y.shape, window, values, *structure, x)


def _backward(window: Window, values: Array, dy: Array, *structure: Array) -> Array:
    shape = _images(window, dy.shape[0]).shape
    return _call("jsparse_conv_backward", shape, window, values, *structure, dy)


def _weights(window: Window, x: Array, dy: Array, *structure: Array) -> Array:
    return _call("jsparse_conv_weights", structure[0].shape, window, *structure, x, dy)


_product, _transposed, _outer = bilinear(
    "csr_convolution",
    Contraction(_forward, _plain_forward),
    Contraction(_backward, _plain_backward),
    Contraction(_weights, _plain_weights),
)


def conv_gradients_at(window: Window, indices: Array, starts: Array, x: Array, dy: Array) -> Array:
    """The gradient of the kernel at these places only, as in `CsrArrays`: float32 [places]."""
    given = x.astype(jnp.float32), dy.astype(jnp.float32), indices, starts
    able = window.fits() and has_kernel(given[0]) and not on_mesh(*given)
    return (_outer if able else _plain_weights)(window, *given)


def _call(name: str, shape: tuple[int, ...], window: Window, *args: Array) -> Array:
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
    before = [pad[0] for pad in window.padding]
    settings = [*window.size, *window.strides, *window.dilation, *before]
    return call(
        *args,
        window=np.array(settings, np.int64),
        width=np.int64(window.width),
        batch_last=np.int64(batch_last),
        lanes=np.int64(window.lanes),
    )
