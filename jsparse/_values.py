"""Checks of plain values; each error names the argument, what it got and what is allowed.

A value of another kind is a TypeError, one that is not allowed a ValueError; `check_in` and
`check_whole` raise ValueError for both.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

Made = TypeVar("Made", bound=Callable)
SHOWN = 60
"""Characters of a value in an error."""
NO_BATCHES = "no batches; pass a list with at least one"


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, of Python or numpy, and not a bool."""
    kinds = int | float | np.integer | np.floating
    return isinstance(value, kinds) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is an int, of Python or numpy, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value for an error: short, arrays by dtype and shape, classes by name.

    Example:
      >>> shown(0.5), shown(np.ones((2, 3))), shown(dict)
      ('0.5', 'an array float64[2, 3]', 'the class dict')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and isinstance(getattr(value, "shape", None), tuple):
        return f"an array {value.dtype}{list(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    text = repr(value)
    if len(text) <= SHOWN and "\n" not in text:
        return text
    return f"a {type(value).__name__}: {text.splitlines()[0][:SHOWN]}..."


def known(**values: Any) -> dict[str, Any]:
    """The values that are not traced, JAX scalars as numbers, for settings that may be either."""
    plain = lambda value: value.item() if isinstance(value, jax.Array) and not value.ndim else value
    return {
        name: plain(value)
        for name, value in values.items()
        if not isinstance(value, jax.core.Tracer)
    }


def check_in(interval: str, **numbers: float) -> None:
    """Refuse anything but numbers in an interval, written as "(0, 1]" or "[0, inf)".

    Example:
      >>> check_in("(0, 1]", ramp=1.5)
      Traceback (most recent call last):
      ValueError: ramp must be a number in (0, 1]; got 1.5
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in numbers.items():
        if not (
            is_number(value)
            and (low < value if interval[0] == "(" else low <= value)
            and (value < high if interval[-1] == ")" else value <= high)
        ):
            raise ValueError(f"{name} must be {_allowed(interval, value)}; got {shown(value)}")


def _allowed(interval: str, value: Any) -> str:
    low, high = interval[1:-1].split(", ")
    if high != "inf":
        return f"a number in {interval}"
    if low == "-inf":
        return "a finite number"
    kind = "finite number" if is_number(value) and abs(value) == float("inf") else "number"
    return f"a {kind}, {low} or more" if interval[0] == "[" else f"a {kind} above {low}"


def check_whole(least: int = 1, **numbers: int) -> None:
    """Refuse anything but whole numbers of at least `least`."""
    for name, value in numbers.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more; got {shown(value)}")


def check_flag(**flags: bool) -> None:
    """Refuse anything but True and False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {shown(value)}")


def check_shape(name: str, shape: Any, *, least: int = 1) -> tuple[int, ...]:
    """The shape as a tuple, if it is a tuple or list of whole numbers of at least `least`."""
    if not isinstance(shape, tuple | list) or not all(map(is_whole, shape)):
        raise TypeError(f"{name} must be a tuple of whole numbers; got {shown(shape)}")
    if any(n < least for n in shape):
        raise ValueError(f"{name} must be a tuple of sizes, {least} or more; got {shown(shape)}")
    return tuple(map(int, shape))


def check_function(**functions: Any) -> None:
    """Refuse anything but functions; a class does not count as one."""
    for name, value in functions.items():
        if isinstance(value, type) or not callable(value):
            raise TypeError(f"{name} must be a function; got {shown(value)}")


def check_is(kinds: Any, what: str, **values: Any) -> None:
    """Refuse anything but instances of some kinds, described as "a Role" for example."""
    for name, value in values.items():
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be {what}; got {shown(value)}")


def check_transform(**transforms: Any) -> None:
    """Refuse anything but optax transforms, which have `init` and `update`."""
    for name, value in transforms.items():
        if isinstance(value, type) or not (hasattr(value, "init") and hasattr(value, "update")):
            raise TypeError(
                f"{name} must be an optax transform, such as optax.adam(1e-3); got {shown(value)}"
            )


def check_mapping(what: str, **values: Any) -> None:
    """Refuse anything but mappings whose keys are strings."""
    check_is(Mapping, what, **values)
    for name, value in values.items():
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{name} must be {what}; got the key {shown(wrong[0])}")


def check_path(**paths: Any) -> None:
    """Refuse anything but paths."""
    check_is(str | os.PathLike, "a path: a str or a pathlib.Path", **paths)
    for name, path in paths.items():
        if not os.fspath(path) or "\0" in os.fspath(path):
            raise ValueError(f"{name} must be a path: a str or a pathlib.Path; got {path!r}")


def check_folder(**folders: Any) -> None:
    """Refuse a path that cannot become a folder, as it, or one above it, is a file."""
    check_path(**folders)
    for name, given in folders.items():
        path = Path(given).absolute()
        if files := [one for one in (path, *path.parents) if one.exists() and not one.is_dir()]:
            raise NotADirectoryError(
                f"{name} must be a folder, or a path where one can be made; got {given}, and "
                f"{files[0]} is a file"
            )


def check_pattern(**patterns: Any) -> None:
    """Refuse anything but regular expressions."""
    for name, pattern in patterns.items():
        if not isinstance(pattern, str):
            raise TypeError(f"{name} must be a str, a regular expression; got {shown(pattern)}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{name} is {pattern!r}, not a regular expression: {error}") from error


def patterns_of(**patterns: Any) -> tuple[str, ...]:
    """One regular expression or several, as several; anything else is refused."""
    ((name, given),) = patterns.items()
    found = (given,) if isinstance(given, str) else given
    if not isinstance(found, list | tuple | set | frozenset) or not found:
        raise TypeError(f"{name} must be a str or several, regular expressions; got {shown(given)}")
    for one in found:
        check_pattern(**{name: one})
    return tuple(found)


def check_key(**keys: Any) -> None:
    """Refuse anything but single random keys, of the new style or the old one."""
    for name, key in keys.items():
        dtype = key.dtype if isinstance(key, jax.Array | np.ndarray) else bool
        typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        old = dtype == jnp.uint32 and jnp.ndim(key) == 1
        if not (typed and key.shape == ()) and not old:
            raise TypeError(
                f"{name} must be one random key, such as jax.random.key(0); got {shown(key)}"
            )


def check_batches(batches: Any) -> None:
    """Refuse anything but several batches; an array would be read as one batch per row."""
    single = isinstance(batches, str | bytes | Mapping) or hasattr(batches, "shape")
    if single or not isinstance(batches, Iterable):
        raise TypeError(f"batches must be a list of batches, such as [x]; got {shown(batches)}")
    if isinstance(batches, Sized) and not len(batches):
        raise ValueError(NO_BATCHES)


def each_batch(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches; an iterator without any is refused at its end, as an empty list is."""
    check_batches(batches)
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError(NO_BATCHES)


def check_floating(**dtypes: Any) -> None:
    """Refuse anything but floating-point dtypes."""
    for name, dtype in dtypes.items():
        try:
            fits = dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        except TypeError:
            fits = False
        if not fits:
            raise TypeError(
                f"{name} must be a floating-point dtype, such as jnp.float32; got {shown(dtype)}"
            )


def by_density(made: Made) -> Made:
    """Decorate a class or function so that passing a sparsity instead of a density is explained.

    Example:
      >>> f = by_density(lambda *, density: density)
      >>> f(sparsity=0.9)
      Traceback (most recent call last):
      TypeError: <lambda> takes the fraction kept, not the sparsity: pass density=0.1
    """
    call = made.__init__ if isinstance(made, type) else made

    @wraps(call)
    def told(*args: Any, **named: Any) -> Any:
        if "sparsity" in named:
            given = named["sparsity"]
            kept = f"{1 - given:.12g}" if is_number(given) else "1 - sparsity"
            raise TypeError(
                f"{made.__name__} takes the fraction kept, not the sparsity: pass density={kept}"
            )
        return call(*args, **named)

    if not isinstance(made, type):
        return told  # type: ignore[return-value]
    made.__init__ = told  # type: ignore[misc]
    return made  # type: ignore[return-value]
