"""Tables of numbers, and classes of samples, as arrays; anything else is refused."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsparse._values import shown


def as_numbers(value: ArrayLike) -> np.ndarray:
    """The value as an array of one of NumPy's own types; an array of objects if it is none."""
    try:
        array = np.asarray(value)
        kind = jnp.float64 if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype
        return array.astype(kind, copy=False)  # bfloat16 and float8 are not NumPy's
    except (TypeError, ValueError):
        return np.array(None, object)


def read_table(name: str, table: ArrayLike, column: bool = False) -> np.ndarray:
    """A table of finite numbers as float64 [rows, columns]; `column`: [rows] is one with one."""
    values = as_numbers(table)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, [samples, columns]; got {shown(table)}")
    values = values.astype(np.float64, copy=False)
    if column and values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"{name} must be [samples, columns] with at least one of each; got {shown(table)}"
            + (": flatten or average the other axes" if values.ndim > 2 else "")
        )
    if not np.isfinite([values.min(), values.max()]).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"{name} must be finite numbers; got {shown(table)} with {values[row, column]} in row "
            f"{row}, column {column}"
        )
    return values


def read_classes(name: str, labels: ArrayLike, samples: int, whole: bool = True) -> np.ndarray:
    """Classes from 0 on as integers [samples]; `whole`: two or more, each with a sample."""
    y = as_numbers(labels)
    if y.dtype.kind not in "biu" or y.ndim != 1:
        raise TypeError(
            f"{name} must be integers [samples], classes from 0 on; got {shown(labels)}"
        )
    check_length(name, y, samples)
    y = y.astype(np.int64)
    present = np.unique(y)
    remedy = f"renumber them by np.unique({name}, return_inverse=True)[1]"
    if present[0] < 0:
        raise ValueError(
            f"{name} must be classes from 0 on; got {shown(labels)} with {present[0]}: {remedy}"
        )
    if whole and len(present) < 2:
        raise ValueError(
            f"{name} must have two classes or more; got {shown(labels)} of class {present[0]} only"
        )
    if whole and present[-1] >= len(present):
        gap = int(np.argmax(present != np.arange(len(present))))
        raise ValueError(
            f"{name} must be classes 0 to {present[-1]}, each with a sample; got {shown(labels)} "
            f"without class {gap}: {remedy}"
        )
    return y


def read_targets(targets: ArrayLike, samples: int) -> np.ndarray:
    """Classes as int64 [samples], targets of a regression as float64 [samples, columns]."""
    y = as_numbers(targets)
    if y.dtype.kind in "biu" and y.ndim == 1:
        return read_classes("targets", targets, samples)
    if y.dtype.kind != "f" or y.ndim not in (1, 2):
        raise TypeError(
            "targets must be integers [samples], classes from 0 on, or floats [samples] or "
            f"[samples, columns] to be regressed on; got {shown(targets)}"
        )
    y = read_table("targets", targets, column=True)
    check_length("targets", y, samples)
    return y


def check_length(name: str, values: np.ndarray, samples: int) -> None:
    """Refuse targets of another length than the features."""
    if len(values) != samples:
        raise ValueError(
            f"{name} must be one for each of the {samples} samples [samples]; got {shown(values)}"
        )
