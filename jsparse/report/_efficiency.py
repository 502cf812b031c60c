"""What a sparse model costs, in multiplications and bytes, and what accuracy that buys."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jsparse._checks import check_density
from jsparse._flops import count_call
from jsparse._paths import listed
from jsparse._untraced import explain_abstract_model
from jsparse._values import check_in, check_mapping, is_number, shown
from jsparse.report._table import table


@dataclasses.dataclass(frozen=True)
class Cost:
    """One sparse weight.

    Attributes:
      size: number of weights.
      kept: number of weights kept.
      dense_flops: floating-point operations with all weights, two per multiplication.
      flops: operations with the weights kept.
      itemsize: bytes of one weight.
    """

    size: int
    kept: int
    dense_flops: float
    flops: float
    itemsize: int

    @property
    def dense_bytes(self) -> int:
        """Bytes of all weights."""
        return self.size * self.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the kept weights plus a bit per weight, or of all weights if that is less."""
        return min(self.dense_bytes, self.kept * self.itemsize + -(-self.size // 8))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one call of a model costs; print it, or read its fields.

    Attributes:
      rows: a Cost for each sparse weight, by its path.
      other_flops: operations of products with weights that have no rule, or with no weight at all,
        such as attention's query times key.
      other_bytes: of the parameters without a rule.
    """

    rows: dict[str, Cost]
    other_flops: float
    other_bytes: int

    @property
    def flops(self) -> float:
        """Operations of one call, masked weights left out."""
        return self.other_flops + sum(row.flops for row in self.rows.values())

    @property
    def dense_flops(self) -> float:
        """Operations of one call of the dense model."""
        return self.other_flops + sum(row.dense_flops for row in self.rows.values())

    @property
    def bytes(self) -> int:
        """Bytes of the parameters, masked ones as a bitmap."""
        return self.other_bytes + sum(row.bytes for row in self.rows.values())

    @property
    def dense_bytes(self) -> int:
        """Bytes of the parameters of the dense model."""
        return self.other_bytes + sum(row.dense_bytes for row in self.rows.values())

    def at(self, densities: Mapping[str, float]) -> "Costs":
        """The costs at other densities, with each place of a weight equally likely to be kept.

        Args:
          densities: by path, for instance of `jsparse.schedule.erdos_renyi_kernel`; rows left out
            stay.

        Raises:
          ValueError: a path that names no row, or a density outside (0, 1].
        """
        rows = dict(self.rows)
        check_mapping("densities by path", densities=densities)
        for path, density in densities.items():
            if path not in rows:
                raise ValueError(f"{path!r} is not a sparse weight; available: {listed(rows)}")
            check_density(density)
            row = rows[path]
            kept = max(1, round(density * row.size))
            flops = row.dense_flops * kept / row.size if row.size else 0.0
            rows[path] = dataclasses.replace(row, kept=kept, flops=flops)
        return dataclasses.replace(self, rows=rows)

    def to_dict(self) -> dict:
        """The same as plain numbers, ready for JSON."""
        names = ("flops", "dense_flops", "bytes", "dense_bytes")
        plain = lambda one: {name: getattr(one, name) for name in names}
        layers = {
            path: {"size": row.size, "kept": row.kept} | plain(row)
            for path, row in self.rows.items()
        }
        return {"layers": layers, "total": plain(self)}

    def __str__(self) -> str:
        head = ("layer", "density", "FLOPs", "dense", "", "bytes", "dense")
        lines = [
            (path, f"{row.kept / row.size:.2%}" if row.size else "", *_cells(row))
            for path, row in self.rows.items()
        ]
        rest = Cost(0, 0, self.other_flops, self.other_flops, 1)
        others = ("others", "", *_cells(rest)[:3], *[f"{self.other_bytes:,}"] * 2)
        return table(head, [*lines, others], ("total", "", *_cells(self)), 1)


def _cells(one: Cost | Costs) -> tuple[str, ...]:
    share = one.flops / one.dense_flops if one.dense_flops else 1.0
    numbers = (one.flops, one.dense_flops, one.bytes, one.dense_bytes)
    flops, dense_flops, size, dense_size = (f"{n:,.0f}" for n in numbers)
    return flops, dense_flops, f"{share:.2%}", size, dense_size


@explain_abstract_model
def costs(model: nnx.Module, *inputs: Any, **options: Any) -> Costs:
    """What one call `model(*inputs)` costs, in eval mode: counted in the traced computation.

    Matrix products and convolutions are counted, with two operations for each multiplication, as
    compilers count them: zeros from padding and dilation are left out. Sums, norms, softmax and
    other elementwise work do not shrink with sparsity and are not counted. A weight is followed
    through operations that keep its zeros in place; if a weight is split, all parts count as
    equally dense.

    Args:
      model: any NNX module; not changed.
      *inputs: arrays, `jax.ShapeDtypeStruct`, or shapes of float32, such as (1, 28, 28); with a
        batch, the cost is that of the batch.
      **options: further arguments of the call, such as `decode=False`, or inputs by name.

    Returns:
      A Costs, which prints as a table.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> model = sparsify(nnx.Linear(64, 32, rngs=nnx.Rngs(0)), ("kernel", Top(density=0.25)))
      >>> print(costs(model, jnp.ones((1, 64))))
      layer   density  FLOPs  dense           bytes  dense
      ----------------------------------------------------
      kernel   25.00%  1,024  4,096   25.00%  2,304  8,192
      others               0      0  100.00%    128    128
      ----------------------------------------------------
      total            1,024  4,096   25.00%  2,432  8,320
    """
    tally, sparse, dense = count_call(model, inputs, options)
    rows = {}
    for path, part in sparse.items():
        mask, uses = np.asarray(part.read_final_mask()) > 0, tally.uses[path]
        flops = 2 * float((mask * uses).sum())
        size = part.weight[...].dtype.itemsize
        rows[path] = Cost(mask.size, int(mask.sum()), 2 * tally.of(path), flops, size)
    other = 2 * (tally.others + sum(map(tally.of, dense)))
    return Costs(rows, other, sum(weight.nbytes for weight in dense.values()))


def accuracy_density(accuracy: float, parameters: int) -> float:
    """Accuracy in percent for each million parameters.

        100 accuracy / (parameters / 10^6)

    It favors small networks even when they are inaccurate: compare networks of about the same
    accuracy with it.

    Args:
      accuracy: fraction right, in [0, 1].
      parameters: number that is not zero, such as `jsparse.summary(model).kept` plus `.dense`.

    Raises:
      ValueError: accuracy is not a fraction, or there are no parameters.

    Example:
      >>> accuracy_density(0.95, 500_000)
      190.0

    Reference: Bianco et al., Benchmark analysis of representative deep neural network
    architectures, 2018.
    """
    _check(accuracy, parameters)
    return 1e8 * accuracy / parameters


def hardness_density(accuracy: float, parameters: int, chance: float) -> float:
    """Halvings of the error for each million parameters: accuracy normalized by its hardness.

        log2((1 - chance) / (1 - accuracy)) / (parameters / 10^6)

    From 90 to 95 % counts as much as from 98 to 99 %, where a point is harder to gain; 0 for
    guessing, infinite without an error.

    Args:
      accuracy: fraction right, in [0, 1].
      parameters: number that is not zero.
      chance: accuracy of guessing, in [0, 1), such as 0.1 for ten equally frequent classes.

    Raises:
      ValueError: one of them is out of range.

    Example:
      >>> hardness_density(0.95, 1_000_000, 0.9)
      1.0

    Reference: Hoefler et al., Sparsity in deep learning, 2021, propose to normalize accuracy per
    parameter by hardness; their formula was not available, this one is ours.
    """
    _check(accuracy, parameters)
    check_in("[0, 1)", chance=chance)
    if accuracy == 1:
        return math.inf
    return 1e6 * math.log2((1 - chance) / (1 - accuracy)) / parameters


def _check(accuracy: float, parameters: int) -> None:
    if not is_number(accuracy) or not 0 <= accuracy <= 1:
        raise ValueError(
            f"accuracy is a fraction in [0, 1], got {shown(accuracy)}; divide percent by 100"
        )
    check_in("[1, inf)", parameters=parameters)
