"""Which of many alike cases run by default."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(every: int, cases: Iterable) -> list[Any]:
    """The cases, of which one in `every` runs by default; the others are slow.

    Args:
      every: 2 for every other case, beginning with the first.
      cases: names, or tuples of several arguments.
    """
    slow = [[], [pytest.mark.slow]]
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=slow[n % every > 0])
        for n, case in enumerate(cases)
    ]
