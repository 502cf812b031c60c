"""The table that every experiment with agents ends with: what sparsity does to its main result."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments import common

FEW = 3
"""Fewer seeds settle nothing."""


class Arm(NamedTuple):
    """The result of one way of making networks sparse.

    Attributes:
      kept: fraction of all weights that are read, or one for each seed.
      values: the headline metric of each seed; none where a run could not be made.
    """

    kept: float | Sequence[float]
    values: Sequence[float]


def by_sparsity(metric: str, arms: Mapping[str, Arm], digits: int = 2) -> str:
    """The headline metric by sparsity, with its spread over seeds (divisor n - 1).

    >>> print(by_sparsity("return", {"dense": Arm(1.0, [2.0, 1.0]), "SET": Arm(0.1, [1.5])}))
    return by sparsity:
    <BLANKLINE>
           sparsity  mean  spread  seeds
    -----  --------  ----  ------  -----
    dense     0.0 %  1.50    0.71      2
    SET      90.0 %  1.50              1
    """
    rows = []
    for name, (kept, values) in arms.items():
        numbers = np.asarray(values, float)
        mean = f"{numbers.mean():.{digits}f}" if numbers.size else "no run"
        spread = f"{numbers.std(ddof=1):.{digits}f}" if numbers.size > 1 else ""
        sparsity = f"{100 * (1 - float(np.mean(kept))):.1f} %"
        rows.append([name, sparsity, mean, spread, numbers.size])
    head = ["", "sparsity", "mean", "spread", "seeds"]
    return f"{metric} by sparsity:\n\n{common.table(head, rows)}"


def verdict(claim: str, held: Sequence[bool], numbers: str, least: float = 1.0) -> str:
    """A line about a claim: met, refuted or not settled; for one or two seeds it says neither.

    Args:
      claim: in words.
      held: whether it held, seed by seed.
      numbers: printed after it.
      least: the fraction of seeds that have to agree.

    >>> verdict("a rise", [True, True, False], "+1, +2, -1")
    'not settled (2 of 3 seeds): a rise; +1, +2, -1'
    >>> verdict("a rise", [True], "+1")
    'too few seeds to say (1 of 1 seed): a rise; +1'
    """
    came, count = int(sum(held)), len(held)
    if count < FEW:
        word = "too few seeds to say"
    elif came >= least * count:
        word = "met"
    elif count - came >= least * count:
        word = "refuted"
    else:
        word = "not settled"
    return f"{word} ({came} of {common.counted(count, 'seed')}): {claim}; {numbers}"
