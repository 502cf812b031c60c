"""Kernels that make up for removed inputs, against least squares in NumPy."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js

X = jax.random.normal(jax.random.key(0), (200, 6, 6, 3))


class Net(nnx.Module):
    """Two convolutions and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 6, (3, 3), padding="VALID", rngs=rngs)
        self.b = nnx.Conv(6, 5, (3, 3), padding="VALID", rngs=rngs)
        self.c = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.c(self.second(self.first(x)).mean((1, 2)))

    def first(self, x: Array) -> Array:
        return nnx.relu(self.a(x))

    def second(self, x: Array) -> Array:
        return nnx.relu(self.b(x))


def test_kernels_are_the_least_squares_of_the_outputs_with_all_units() -> None:
    model: Any = Net(nnx.Rngs(0))
    small, record = js.prune.units(model, X, density=0.6)
    fixed = js.prune.repair(model, small, record, [X[:90], X[90:]], damping=0.0)
    kept = {path: cut.keep for path, cut in record.cuts.items()}
    x = np.asarray(model.first(X), np.float64)  # [n, 4, 4, 6]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # [n, 2, 2, 6, 3, 3]
    rows = windows.transpose(0, 1, 2, 4, 5, 3)
    w = np.asarray(model.b.kernel[...], np.float64)
    target = rows.reshape(-1, 54) @ w.reshape(54, 5)
    some = rows[..., list(kept["b/kernel"][2])].reshape(len(target), -1)
    best = np.linalg.lstsq(some, target, rcond=None)[0].reshape(3, 3, -1, 5)
    own = best[..., list(kept["b/kernel"][3])]
    np.testing.assert_allclose(fixed.b.kernel[...], own, rtol=2e-3, atol=2e-4)
    h = np.maximum(some @ best.reshape(-1, 5) + np.asarray(model.b.bias[...]), 0)
    h = h.reshape(len(X), 4, 5).mean(1)  # of the repaired layer before
    places = list(kept["c/kernel"][0])
    last = np.linalg.lstsq(h[:, places], h @ np.asarray(model.c.kernel[...]), rcond=None)[0]
    np.testing.assert_allclose(fixed.c.kernel[...], last, rtol=5e-3, atol=5e-4)
    np.testing.assert_array_equal(fixed.a.kernel[...], small.a.kernel[...])
    off = lambda other: float(((other(X) - model(X)) ** 2).mean())
    assert off(fixed) < 0.5 * off(small)


def test_models_of_other_sizes_are_refused() -> None:
    model = Net(nnx.Rngs(0))
    small, record = js.prune.units(model, (1, 6, 6, 3), density=0.6)
    with pytest.raises(ValueError, match=r"record: it cuts a/bias from \(6,\) to \(4,\), and"):
        js.prune.repair(small, model, record, [X])
