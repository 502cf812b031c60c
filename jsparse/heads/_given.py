"""The given data: valid features and targets, and which rows are held out."""

from typing import Any

import numpy as np

from jsparse._values import is_whole, shown
from jsparse.report._samples import read_targets

FEATURES = "features must be an array of numbers [rows, features]"


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


def read_columns(targets: Any, rows: int) -> tuple[np.ndarray, bool]:
    """Targets as [rows, outputs], 1 for the class of a row, and whether they are labels."""
    given = read_targets(targets, rows)
    if given.ndim == 2:
        return given, False
    return np.eye(given.max() + 1, dtype=np.float32)[given], True


def held_out(
    wanted: np.ndarray, labels: bool, validation: float, rng: np.random.Generator
) -> np.ndarray:
    """Which rows are held out, bool [rows]: an equal share of each class, never its only row."""
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


def read_indices(name: str, given: Any, count: int) -> list[int]:
    """Indices on an axis as a list, even if one number is given."""
    indices = [given]
    if getattr(given, "ndim", 0) == 1 or isinstance(given, list | tuple | range):
        indices = list(given)
    if not all(is_whole(n) and 0 <= n < count for n in indices):
        raise ValueError(
            f"{name} must be whole numbers from 0 to {count - 1}, indices on its axis; got "
            f"{shown(given)}"
        )
    return [int(n) for n in indices]
