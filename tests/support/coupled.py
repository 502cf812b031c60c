"""A small net with coupled units, and what its masks and its smaller form must be."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._slots import sparse_parts

X = jax.random.normal(jax.random.key(0), (32, 4))


class Net(nnx.Module):
    """A residual stream of 8 with a normalized block of 12 inside, read by a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 12, rngs=rngs)
        self.norm, self.c = nnx.BatchNorm(12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.a(x)
        return self.out(h + self.c(nnx.relu(self.norm(self.b(nnx.relu(h))))))


STREAM = (("a/kernel", 1), ("a/bias", 0), ("c/kernel", 1), ("c/bias", 0))
INNER = (("b/kernel", 1), ("b/bias", 0), ("norm/scale", 0), ("norm/bias", 0))
READS = {"b/kernel": (0, STREAM), "out/kernel": (0, STREAM), "c/kernel": (0, INNER)}


@functools.cache
def groups() -> js.export.UnitGroups:
    return js.groups(Net(nnx.Rngs(0)), X)


def coupled(rule: js.Rule) -> Any:
    return js.couple(Net(nnx.Rngs(0)), groups(), (".*", rule))


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    return {path: np.asarray(part.weight[...]) for path, part in sparse_parts(model).items()}


def norms(model: nnx.Module, makers: tuple) -> np.ndarray:
    """The root mean square of each unit over all its entries, one unit after another."""
    reads = [(path, axis) for path, (axis, by) in READS.items() if by == makers]
    arrays = [np.moveaxis(weights(model)[path], axis, 0) for path, axis in (*makers, *reads)]
    rows = [np.concatenate([a[n].ravel() for a in arrays]) for n in range(len(arrays[0]))]
    return np.array([np.sqrt(np.mean(row**2)) for row in rows])


def expected_masks(model: nnx.Module, alive: dict[tuple, np.ndarray]) -> dict[str, np.ndarray]:
    """Ones, with zeros for each dead unit along each axis that it spans."""
    found = {path: np.ones(array.shape) for path, array in weights(model).items()}
    for makers, kept in alive.items():
        for path, axis in makers:
            np.moveaxis(found[path], axis, 0)[~kept] = 0
    for path, (axis, makers) in READS.items():
        np.moveaxis(found[path], axis, 0)[~alive[makers]] = 0
    return found


def check_removed(model: Net, alive: dict[tuple, np.ndarray]) -> None:
    """Masks agree with the units that are alive, and `shrink` leaves these and no others."""
    masks = js.masks(model)
    for path, mask in expected_masks(model, alive).items():
        np.testing.assert_array_equal(masks[path], mask, err_msg=path)
    folded = js.fold(model)
    np.testing.assert_allclose(folded(X), model(X), rtol=1e-5, atol=1e-6)
    small, _ = js.shrink(model, X)
    stream, inner = int(alive[STREAM].sum()), int(alive[INNER].sum())
    assert small.a.kernel.shape == (4, stream) and small.out.kernel.shape == (stream, 3)
    assert small.b.kernel.shape == (stream, inner) and small.c.kernel.shape == (inner, stream)
    assert small.norm.num_features == inner
    np.testing.assert_allclose(small(X), model(X), rtol=1e-4, atol=1e-5)
