"""A list of modules for every version of Flax."""

from collections.abc import Iterable
from typing import Any

from flax import nnx


def modules(items: Iterable[Any]) -> Any:
    """Modules in an `nnx.List`, or in a plain list before Flax 0.12, which has no other."""
    return nnx.List(items) if hasattr(nnx, "List") else list(items)
