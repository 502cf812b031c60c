"""Settings in a form that JSON can hold, so that two runs can be compared."""

import functools
from collections.abc import Mapping
from collections.abc import Set as AnySet
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse._storage.leaves import describe
from jsparse._storage.tree_file import snapshot


def described(value: Any) -> Any:
    """A setting as JSON: functions by name, objects by their fields, arrays by checksum.

    An object with neither fields nor its own `repr` is described by its class alone.

    Example:
      >>> described({"rate": 0.1, "sizes": (2, 3), "make": described})
      {'rate': 0.1, 'sizes': [2, 3], 'make': 'jsparse.described.described'}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, nnx.Module):
        return f"{type(value).__qualname__} {snapshot(nnx.state(value)).sha256[:16]}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUSM":  # of text, dates, objects
        return described(value.tolist())
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"{describe(value)} {snapshot(value).sha256[:16]}"
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if isinstance(value, AnySet):
        return sorted((described(one) for one in value), key=str)
    if isinstance(value, functools.partial):
        return {"partial": described([value.func, value.args, value.keywords])}
    if callable(getattr(value, "__wrapped__", None)):  # jitted
        return described(value.__wrapped__)
    if is_dataclass(value) and not isinstance(value, type):
        inside = {one.name: described(getattr(value, one.name)) for one in fields(value)}
        return {"kind": type(value).__qualname__, **inside}
    if not hasattr(value, "__qualname__"):  # neither a function nor a class
        text = repr(value)  # of a path, a dtype, bytes; not with an address, which changes
        return text if " at 0x" not in text else described(type(value))
    public = [part for part in (value.__module__ or "").split(".") if part and part[0] != "_"]
    return ".".join([*public, value.__qualname__])
