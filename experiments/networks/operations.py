"""Convolution and pooling for XLA:CPU, whose own versions are many times slower inside `lax.scan`.

Both keep Flax's interface ([batch, height, width, channel], kernels [height, width, in, out]) and
work inside with the batch as the last axis, so that each shifted slice is a copy of contiguous
runs. The convolution also asks XLA to keep what it reads and returns in that order in memory, so
that its transposes, and those of the normalization and the ReLU between two convolutions, cost
nothing (ResNet-20: half the time of a step). On other devices the stock functions are used.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint

BATCH_LAST = Layout((3, 1, 2, 0))
"""Of [batch, height, width, channel] in memory: the batch runs fastest, the channel slowest."""
_STOCK = ContextVar("stock operations", default=False)


@contextlib.contextmanager
def stock_operations() -> Iterator[None]:
    """Networks made and called inside use the stock operations, which exporters recognize."""
    token = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(token)


def _own() -> bool:
    return jax.default_backend() == "cpu" and not _STOCK.get()


def convolution(scanned: bool = True) -> Callable[..., Array]:
    """What to give `nnx.Conv(conv_general_dilated=...)` on this device.

    Args:
      scanned: for train steps inside `lax.scan`; otherwise for separate calls, as at inference.
    """
    if not _own():
        return lax.conv_general_dilated
    return conv_as_matmul if scanned else conv_by_map


def conv(
    inputs: int, outputs: int, side: int, stride: int, rngs: nnx.Rngs, **options: Any
) -> nnx.Conv:
    """A layer with square kernels and no bias, fast on this device."""
    return nnx.Conv(
        inputs, outputs, (side, side), strides=(stride, stride), use_bias=False,
        conv_general_dilated=convolution(), rngs=rngs, **options,
    )  # fmt: skip


@functools.cache
def compiler_options() -> dict[str, str]:
    """For `jax.jit` of what `convolution(scanned=False)` is in: Eigen's convolutions on a CPU.

    XLA's choice of YNNPACK for convolutions costs up to twice the time, most at 64 channels and
    fewer. Empty where this XLA does not know the option.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(jnp.negative, compiler_options=options)(jnp.zeros(()))
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def conv_by_map(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *rest: Any, **options: Any
) -> Array:
    """As a matrix product where the kernel is larger than the map, else by XLA.

    There XLA takes 65 times as long as the product; elsewhere, outside `lax.scan`, a third.
    """
    small = any(side < size for side, size in zip(x.shape[1:-1], kernel.shape, strict=False))
    conv = conv_as_matmul if small else lax.conv_general_dilated
    return conv(x, kernel, strides, padding, *rest, **options)


def conv_as_matmul(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *rest: Any, **options: Any
) -> Array:
    """2-D convolution as one matrix product over patches; one group, no dilation.

    Args:
      x: [batch, height, width, in].
      kernel: [kh, kw, in, out].
      strides: two, 1 or more.
      padding: "VALID", "SAME" or a pair for each axis.
      *rest: dilations, which must be 1.
      **options: of `lax.conv_general_dilated`; more than one group is refused.

    Returns:
      [batch, height', width', out].

    Raises:
      ValueError: a dilation or number of groups other than 1, or not two spatial axes.
    """
    dilations = [options.get("lhs_dilation"), options.get("rhs_dilation"), *rest[:2]]
    ones = all(set(d) == {1} for d in dilations if isinstance(d, Sequence))
    if x.ndim != 4 or not ones or options.get("feature_group_count", 1) != 1:
        raise ValueError(
            f"conv_as_matmul got input {x.shape}, options {options}; it does 2-D, one group, no "
            "dilation: use lax.conv_general_dilated"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = with_layout_constraint(x, BATCH_LAST).transpose(3, 1, 2, 0)
    x = jnp.pad(x, ((0, 0), *map(tuple, padding), (0, 0)))
    y = _conv(x, kernel, tuple(strides))
    return with_layout_constraint(y.transpose(3, 1, 2, 0), BATCH_LAST)


def max_pool(x: Array) -> Array:
    """2x2 max pooling: [batch, height, width, channel], even sides -> half of each."""
    if not _own():
        return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
    return _pool(x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """x [in, h, w, batch], kernel [kh, kw, in, out] -> [out, h', w', batch]."""
    return _conv_forward(x, kernel, strides)[0]


def _conv_forward(x: Array, kernel: Array, strides: tuple[int, int]) -> tuple[Array, tuple]:
    kh, kw, inputs, outputs = kernel.shape
    batch = x.shape[3]
    h, w = ((x.shape[n + 1] - kernel.shape[n]) // strides[n] + 1 for n in (0, 1))
    down, right = ((size - 1) * stride + 1 for size, stride in zip((h, w), strides, strict=True))
    shifted = [
        x[:, i : i + down : strides[0], j : j + right : strides[1]]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(shifted, axis=0).reshape(kh * kw * inputs, h * w * batch)
    y = kernel.reshape(-1, outputs).T @ patches
    return y.reshape(outputs, h, w, batch), (patches, kernel, x[:0])


def _conv_backward(strides: tuple[int, int], residuals: tuple, g: Array) -> tuple[Array, Array]:
    patches, kernel, empty = residuals  # the last for the shape of the input
    kh, kw, inputs, outputs = kernel.shape
    _, h, w, batch = g.shape
    g = g.reshape(outputs, -1)
    d_kernel = lax.dot_general(g, patches, (((1,), (1,)), ((), ()))).T.reshape(kernel.shape)
    d_patches = (kernel.reshape(-1, outputs) @ g).reshape(kh, kw, inputs, h, w, batch)

    def placed(d: Array, at: int, axis: int) -> Array:
        stride = strides[axis - 1]
        after = empty.shape[axis] - at - (d.shape[axis] - 1) * stride - 1
        sides = [(at, after, stride - 1) if a == axis else (0, 0, 0) for a in range(4)]
        return lax.pad(d, jnp.zeros((), d.dtype), sides)

    columns = [sum(placed(d_patches[i, j], j, 2) for j in range(kw)) for i in range(kh)]
    return sum(placed(column, i, 1) for i, column in enumerate(columns)), d_kernel


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
