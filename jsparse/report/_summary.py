"""Density of a sparse model, layer by layer: a table that is also a dictionary."""

import dataclasses
import math
from html import escape

import numpy as np
from flax import nnx

from jsparse._slots import Packed, ruled_parts, slots
from jsparse._sparse import Sparse
from jsparse._untraced import outside_jit
from jsparse.report._table import cells, table
from jsparse.report._units import percent, times
from jsparse.rules._coupled import rule_name


@dataclasses.dataclass(frozen=True)
class Row:
    """One sparse weight.

    Attributes:
      shape: shape of the weight; of the dense kernel, if it is packed.
      rule: class name of the rule; the format of a packed layer.
      kept: number of weights kept.
      size: number of weights.
    """

    shape: tuple[int, ...]
    rule: str
    kept: int
    size: int

    @property
    def density(self) -> float:
        """Fraction kept; 1 for an empty weight."""
        return self.kept / self.size if self.size else 1.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A table of the sparse weights of a model; print it, or read its fields.

    Attributes:
      rows: a Row for each sparse weight, by its path.
      dense: number of parameters without a rule (biases, norms, unmatched weights).
      learned: number of parameters that the rules add for training; folding removes them.
    """

    rows: dict[str, Row]
    dense: int
    learned: int

    @property
    def kept(self) -> int:
        """Number of weights kept, over all rows."""
        return sum(row.kept for row in self.rows.values())

    @property
    def size(self) -> int:
        """Number of weights under a rule, over all rows."""
        return sum(row.size for row in self.rows.values())

    @property
    def density(self) -> float:
        """Fraction kept of the weights under a rule; 1 if there are none."""
        return self.kept / self.size if self.size else 1.0

    def to_dict(self) -> dict:
        """The summary as plain numbers, ready for JSON."""
        rows = {p: dataclasses.asdict(r) | {"density": r.density} for p, r in self.rows.items()}
        total = {"kept": self.kept, "size": self.size, "density": self.density}
        return {"layers": rows, "total": total, "dense": self.dense, "learned": self.learned}

    def __str__(self) -> str:
        head = ("layer", "shape", "rule", "density", "kept", "of")
        numbers = lambda r: cells(".2% , ,", r.density, r.kept, r.size)
        body = [
            (path, "x".join(map(str, r.shape)), r.rule, *numbers(r))
            for path, r in self.rows.items()
        ]
        total = ("total", "", "", *numbers(self))
        foot = f"and {self.dense:,} parameters without a rule"
        return f"{table(head, body, total, 3)}\n{foot}"

    def _repr_html_(self) -> str:
        """The table for a notebook, with a bar for each density."""
        head = ("layer", "shape", "rule", "density", "kept", "of")
        lines = ["".join(f'<th style="text-align:left">{name}</th>' for name in head)]
        for path, row in [*self.rows.items(), ("total", Row((), "", self.kept, self.size))]:
            bar = (
                '<span style="display:block;width:80px;height:5px;background:rgba(128,128,128,.3)">'
                f'<span style="display:block;height:5px;background:#2b7cd0;width:'
                f'{100 * row.density:.2f}%"></span></span>'
            )
            texts = (escape(path), times(row.shape), row.rule, percent(row.density) + bar)
            cells = (*texts, f"{row.kept:,}", f"{row.size:,}")
            edge = ";border-top:1px solid;font-weight:bold" if path == "total" else ""
            lines.append("".join(f'<td style="text-align:left{edge}">{c}</td>' for c in cells))
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{body}</table><p>and {self.dense:,} parameters without a rule</p>"


@outside_jit
def summary(model: nnx.Module) -> Summary:
    """Count the weights that each sparse weight of a model keeps when folded; shared ones once.

    The values of a packed layer count as such a weight: what is stored of its dense kernel.

    Args:
      model: any NNX module, outside `jax.jit`.

    Returns:
      A Summary, which prints as a table.

    Example:
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> print(summary(sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.5)))))
      layer   shape  rule  density  kept  of
      --------------------------------------
      kernel  4x3    Top    50.00%     6  12
      --------------------------------------
      total                 50.00%     6  12
      and 3 parameters without a rule
    """
    rows: dict[str, Row] = {}
    dense = 0
    seen: set[int] = set()
    for slot in slots(model):
        if id(slot.value) in seen:
            continue
        seen.add(id(slot.value))
        if isinstance(slot.value, Sparse):
            part = slot.value
            shape = tuple(part.weight[...].shape)
            kept = int(np.count_nonzero(np.asarray(part.read_final_mask())))
            rows[slot.path] = Row(shape, rule_name(part.rule), kept, math.prod(shape))
        elif slot.key == "values" and isinstance(slot.parent, Packed):
            layer = slot.parent
            size = math.prod(layer.kernel_shape)
            rows[slot.path] = Row(layer.kernel_shape, layer.format, layer.kept, size)
        elif isinstance(slot.value, nnx.Param) and hasattr(slot.value, "size"):
            dense += slot.value.size
    parts = ruled_parts(model).values()
    learned = sum(part.state[name].size for part in parts for name in part.rule.learned)
    return Summary(rows, dense, learned)
