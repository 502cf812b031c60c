"""Convolutions in NumPy, in float64, and random ones to compare."""

import random

import jax
import jax.numpy as jnp
import numpy as np

from jsparse.export._packing.convolution import Window, plain_conv_dot
from jsparse.export._packing.formats import as_matrix, csr_arrays

SIDES = (1, 2, 3, 7, 12)
WRONG = 2**40
BATCHES = (1, 2, 3, 16, 19, 40, 100)


def window(choice: random.Random) -> Window:
    """Any window, over images that it fits into at least once."""
    pair = lambda least, most: (choice.randint(least, most), choice.randint(least, most))
    size, dilation = pair(1, 4), pair(1, 2)
    pads = (pair(-1, 3), pair(0, 3))
    reach = [(n - 1) * d + 1 - sum(p) for n, d, p in zip(size, dilation, pads, strict=True)]
    image = [max(2, least) + choice.choice(SIDES) for least in reach]
    features, outputs = choice.randint(1, 9), choice.choice([1, 5, 140])
    width = choice.choice([1, 2, features])
    lanes = choice.choice([4, 8, 16])
    return Window(features, outputs, width, tuple(image), size, pair(1, 3), dilation, pads, lanes)


def padded(window: Window, x: np.ndarray) -> np.ndarray:
    """x with zeros around it, or cut, in float64."""
    around = [(max(0, a), max(0, b)) for a, b in window.padding]
    x = np.pad(x.astype(np.float64), [(0, 0), *around, (0, 0)])
    (top, bottom), (left, right) = (
        (max(0, -a), x.shape[1 + n] - max(0, -b)) for n, (a, b) in enumerate(window.padding)
    )
    return x[:, top:bottom, left:right]


def shifted(window: Window, x: np.ndarray):
    """For each tap (i, j) the part of the padded x that it reads."""
    sides = [
        (x.shape[1 + n] - (window.size[n] - 1) * window.dilation[n] - 1) // window.strides[n] + 1
        for n in (0, 1)
    ]
    for i in range(window.size[0]):
        for j in range(window.size[1]):
            begin = i * window.dilation[0], j * window.dilation[1]
            rows, columns = (
                slice(at, at + (count - 1) * stride + 1, stride)
                for at, count, stride in zip(begin, sides, window.strides, strict=True)
            )
            yield (i, j), np.s_[:, rows, columns]


def forward(window: Window, kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    x = padded(window, x)
    return sum(x[at] @ kernel[tap].astype(np.float64) for tap, at in shifted(window, x))


def backward(window: Window, kernel: np.ndarray, x: np.ndarray, dy: np.ndarray):
    """dx and the gradient of the whole kernel."""
    given, dkernel = padded(window, x), np.zeros(kernel.shape)
    dgiven, dy = np.zeros_like(given), dy.astype(np.float64)
    for tap, at in shifted(window, given):
        dkernel[tap] = np.tensordot(given[at], dy, [(0, 1, 2)] * 2)
        dgiven[at] += dy @ kernel[tap].T
    around = [(max(0, -a), max(0, -b)) for a, b in window.padding]
    whole = np.pad(dgiven, [(0, 0), *around, (0, 0)])
    begin = [max(0, a) for a, _ in window.padding]
    (top, left), (height, width) = begin, window.image
    return whole[:, top : top + height, left : left + width], dkernel


def words(choice: random.Random, *, whole: bool) -> np.ndarray:
    """A convolution as the program in kernels.cc reads it: as it should be, or damaged."""
    given, batch = window(choice), choice.choice(BATCHES[:-1])
    drawn = np.random.default_rng(choice.randrange(2**32))
    kernel = drawn.random((*given.size, given.features, given.outputs))
    kernel = np.float32(kernel * (drawn.random(kernel.shape) < choice.random()))
    arrays = csr_arrays(as_matrix(kernel), given.width * given.taps)
    x = jax.ShapeDtypeStruct((batch, *given.image, given.features), jnp.float32)
    y = jax.eval_shape(lambda x: plain_conv_dot(arrays, x, given), x)
    before = [pad[0] for pad in given.padding]
    sizes = [given.width, choice.randint(0, 1), *given.image, *y.shape[1:3]]
    sizes += [*given.size, *given.strides, *given.dilation, *before]
    places, starts = np.asarray(arrays.indices), np.asarray(arrays.starts)
    if not whole:
        what = choice.choice(["sizes", "places", "starts"])
        if what == "sizes":
            at = choice.randrange(len(sizes))
            sizes[at] = choice.choice([max(0, sizes[at] + choice.choice([-3, -1, 1, 4])), WRONG])
            if at in (2, 3, 4, 5):  # of arrays, which are made so large
                sizes[at] = min(sizes[at], 50)
        else:
            array = (places if what == "places" else starts).copy()
            if array.size:
                wrong = np.int64(choice.choice([-5, 0, 1, 7, 300, 65535]))
                array[choice.randrange(array.size)] = wrong.astype(array.dtype)
            places, starts = (array, starts) if what == "places" else (places, array)
    head = [4, batch, given.features, given.outputs, given.lanes, len(arrays.values), *sizes]
    parts = [[places.size], places, [starts.size], starts]
    return np.concatenate([np.asarray(part, np.int64) for part in (head, *parts)])
