"""The given data: valid features and targets, and which rows are held out."""

from typing import Any

import numpy as np

from jsparse._paths import listed
from jsparse._values import is_whole, shown

FEATURES = "features must be an array of numbers [rows, features]"
TARGETS = "targets must be whole numbers [rows], or floats [rows] or [rows, outputs]"


def check_features(features: Any) -> None:
    """Refuse anything but two axes of real numbers."""
    lacking = [n for n in ("shape", "dtype", "__getitem__") if not hasattr(features, n)]
    if isinstance(features, type) or lacking:
        raise TypeError(f"{FEATURES}; got {shown(features)}")
    try:
        real = np.dtype(features.dtype).kind in "fiu" or "float" in str(features.dtype)
    except TypeError:
        real = False
    if not real:
        raise TypeError(f"{FEATURES}; got {shown(features)}")
    if len(features.shape) != 2 or features.shape[0] < 2 or features.shape[1] < 1:
        raise ValueError(f"{FEATURES}, two rows or more; got {shown(features)}")


def read_targets(targets: Any, rows: int) -> tuple[np.ndarray, bool]:
    """The targets as [rows, outputs], and whether they are labels.

    Raises:
      TypeError: something other than numbers.
      ValueError: another number of rows, values that are NaN or infinite, or labels that are not 0,
        1, ... with each class present.
    """
    given = _array(targets)
    labels, axes = given.dtype.kind in "biu", given.ndim
    if axes != 1 and (labels or axes != 2 or not given.shape[1]):
        raise ValueError(f"{TARGETS}; got {shown(given)}")
    if len(given) != rows:
        raise ValueError(f"targets must be one for each of {rows} rows; got {shown(given)}")
    if labels:
        return _one_hot(given), True
    wanted = given.astype(np.float64).reshape(rows, -1)
    if not np.isfinite(wanted).all():
        row = int(np.argwhere(~np.isfinite(wanted))[0, 0])
        raise ValueError(
            f"targets must be finite numbers; got {wanted[row].max()} in row {row} of "
            f"{shown(given)}; leave such rows out"
        )
    return wanted, False


def _array(targets: Any) -> np.ndarray:
    """Targets as an array of numbers."""
    try:
        given = np.asarray(targets)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{TARGETS}; got {shown(targets)}") from error
    if given.dtype.kind not in "biuf" and "float" not in str(given.dtype):
        raise TypeError(f"{TARGETS}; got {shown(targets)}")
    return given


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """[rows, classes], 1 for the class of a row."""
    there = np.unique(labels)
    missing = [n for n in range(len(there)) if n not in there]
    if there[0] < 0 or missing or len(there) < 2:
        lacks = f"no row of class {listed(missing)}" if missing else f"classes {listed(there)}"
        lacks = f"the label {there[0]}" if there[0] < 0 else lacks
        raise ValueError(
            "targets must be labels 0, 1, ... of two classes or more, each with a row; got "
            f"{shown(labels)} with {lacks}; np.unique(targets, return_inverse=True)[1] numbers the "
            "classes that occur"
        )
    return np.eye(len(there), dtype=np.float32)[labels.astype(int)]


def held_out(
    wanted: np.ndarray, labels: bool, validation: float, rng: np.random.Generator
) -> np.ndarray:
    """Which rows are held out, bool [rows]: the same share of each class, but never its only row.

    Raises:
      ValueError: none could be.
    """
    rows = len(wanted)
    if not validation:
        return np.zeros(rows, bool)
    classes = wanted.argmax(axis=1) if labels else np.zeros(rows, int)
    order = np.lexsort((rng.random(rows), classes))  # by class, at random within it
    sorted_ = classes[order]
    first = np.append(True, sorted_[1:] != sorted_[:-1])
    place = np.arange(rows)
    marked = np.floor((place + 1) * validation) > np.floor(place * validation)
    held = np.zeros(rows, bool)
    held[order] = marked & ~first
    if not held.any():
        raise ValueError(
            f"validation must leave rows to hold out; got {validation} of {rows} rows; pass more "
            "rows, or validation=0 to measure accuracy on the training rows"
        )
    return held


def read_places(name: str, given: Any, count: int) -> list[int]:
    """Places on an axis as a list, even if one number is given.

    Raises:
      ValueError: something other than whole numbers from 0 below the length of the axis.
    """
    places = [given]
    if getattr(given, "ndim", 0) == 1 or isinstance(given, list | tuple | range):
        places = list(given)
    if not all(is_whole(n) and 0 <= n < count for n in places):
        raise ValueError(
            f"{name} must be whole numbers from 0 to {count - 1}, places on its axis; got "
            f"{shown(given)}"
        )
    return [int(n) for n in places]
