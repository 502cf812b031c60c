"""Convolution and pooling for XLA:CPU, whose own are many times slower inside `lax.scan`.

Both keep Flax's interface ([batch, height, width, channel], kernels [height, width, in, out]) and
work inside with the batch as the last axis, so that each shifted slice is a copy of contiguous
runs. The transposes between the two cancel where both are used. On other devices the stock
functions serve.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


def convolution() -> Callable[..., Array]:
    """What to give `nnx.Conv(conv_general_dilated=...)` on this device."""
    return conv_as_matmul if jax.default_backend() == "cpu" else lax.conv_general_dilated


def conv_as_matmul(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *rest: Any, **options: Any
) -> Array:
    """2-D convolution as one matrix product over patches; stride 1, one group, no dilation.

    Args:
      x: [batch, height, width, in].
      kernel: [kh, kw, in, out].
      strides: (1, 1).
      padding: "VALID", "SAME" or a pair for each axis.
      *rest: dilations, which must be 1.
      **options: of `lax.conv_general_dilated`; more than one group is refused.

    Returns:
      [batch, height', width', out].

    Raises:
      ValueError: a stride, dilation or number of groups other than 1, or not two spatial axes.
    """
    dilations = [options.get("lhs_dilation"), options.get("rhs_dilation"), *rest[:2]]
    ones = all(set(d) == {1} for d in (strides, *dilations) if isinstance(d, Sequence))
    if x.ndim != 4 or not ones or options.get("feature_group_count", 1) != 1:
        raise ValueError(
            f"conv_as_matmul got input {x.shape}, strides {strides}, options {options}; it does "
            "2-D, stride 1, one group, no dilation: use lax.conv_general_dilated"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), padding)
    x = jnp.pad(x.transpose(3, 1, 2, 0), ((0, 0), *map(tuple, padding), (0, 0)))
    return _conv(x, kernel).transpose(3, 1, 2, 0)


def max_pool(x: Array) -> Array:
    """2x2 max pooling: [batch, height, width, channel], even sides -> half of each."""
    if jax.default_backend() != "cpu":
        return nnx.max_pool(x, (2, 2), strides=(2, 2))
    return _pool(x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)


@jax.custom_vjp
def _conv(x: Array, kernel: Array) -> Array:
    """x [in, h, w, batch], kernel [kh, kw, in, out] -> [out, h', w', batch]."""
    return _conv_forward(x, kernel)[0]


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple]:
    kh, kw, inputs, outputs = kernel.shape
    _, h, w, batch = x.shape
    h, w = h - kh + 1, w - kw + 1
    shifted = [x[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)]
    patches = jnp.concatenate(shifted, axis=0).reshape(kh * kw * inputs, h * w * batch)
    y = kernel.reshape(-1, outputs).T @ patches
    return y.reshape(outputs, h, w, batch), (patches, kernel)


def _conv_backward(residuals: tuple, g: Array) -> tuple[Array, Array]:
    patches, kernel = residuals
    kh, kw, inputs, outputs = kernel.shape
    _, h, w, batch = g.shape
    g = g.reshape(outputs, -1)
    d_kernel = lax.dot_general(g, patches, (((1,), (1,)), ((), ()))).T.reshape(kernel.shape)
    d_patches = (kernel.reshape(-1, outputs) @ g).reshape(kh, kw, inputs, h, w, batch)

    def placed(d: Array, at: int, size: int, axis: int) -> Array:
        return jnp.pad(d, [(at, size - 1 - at) if a == axis else (0, 0) for a in range(4)])

    columns = [sum(placed(d_patches[i, j], j, kw, 2) for j in range(kw)) for i in range(kh)]
    return sum(placed(column, i, kh, 1) for i, column in enumerate(columns)), d_kernel


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def _pool(x: Array) -> Array:
    """x [channel, h, w, batch] -> [channel, h / 2, w / 2, batch]."""
    return jnp.maximum(
        jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]), jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])
    )


def _pool_forward(x: Array) -> tuple[Array, tuple]:
    y = _pool(x)
    return y, (x, y)


def _pool_backward(residuals: tuple, g: Array) -> tuple[Array]:
    """The gradient goes to the first of equal maxima, as in the stock function."""
    x, y = residuals
    channels, h, w, batch = y.shape
    x = x.reshape(channels, h, 2, w, 2, batch)
    free = jnp.ones_like(y, bool)
    parts = []
    for i in (0, 1):
        for j in (0, 1):
            hit = free & (x[:, :, i, :, j] == y)
            free = free & ~hit
            parts.append(jnp.where(hit, g, jnp.zeros_like(g)))
    rows = [jnp.stack(parts[2 * i : 2 * i + 2], axis=3) for i in (0, 1)]
    return (jnp.stack(rows, axis=2).reshape(channels, 2 * h, 2 * w, batch),)


_pool.defvjp(_pool_forward, _pool_backward)
