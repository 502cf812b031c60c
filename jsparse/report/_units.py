"""Numbers as text, in few digits."""


def percent(fraction: float) -> str:
    """A fraction in percent, with as many digits as small ones need."""
    return f"{fraction:.2%}" if fraction >= 0.001 or fraction == 0 else f"{100 * fraction:.2g}%"


def bytes_of(count: float) -> str:
    """Bytes, such as 1.72 MB."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_of(number: float) -> str:
    """A large number, such as 36.7 M."""
    return _scaled(number, ("", "k", "M", "G", "T", "P")).strip()


def seconds_of(seconds: float) -> str:
    """A time, such as 2.1 ms."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _scaled(number: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.4g} {units[-1]}"
