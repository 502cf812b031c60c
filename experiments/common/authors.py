"""Code of papers' authors to compare with, run from the user's own checkout."""

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], float]


def authors_logme(folder: str) -> Score:
    """(features, labels) -> LogME by a checkout of github.com/thuml/LogME.

    The code asks for numba, which compiles a part of it; without numba that part is plain NumPy.

    Raises:
      ValueError: the folder holds no such checkout.
    """
    path = Path(folder).expanduser() / "LogME.py"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a checkout of github.com/thuml/LogME")
    stand_in = not importlib.util.find_spec("numba")
    if stand_in:
        plain = types.ModuleType("numba")
        plain.njit = lambda function: function  # type: ignore[attr-defined]
        sys.modules["numba"] = plain
    spec = importlib.util.spec_from_file_location("authors_logme", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    finally:
        if stand_in:
            del sys.modules["numba"]

    def score(features: np.ndarray, labels: np.ndarray) -> float:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(module.LogME().fit(np.asarray(features), np.asarray(labels)))

    return score
