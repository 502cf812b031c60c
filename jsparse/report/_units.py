"""Numbers and settings as short text."""

from collections.abc import Sequence
from typing import Any


def percent(fraction: float) -> str:
    """A fraction in percent, with as many digits as small ones need."""
    return f"{fraction:.2%}" if fraction >= 0.001 or fraction == 0 else f"{100 * fraction:.2g}%"


def bytes_of(count: float) -> str:
    """Bytes, in units that leave few digits."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_of(number: float) -> str:
    """A large number, in units that leave few digits."""
    return _scaled(number, ("", "k", "M", "G", "T", "P")).strip()


def seconds_of(seconds: float) -> str:
    """A time, in units that leave few digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def times(shape: Sequence[int]) -> str:
    """A shape, such as 3×3×16."""
    return "×".join(map(str, shape))


def written(value: Any) -> str:
    """A setting as text: numbers with few digits, lists separated by commas."""
    if isinstance(value, list):
        return ", ".join(map(written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.4g} {units[-1]}"
