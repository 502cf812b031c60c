"""Images as networks want them: standardized, shifted at random and flipped, all inside jit.

A shift, a flip and an interpolation are linear along each side, so both augmentations multiply each
image by one matrix for its rows and one for its columns: no gathers, which CPUs and GPUs do slowly.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def pad_crop_flip(key: Array, images: Array, pad: int = 4) -> Array:
    """Zero padding, a random crop of the original size, then a left-right flip half of the time.

    Args:
        key: Typed key.
        images: float `[n, h, w, c]`; standardized ones get their mean around them.
        pad: Zeros on each side; the (2 pad + 1)^2 crops are equally likely.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """
    down, right, flip = jax.random.split(key, 3)
    n, h, w, _ = images.shape
    rows = _places(h, jax.random.randint(down, (n,), -pad, pad + 1).astype(jnp.float32))
    columns = _places(w, jax.random.randint(right, (n,), -pad, pad + 1).astype(jnp.float32))
    return _read(images, rows, _flipped(flip, columns))


def shift_flip(key: Array, images: Array, part: float = 0.1) -> Array:
    """A random real shift with repeated edges, then a left-right flip half of the time.

    What Keras's `ImageDataGenerator(width_shift_range=part, height_shift_range=part,
    horizontal_flip=True)` does: bilinear between pixels, the nearest pixel beyond the edges.

    Args:
        key: Typed key.
        images: float `[n, h, w, c]`.
        part: The largest shift, as a fraction of each side; all shifts up to it are equally likely.
    """
    down, right, flip = jax.random.split(key, 3)
    n, h, w, _ = images.shape
    rows = _places(h, jax.random.uniform(down, (n,), minval=-part * h, maxval=part * h))
    columns = _places(w, jax.random.uniform(right, (n,), minval=-part * w, maxval=part * w))
    return _read(images, jnp.clip(rows, 0, h - 1), _flipped(flip, jnp.clip(columns, 0, w - 1)))


def standardize(train: np.ndarray) -> Callable[[Array], Array]:
    """`(x - mean) / (std + 1e-7)` with one mean and one std over all of the training set.

    As in the code of Gibbs pruning. Test images are standardized by the same two numbers.

    Args:
        train: uint8 `[n, ...]`; the function returned takes such images to float32.
    """
    mean, std = _moments(train)
    return lambda images: (images.astype(jnp.float32) - mean) / (std + 1e-7)


def standardize_channels(train: np.ndarray) -> Callable[[Array], Array]:
    """As `standardize`, with a mean and a std for each channel of `[n, h, w, c]`."""
    moments = np.array([_moments(train[..., c]) for c in range(train.shape[-1])], np.float32)
    mean, std = moments.T[:, None, None, None, :]
    return lambda images: (images.astype(jnp.float32) - mean) / (std + 1e-7)


def _moments(images: np.ndarray) -> tuple[float, float]:
    """Mean and std of uint8 values, exact, from how often each occurs; a part at a time."""
    parts = np.array_split(images.reshape(len(images), -1), max(1, len(images) // 500))
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
    values = np.arange(256)
    mean = float(np.average(values, weights=counts))
    return mean, float(np.average((values - mean) ** 2, weights=counts) ** 0.5)


def _places(side: int, shift: Array) -> Array:
    """Where each of `side` pixels is read, [n, side]."""
    return jnp.arange(side, dtype=jnp.float32)[None, :] + shift[:, None]


def _flipped(key: Array, places: Array) -> Array:
    flip = jax.random.bernoulli(key, 0.5, (len(places), 1))
    return jnp.where(flip, places[:, ::-1], places)


def _read(images: Array, rows: Array, columns: Array) -> Array:
    """Images read at places between pixels, bilinear; 0 a pixel or more beyond the edges.

    `[n, h, w, c]` at rows `[n, h']` and columns `[n, w']` gives `[n, h', w', c]`.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images are {images.dtype}; give floats, such as standardize(...)(images)")
    n, h, w, c = images.shape
    exact = jax.lax.Precision.HIGHEST  # GPUs would round pixels to 10 bits
    down, right = _weights(rows, h).astype(images.dtype), _weights(columns, w).astype(images.dtype)
    y = jnp.matmul(down, images.reshape(n, h, w * c), precision=exact)
    return jnp.einsum("npw,nowc->nopc", right, y.reshape(n, -1, w, c), precision=exact)


def _weights(places: Array, side: int) -> Array:
    """What each pixel of a side gives to each place, [n, places, side]."""
    pixels = jnp.arange(side, dtype=jnp.float32)
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, :, None] - pixels[None, None, :]))
