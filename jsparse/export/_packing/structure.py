"""Whether arrays are the structure of a packed layer: sizes, and positions that name kept weights.

The kernels refuse what would make them read or write out of bounds. This is stricter and says more:
what `csr_arrays` and `block_arrays` make passes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jsparse.export._packing.formats import MOST, MOST_INT8, MOST_KEPT

Layout = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each array of a layer, by name; the dtype of floats is open: ""."""


class CsrSizes(NamedTuple):
    """Sizes of a matrix whose kept weights are stored one by one.

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

    @property
    def parts(self) -> int:
        """Groups of inputs times outputs."""
        return -(-self.inputs // self.width) * self.outputs

    @property
    def layout(self) -> Layout:
        """Shape and dtype of values, indices and starts."""
        lengths = {
            "values": (self.kept, ""),
            "indices": (self.kept, "uint16"),
            "starts": (self.parts + 1, "int32"),
        }
        return {name: ((*self.stack, n), dtype) for name, (n, dtype) in lengths.items()}

    def check(self, most: int = MOST) -> None:
        """Refuse sizes that no matrix has; groups have up to `most` inputs."""
        if not 1 <= self.width <= most:
            raise ValueError(f"a group of {self.width} inputs; allowed are 1 to {most}")
        _check_sizes(self.inputs, self.outputs, self.kept, self.inputs * self.outputs)

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Raises:
          ValueError: an array is missing, its shape or dtype is not that of `layout`, a position is
            outside the matrix or not after the one before it, or starts do not rise from 0 to
            `kept`.
        """
        self.check()
        found = _laid_out(arrays, self.layout)
        if self.stack:
            for place in np.ndindex(self.stack):
                self._check_one({name: array[place] for name, array in found.items()})
            return
        _check_starts(found["starts"], self.kept)
        self._check_indices(found["indices"], np.diff(found["starts"]))

    def _check_one(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Check one matrix of a stack; entries after its last weight are not read."""
        kept = int(arrays["starts"][-1])
        if not 0 <= kept <= self.kept:
            raise ValueError(f"starts end at {kept}, expected 0 to {self.kept}")
        used = {name: array if name == "starts" else array[:kept] for name, array in arrays.items()}
        CsrSizes(self.inputs, self.outputs, kept, self.width).check_arrays(used)

    def _check_indices(self, indices: np.ndarray, counts: np.ndarray) -> None:
        """Check the indices; `counts` says how many each part has."""
        part = np.repeat(np.arange(self.parts), counts)
        first = part // max(1, self.outputs) * self.width
        ends = np.minimum(self.width, self.inputs - first)
        _check_places("indices", indices.astype(np.int32), ends, part)


class BlockSizes(NamedTuple):
    """Sizes of a matrix whose kept blocks are stored.

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

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks the whole matrix has on each side."""
        return -(-self.inputs // self.wide), -(-self.outputs // self.high)

    @property
    def layout(self) -> Layout:
        """Shape and dtype of values, rows and starts."""
        return {
            "values": ((self.kept, self.wide, self.high), ""),
            "rows": ((self.kept,), "int32"),
            "starts": ((self.blocks[1] + 1,), "int32"),
        }

    def check(self) -> None:
        """Refuse sizes that no matrix has."""
        if min(self.wide, self.high) < 1:
            raise ValueError(f"a block of {self.wide} by {self.high}; its sides are at least 1")
        _check_sizes(self.inputs, self.outputs, self.kept, math.prod(self.blocks))

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix; raises as `CsrSizes.check_arrays`."""
        self.check()
        found, (down, across) = _laid_out(arrays, self.layout), self.blocks
        _check_starts(found["starts"], self.kept)
        part = np.repeat(np.arange(across), np.diff(found["starts"]))
        _check_places("rows", found["rows"], np.full(self.kept, down), part)


class CsrInt8Sizes(CsrSizes):
    """`CsrSizes` with values and indices of 8 bits, counts in place of starts, and a scale."""

    @property
    def layout(self) -> Layout:
        """Shape and dtype of values, indices, counts and scale."""
        return {
            "values": ((self.kept,), "int8"),
            "indices": ((self.kept,), "uint8"),
            "counts": ((self.parts,), "uint8"),
            "scale": ((self.outputs,), ""),
        }

    def check(self, most: int = MOST_INT8) -> None:
        """Refuse sizes that no matrix has."""
        super().check(most)

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix.

        Raises:
          ValueError: as for `CsrSizes`; counts do not add up to `kept`; a scale is infinite or NaN.
        """
        self.check()
        found = _laid_out(arrays, self.layout)
        _check_scale(found["scale"])
        if (total := int(found["counts"].sum(dtype=np.int64))) != self.kept:
            raise ValueError(f"counts add up to {total}, expected {self.kept}, those that are kept")
        self._check_indices(found["indices"], found["counts"])


class BlockInt8Sizes(BlockSizes):
    """`BlockSizes` with values of 8 bits, and a scale."""

    @property
    def layout(self) -> Layout:
        """Shape and dtype of values, rows, starts and scale."""
        values = (self.kept, self.wide, self.high), "int8"
        return super().layout | {"values": values, "scale": ((self.outputs,), "")}

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that are not such a matrix, also those with an infinite or NaN scale."""
        super().check_arrays(arrays)
        _check_scale(np.asarray(arrays["scale"]))


Sizes = CsrSizes | BlockSizes


def conv_sizes(features: int, outputs: int, kept: int, width: int, size: Sequence[int]) -> CsrSizes:
    """Sizes of the matrix of a convolution: each tap of each feature is an input, of groups too."""
    taps = math.prod(size)
    return CsrSizes(features * taps, outputs, kept, width * taps)


def _check_scale(scale: np.ndarray) -> None:
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


def _laid_out(arrays: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of a layout, checked for their shapes and dtypes."""
    for name, (shape, dtype) in layout.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        found = arrays[name]
        if tuple(found.shape) != shape or (dtype and str(found.dtype) != dtype):
            kind = f"{found.dtype}{list(found.shape)}"
            raise ValueError(f"{name} is {kind}, expected {dtype or found.dtype}{list(shape)}")
    return {name: np.asarray(arrays[name]) for name in layout}


def _check_starts(starts: np.ndarray, kept: int) -> None:
    if starts[0] != 0 or starts[-1] != kept or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"starts do not rise from 0 to {kept}, the number that is kept")


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
