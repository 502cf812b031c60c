"""Whether arrays are the structure of a packed layer: sizes, and positions that name kept weights.

The kernels refuse what would make them read or write out of bounds. This is stricter and says more:
what `csr_arrays` and `block_arrays` make passes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jsparse.export._packing.formats import MOST, MOST_INT8, MOST_KEPT


class CsrSizes(NamedTuple):
    """Of a matrix whose kept weights are stored one by one.

    Attributes:
      inputs: of the matrix.
      outputs: of the matrix.
      kept: weights; of a stack of matrices, what there is room for in each.
      width: inputs a group.
      stack: axes of a stack of matrices; () for one.
    """

    inputs: int
    outputs: int
    kept: int
    width: int
    stack: tuple[int, ...] = ()

    def check(self) -> None:
        """Refuse sizes that no matrix has."""
        _check_width(self.width, MOST)
        _check_sizes(self.inputs, self.outputs, self.kept, self.inputs * self.outputs)

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Args:
          arrays: values [kept], indices [kept] and starts [groups * outputs + 1]; the axes of a
            stack come before.

        Raises:
          ValueError: an array is missing, its shape or dtype is another one, a position is outside
            the matrix or not after the one before it, or starts do not rise from 0 to `kept`.
        """
        self.check()
        parts = -(-self.inputs // self.width) * self.outputs
        if self.stack:
            given = ("values", self.kept, ""), ("indices", self.kept, "uint16")
            found = {
                name: _check_array(arrays, name, (*self.stack, length), dtype)
                for name, length, dtype in (*given, ("starts", parts + 1, "int32"))
            }
            for place in np.ndindex(self.stack):
                self._check_one({name: array[place] for name, array in found.items()})
            return
        _check_array(arrays, "values", (self.kept,))
        indices = _check_array(arrays, "indices", (self.kept,), "uint16").astype(np.int32)
        starts = _check_starts(arrays, parts, self.kept)
        part = np.repeat(np.arange(parts), np.diff(starts))
        _check_places("indices", indices, self.ends(part), part)

    def _check_one(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Check one matrix of a stack; entries after its last weight are not read."""
        kept = int(arrays["starts"][-1])
        if not 0 <= kept <= self.kept:
            raise ValueError(f"starts end at {kept}, expected 0 to {self.kept}")
        used = {name: array if name == "starts" else array[:kept] for name, array in arrays.items()}
        CsrSizes(self.inputs, self.outputs, kept, self.width).check_arrays(used)

    def ends(self, part: np.ndarray) -> np.ndarray:
        """How many inputs the group of each part has."""
        first = part // max(1, self.outputs) * self.width
        return np.minimum(self.width, self.inputs - first)


class BlockSizes(NamedTuple):
    """Of a matrix whose kept blocks are stored.

    Attributes:
      inputs: of the matrix.
      outputs: of the matrix.
      kept: blocks.
      wide: inputs a block.
      high: outputs a block.
    """

    inputs: int
    outputs: int
    kept: int
    wide: int
    high: int

    def check(self) -> None:
        """Refuse sizes that no matrix has."""
        if min(self.wide, self.high) < 1:
            raise ValueError(f"a block of {self.wide} by {self.high}; its sides are at least 1")
        down, across = -(-self.inputs // self.wide), -(-self.outputs // self.high)
        _check_sizes(self.inputs, self.outputs, self.kept, down * across)

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Args:
          arrays: values [kept, wide, high], rows [kept] and starts [output blocks + 1].

        Raises:
          ValueError: as for `CsrSizes.check_arrays`.
        """
        self.check()
        down, across = -(-self.inputs // self.wide), -(-self.outputs // self.high)
        _check_array(arrays, "values", (self.kept, self.wide, self.high))
        rows = _check_array(arrays, "rows", (self.kept,), "int32")
        starts = _check_starts(arrays, across, self.kept)
        part = np.repeat(np.arange(across), np.diff(starts))
        _check_places("rows", rows, np.full(self.kept, down), part)


class CsrInt8Sizes(NamedTuple):
    """Of a matrix whose kept weights are stored one by one, as int8; see `CsrSizes`."""

    inputs: int
    outputs: int
    kept: int
    width: int

    def check(self) -> None:
        """Refuse sizes that no matrix has."""
        _check_width(self.width, MOST_INT8)
        CsrSizes(*self).check()

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Args:
          arrays: values [kept], indices [kept], counts [groups * outputs] and scale [outputs].

        Raises:
          ValueError: as for `CsrSizes.check_arrays`; counts do not add up to `kept`; a scale is
            infinite or NaN.
        """
        self.check()
        parts = -(-self.inputs // self.width) * self.outputs
        _check_array(arrays, "values", (self.kept,), "int8")
        indices = _check_array(arrays, "indices", (self.kept,), "uint8").astype(np.int32)
        counts = _check_array(arrays, "counts", (parts,), "uint8")
        _check_scale(arrays, self.outputs)
        if (total := int(counts.sum(dtype=np.int64))) != self.kept:
            raise ValueError(f"counts add up to {total}, expected {self.kept}, those that are kept")
        part = np.repeat(np.arange(parts), counts)
        _check_places("indices", indices, CsrSizes(*self).ends(part), part)


class BlockInt8Sizes(NamedTuple):
    """Of a matrix whose kept blocks are stored, as int8; see `BlockSizes`."""

    inputs: int
    outputs: int
    kept: int
    wide: int
    high: int

    def check(self) -> None:
        """Refuse sizes that no matrix has."""
        BlockSizes(*self).check()

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Args:
          arrays: values [kept, wide, high], rows [kept], starts [output blocks + 1] and scale
            [outputs].

        Raises:
          ValueError: as for `BlockSizes.check_arrays`; a scale is infinite or NaN.
        """
        BlockSizes(*self).check_arrays(arrays)
        _check_array(arrays, "values", (self.kept, self.wide, self.high), "int8")
        _check_scale(arrays, self.outputs)


Sizes = CsrSizes | BlockSizes | CsrInt8Sizes | BlockInt8Sizes


def conv_sizes(features: int, outputs: int, kept: int, width: int, size: Sequence[int]) -> CsrSizes:
    """Of the matrix of a convolution: features times taps, outputs; the same for groups."""
    taps = math.prod(size)
    return CsrSizes(features * taps, outputs, kept, width * taps)


def _check_width(width: int, most: int) -> None:
    if not 1 <= width <= most:
        raise ValueError(f"a group of {width} inputs; allowed are 1 to {most}")


def _check_scale(arrays: Mapping[str, Any], outputs: int) -> None:
    scale = _check_array(arrays, "scale", (outputs,))
    wrong = ~np.isfinite(scale.astype(np.float64))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"scale[{at}] is {scale[at]}, expected a finite number")


def _check_sizes(inputs: int, outputs: int, kept: int, most: int) -> None:
    if min(inputs, outputs) < 0:
        raise ValueError(f"{inputs} inputs and {outputs} outputs; give 0 or more of both")
    if not 0 <= kept <= min(most, MOST_KEPT):
        raise ValueError(
            f"{kept} weights or blocks are kept; a matrix of {inputs} by {outputs} has "
            f"{min(most, MOST_KEPT)}"
        )


def _check_array(
    arrays: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: str = ""
) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    found = arrays[name]
    if tuple(found.shape) != shape or (dtype and str(found.dtype) != dtype):
        kind = f"{found.dtype}{list(found.shape)}"
        raise ValueError(f"{name} is {kind}, expected {dtype or found.dtype}{list(shape)}")
    return np.asarray(found)


def _check_starts(arrays: Mapping[str, Any], parts: int, kept: int) -> np.ndarray:
    starts = _check_array(arrays, "starts", (parts + 1,), "int32")
    if starts[0] != 0 or starts[-1] != kept or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"starts do not rise from 0 to {kept}, the number that is kept")
    return starts


def _check_places(name: str, places: np.ndarray, end: np.ndarray, part: np.ndarray) -> None:
    """Check that positions rise within each part and stay below its end."""
    wrong = (places < 0) | (places >= end)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"{name}[{at}] is {places[at]}, expected 0 to {end[at] - 1}")
    wrong = (places[1:] <= places[:-1]) & (part[1:] == part[:-1])
    if wrong.any():
        at = int(wrong.argmax()) + 1
        raise ValueError(f"{name}[{at}] is {places[at]}, not above the one before it")


def features_in(settings: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last axes of x and y in the settings of a packed layer, as a file has them."""
    given = settings["in_features"], settings["out_features"]
    ins, outs = (tuple(one) if isinstance(one, list | tuple) else (one,) for one in given)
    return ins, outs


def features_json(shape: tuple[int, ...]) -> int | list[int]:
    """The features of a side as `features_in` reads them: a number if there is one axis."""
    return shape[0] if len(shape) == 1 else list(shape)


def sizes_of(settings: Mapping[str, Any]) -> Sizes:
    """The sizes in the settings of a packed layer, as a file has them.

    Raises:
      ValueError: a side has no axes, or a negative one; a window that no layer has.
    """
    shapes = features_in(settings)
    if not all(shapes) or min(map(min, shapes)) < 0:
        raise ValueError(f"features of {shapes[0]} and {shapes[1]}; give 0 or more, of both")
    sizes = math.prod(shapes[0]), math.prod(shapes[1]), settings["kept"]
    match settings["format"]:
        case "csr conv":
            return conv_sizes(*sizes, settings["width"], settings["kernel_size"])
        case "csr":
            return CsrSizes(*sizes, settings["width"], tuple(settings.get("stack", ())))
        case "csr int8":
            return CsrInt8Sizes(*sizes, settings["width"])
        case "blocks int8":
            return BlockInt8Sizes(*sizes, *settings["block"])
    return BlockSizes(*sizes, *settings["block"])
