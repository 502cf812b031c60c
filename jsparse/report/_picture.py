"""Masks as small PNG pictures, written with Pillow."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np

from jsparse._checks import require
from jsparse.report._document import Picture
from jsparse.report._units import times

WIDEST, TALLEST = 720, 480
INK = (43, 124, 208)  # visible on white and on black
GAP = 255  # between the windows of a convolution; 0 to 254 are the fraction kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """What the axes of a weight mean.

    Attributes:
      stack: number of leading axes that count layers.
      inputs: axes that are summed over, the window of a convolution left out.
      outputs: axes that stay.
    """

    stack: int
    inputs: Sequence[int]
    outputs: Sequence[int]


def draw_mask(title: str, mask: np.ndarray, axes: Axes) -> Picture:
    """A mask with a row for each output and a column for each input.

    Args:
      title: of the picture.
      mask: bool, [...] as the weight.
      axes: of the weight.
    """
    whole, window = _by_output(mask, axes)
    rows, columns, height, width = whole.shape
    counts = [f"{n:,} {what}{'s' * (n != 1)}" for n, what in ((rows, "output"), (columns, "input"))]
    words = f"{counts[0]} (rows), {counts[1]} (columns)"
    if not window:
        return _picture(title, shrink_to(whole[:, :, 0, 0], TALLEST, WIDEST), words)
    words += f", a {times(window)} window each"
    side = 1  # few inputs: the outputs stand in several columns
    while rows * height > side * side * columns * width and side < rows:
        side += 1
    if side > 1:
        words = words.replace("(rows)", f"(rows, {side} beside each other)")
    blocks = -(-rows // side)
    padded = np.full((blocks * side, columns, height + 1, width + 1), np.nan)
    padded[:rows, :, :height, :width] = whole
    sheet = padded.reshape(blocks, side * columns, height + 1, width + 1)
    flat = sheet.transpose(0, 2, 1, 3).reshape(blocks * (height + 1), -1)[:-1, :-1]
    if flat.shape[0] > TALLEST or flat.shape[1] > WIDEST:  # no room for gaps
        flat = padded[:, :, :height, :width].reshape(blocks, side * columns, height, width)
        flat = flat.transpose(0, 2, 1, 3).reshape(blocks * height, -1)
        flat = shrink_to(np.nan_to_num(flat), TALLEST, WIDEST)
    return _picture(title, flat, words)


def draw_inputs(title: str, mask: np.ndarray, axes: Axes, image: Sequence[int]) -> Picture:
    """How many weights read each place of an input image; the darkest place has the most.

    Args:
      title: of the picture.
      mask: bool, [...] as the weight of a layer that reads the whole image.
      axes: of the weight.
      image: height, width and, if there are any, channels; they multiply to the inputs.
    """
    whole, _ = _by_output(mask, axes)
    counts = whole.sum(axis=(0, 2, 3)).reshape(*image[:2], -1).sum(axis=-1)
    words = (
        f"weights kept for each of {image[0]}×{image[1]} pixels: {counts.min():.0f} to "
        f"{counts.max():.0f} of {whole.size // math.prod(image[:2]):,}"
    )
    return _picture(title, shrink_to(counts / max(1, counts.max()), TALLEST, WIDEST), words)


def _by_output(mask: np.ndarray, axes: Axes) -> tuple[np.ndarray, tuple[int, ...]]:
    """[outputs, inputs, window height, window width], and the window's shape."""
    stack = tuple(range(axes.stack))
    ins, outs = tuple(axes.inputs), tuple(axes.outputs)
    rest = tuple(a for a in range(mask.ndim) if a not in stack + ins + outs)
    window = tuple(mask.shape[a] for a in rest)
    size = lambda of: math.prod(mask.shape[a] for a in of)
    shape = (size(stack + outs), size(ins), math.prod(window[:-1]), math.prod(window[-1:]))
    return mask.transpose(stack + outs + ins + rest).reshape(shape).astype(np.float32), window


def shrink_to(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over cells, so that there are at most so many rows and columns.

    Args:
      values: [height, width].
      rows: at most.
      columns: at most.
    """
    for axis, most in ((0, rows), (1, columns)):
        size = values.shape[axis]
        if size > most:
            edges = np.linspace(0, size, most, endpoint=False).astype(int)
            sums = np.add.reduceat(values, edges, axis=axis)
            counts = np.diff([*edges, size])
            values = sums / (counts[:, None] if axis == 0 else counts)
    return values


def _picture(title: str, values: np.ndarray, words: str) -> Picture:
    """Fractions [height, width], NaN for a gap."""
    levels = np.where(np.isnan(values), GAP, np.round(254 * np.nan_to_num(values)))
    content = base64.b64encode(_png(levels.astype(np.uint8))).decode()
    size = (values.shape[1], values.shape[0])
    return Picture(title, words, f"data:image/png;base64,{content}", size)


def _png(levels: np.ndarray) -> bytes:
    """A PNG in one colour, as opaque as the level says: 0 is clear, 254 full, 255 a grey gap.

    Raises:
      ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", what="pages")  # which brings Pillow
    from PIL import Image

    image, content = Image.fromarray(levels).convert("P"), io.BytesIO()
    image.putpalette([*INK * GAP, 128, 128, 128])
    opacity = bytes(round(255 * level / 254) for level in range(GAP)) + bytes((70,))
    image.save(content, "PNG", transparency=opacity, optimize=True)
    return content.getvalue()
