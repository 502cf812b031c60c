"""How similar two masks are, and how far training moved the weights that a mask keeps.

Both compare networks with the same initialization: a mask is meaningless for a different one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jsparse._slots import check_module, slots, sparse_parts
from jsparse._sparse import Sparse
from jsparse._untraced import outside_jit
from jsparse._values import check_mapping, shown
from jsparse.report._table import cells, table

Masks = Mapping[str, ArrayLike]


@dataclasses.dataclass(frozen=True)
class Shared:
    """Two masks of one weight, or of all weights.

    Attributes:
      first: number of weights that the first mask keeps.
      second: number of weights that the second mask keeps.
      both: number of weights that both keep.
      size: number of weights.
    """

    first: int
    second: int
    both: int
    size: int

    @property
    def either(self) -> int:
        """Number of weights that at least one of the masks keeps."""
        return self.first + self.second - self.both

    @property
    def distance(self) -> float:
        """Jaccard distance, 1 - both / either: 0 for equal or empty masks, 1 for disjoint masks."""
        return 1 - self.both / self.either if self.either else 0.0

    @property
    def chance(self) -> float:
        """The expected distance of random masks with the same numbers of weights."""
        both = self.first * self.second / self.size if self.size else 0.0
        either = self.first + self.second - both
        return 1 - both / either if either else 0.0

    @property
    def fraction(self) -> float:
        """Overlap: the fraction of the smaller mask that the larger one also keeps; 1 if empty."""
        smaller = min(self.first, self.second)
        return self.both / smaller if smaller else 1.0


@dataclasses.dataclass(frozen=True)
class Overlap:
    """A comparison of two sets of masks; print it, or read its fields.

    Attributes:
      rows: a Shared for each sparse weight, by its path.
    """

    rows: dict[str, Shared]

    @property
    def total(self) -> Shared:
        """All weights together."""
        parts = [dataclasses.astuple(row) for row in self.rows.values()]
        return Shared(*(sum(column) for column in zip(*parts, strict=True)))

    @property
    def distance(self) -> float:
        """Jaccard distance over all weights."""
        return self.total.distance

    def to_dict(self) -> dict:
        """The comparison as plain numbers, ready for JSON."""
        plain = lambda r: dataclasses.asdict(r) | {"distance": r.distance, "chance": r.chance}
        layers = {path: plain(row) for path, row in self.rows.items()}
        return {"layers": layers, "total": plain(self.total)}

    def __str__(self) -> str:
        head = ("layer", "first", "second", "both", "overlap", "distance", "by chance")
        numbers = lambda r: (r.first, r.second, r.both, r.fraction, r.distance, r.chance)
        lines = [
            cells("s , , , .2% .3f .3f", path, *numbers(row))
            for path, row in [*self.rows.items(), ("total", self.total)]
        ]
        return table(head, lines[:-1], lines[-1], 1)


def overlap(first: Masks, second: Masks) -> Overlap:
    """Compare the masks of two networks, layer by layer and in total.

        distance = 1 - |first and second| / |first or second|

    Args:
      first: masks by path, such as `jsparse.masks(model)`; 1 kept, 0 dropped.
      second: masks of the same weights.

    Returns:
      An Overlap, which prints as a table. The total is the distance of all masks concatenated, so
      layers are weighted by the number of weights that they keep.

    Raises:
      ValueError: the paths or shapes differ, or there are no masks.

    Example:
      >>> import jax.numpy as jnp
      >>> found = overlap({"a": jnp.array([1.0, 1.0, 0.0])}, {"a": jnp.array([0.0, 1.0, 1.0])})
      >>> round(found.distance, 3), found.rows["a"].both
      (0.667, 1)

    Reference: Paganini and Forde, Bespoke vs. Prêt-à-Porter Lottery Tickets, 2020 (the Jaccard
    distance of masks); the expected distance is ours.
    """
    check_mapping("masks by path, such as jsparse.masks(model)", first=first, second=second)
    if not first or first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"{odd[0]} has a mask on one side only; compare masks of the same weights, such as "
            "jsparse.masks(model) of two models built the same way"
            if odd
            else "there are no masks; pass jsparse.masks(model) of a model with sparse weights"
        )
    rows = {}
    for path in first:
        one, two = read_mask(path, first[path]), read_mask(path, second[path])
        if one.shape != two.shape:
            raise ValueError(f"{path}: the masks have shapes {one.shape} and {two.shape}")
        first_count, second_count, both = (int(m.sum()) for m in (one, two, one & two))
        rows[path] = Shared(first_count, second_count, both, one.size)
    return Overlap(rows)


def read_mask(path: str, mask: ArrayLike) -> np.ndarray:
    """A mask as bool, if it contains only 0 and 1."""
    values = np.asarray(mask)
    kept = values == 1
    if np.iscomplexobj(values) or not np.all(kept | (values == 0)):
        raise ValueError(
            f"{path}: a mask may contain only 0 and 1, got {shown(mask)}; for gates in between, "
            "compare jsparse.hold(model)"
        )
    return kept


@dataclasses.dataclass(frozen=True)
class Change:
    """How far the weights that a mask keeps moved.

    Attributes:
      kept: number of weights that the mask keeps.
      moved: |after - before| / |before|, Euclidean; infinite if the weights started at zero.
      cosine: cosine of the angle between before and after; 0 if one of them is all zeros.
      same_sign: fraction of weights that kept their sign.
    """

    kept: int
    moved: float
    cosine: float
    same_sign: float


@dataclasses.dataclass(frozen=True)
class Stability:
    """Changes of weights during training; print it, or read its fields.

    Attributes:
      rows: a Change for each sparse weight, by its path.
      total: the Change of all weights together.
    """

    rows: dict[str, Change]
    total: Change

    def to_dict(self) -> dict:
        """The changes as plain numbers, ready for JSON."""
        layers = {path: dataclasses.asdict(row) for path, row in self.rows.items()}
        return {"layers": layers, "total": dataclasses.asdict(self.total)}

    def __str__(self) -> str:
        head = ("layer", "kept", "moved", "cosine", "same sign")
        lines = [
            cells("s , .3f .3f .2%", path, c.kept, c.moved, c.cosine, c.same_sign)
            for path, c in [*self.rows.items(), ("total", self.total)]
        ]
        return table(head, lines[:-1], lines[-1], 1)


@outside_jit
def stability(before: nnx.Module, after: nnx.Module) -> Stability:
    """How far training moved the weights that are kept in the end.

    Args:
      before: the model at initialization, dense or sparse.
      after: the same model after training, with sparse weights; its masks select the weights.

    Returns:
      A Stability, which prints as a table.

    Raises:
      ValueError: `after` has no sparse weights, or `before` lacks one of them.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> start = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> end = sparsify(start, ("kernel", Top(density=0.5)))
      >>> end.kernel.weight[...] = 2 * end.kernel.weight[...]
      >>> found = stability(start, end).total
      >>> round(found.moved, 3), round(found.cosine, 3), found.same_sign
      (1.0, 1.0, 1.0)

    Reference: Paganini and Forde, On Iterative Neural Network Pruning, 2020, raise the question;
    the three numbers are ours.
    """
    check_module(before, "before")
    check_module(after, "after")
    parts = sparse_parts(after)
    there = {slot.path: slot.value for slot in slots(before)}
    absent = [path for path in parts if path not in there]
    if not parts or absent:
        raise ValueError(
            f"{absent[0]} is sparse after training, but does not exist before; pass the model that "
            "training started from"
            if absent
            else "no weight is sparse after training; stability compares weights that a mask keeps"
        )
    pairs = {}
    for path, part in parts.items():
        kept = np.asarray(part.read_final_mask()) > 0
        old, new = _weight(there[path]), _weight(part)
        if old.shape != new.shape:
            raise ValueError(f"{path} has shape {old.shape} before and {new.shape} after")
        pairs[path] = (old[kept], new[kept])
    rows = {path: _change(*pair) for path, pair in pairs.items()}
    return Stability(
        rows, _change(*(np.concatenate(side) for side in zip(*pairs.values(), strict=True)))
    )


def _weight(place: Any) -> np.ndarray:
    """The weight as float64; without its mask, unless the rule reparameterizes it."""
    if isinstance(place, Sparse):
        weight = place.read_final() if place.reparameterized else place.weight[...]
    else:
        weight = place[...]
    return np.asarray(weight).astype(np.float64)


def _change(old: np.ndarray, new: np.ndarray) -> Change:
    norm = lambda x: float(np.linalg.norm(x))
    length = norm(old) * norm(new)
    return Change(
        kept=old.size,
        moved=norm(new - old) / norm(old) if norm(old) else math.inf if norm(new) else 0.0,
        cosine=float(old @ new) / length if length else 0.0,
        same_sign=float((np.sign(old) == np.sign(new)).mean()) if old.size else 1.0,
    )
