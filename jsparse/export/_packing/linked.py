"""Packed layers of single weights, or links, which may move while they train."""

from typing import Any

from jsparse.export._packing.formats import CsrArrays
from jsparse.export._packing.packed import Packed, Structure


class Linked(Packed):
    """A packed layer that holds its links one by one; abstract, `Csr` and `CsrConv` are not."""

    array_kind = CsrArrays
    indices: Structure
    starts: Structure
    width: int
    """Inputs, or features, a group."""
    probe: Any = None
    """A `Probe` where a `jsparse.PackedOptimizer` grows links by gradient, or None."""

    @property
    def kept(self) -> int:
        """Links, including those whose value is 0, but not the room for dropped links."""
        return int(self.starts[...][..., -1].sum())

    @property
    def loose(self) -> bool:
        """Whether it holds more than its links: see `jsparse.export.trim`."""
        return self.probe is not None or (not self.stack and self.kept != self.values.size)
