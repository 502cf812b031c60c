"""What `pick` returns: a model with its measurements."""

import dataclasses
from collections.abc import Mapping
from typing import Generic, TypeVar

from flax import nnx

from jsparse.report._table import table

Model = TypeVar("Model", bound=nnx.Module)
GAIN = 1.1
"""How many times as fast as dense a format must be to replace it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How a layer is stored, and why.

    Attributes:
      path: of the layer.
      shape: of its kernel, such as [in, out], after shrinking.
      density: of its kernel.
      rows: of its input.
      seconds: of a call, by format; empty if nothing was measured.
      bytes: of its variables, by format.
      chosen: the format, in the model that was chosen.
      why: in words.
    """

    path: str
    shape: tuple[int, ...]
    density: float
    rows: int
    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    chosen: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picked(Generic[Model]):
    """A model with each layer in its fastest format; prints as a table.

    Attributes:
      model: plain, without rules.
      layers: the choice for each.
      seconds: of a call of the whole model, by "dense", "shrunk" and "packed".
      bytes: of the variables of each.
      chosen: which of those the model is.
    """

    model: Model
    layers: tuple[Choice, ...]
    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    chosen: str

    def __str__(self) -> str:
        head = ("layer", "kernel", "density", "rows", "ms", "KiB", "stored as", "why")
        rows = []
        for layer in self.layers:
            each = ", ".join(f"{name} {1e3 * s:.3f}" for name, s in layer.seconds.items())
            shape = "x".join(map(str, layer.shape))
            row = [layer.path or "(model)", shape, f"{layer.density:.1%}", str(layer.rows)]
            sizes = ", ".join(f"{name} {n / 1024:.1f}" for name, n in layer.bytes.items())
            rows.append([*row, each or "-", sizes, layer.chosen, layer.why])
        whole = ", ".join(
            f"{name} {1e3 * s:.3f} ms and {self.bytes[name] / 1024:.1f} KiB"
            for name, s in self.seconds.items()
        )
        asked = f"what replaces dense must be {GAIN}x as fast; for the smallest use pack"
        return f"{table(head, rows)}\nwhole model: {whole}; chosen: {self.chosen} ({asked})"
