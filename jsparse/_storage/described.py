"""Settings as JSON, to compare those of a run with those that a folder was written under."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from jsparse._paths import named
from jsparse._storage.leaves import describe, plain


def described(value: Any) -> Any:
    """A setting as JSON can hold it: functions by name, values by their fields, arrays by sum."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, nnx.Module):
        total = hashlib.sha256()
        for name, leaf in sorted(named(nnx.state(value)).items()):
            total.update(f"{name}{describe(leaf)}".encode())
            total.update(np.asarray(plain(name, leaf)).tobytes())
        return f"{type(value).__qualname__} {total.hexdigest()[:16]}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return (
            f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        )
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if isinstance(value, functools.partial):
        return {"partial": described([value.func, value.args, value.keywords])}
    if callable(getattr(value, "__wrapped__", None)):  # jitted
        return described(value.__wrapped__)
    if is_dataclass(value) and not isinstance(value, type):
        inside = {one.name: described(getattr(value, one.name)) for one in fields(value)}
        return {"kind": type(value).__qualname__, **inside}
    kind = value if hasattr(value, "__qualname__") else type(value)
    public = [part for part in kind.__module__.split(".") if part[0] != "_"]
    return ".".join([*public, kind.__qualname__])
