"""A model to save, and a folder that holds it."""

from pathlib import Path

from flax import nnx
from jax import Array

import jsparse as js
from jsparse.export import save
from tests.support.cases import normal


class Net(nnx.Module):
    """Layers that differ between training and eval, and a random stream."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.b = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x: Array, scale: float = 1.0) -> Array:
        return scale * self.b(self.drop(nnx.relu(self.norm(self.a(x)))))


def net(width: int = 8, seed: int = 0) -> Net:
    return Net(width, nnx.Rngs(seed))


def sparse() -> Net:
    rule = js.Top(density=0.5, unit=js.Filter())
    return js.sparsify(net(), ("a/kernel", rule))


def draw(*shape: int, seed: int = 0) -> Array:
    return normal(seed, *shape)


def saved_model(folder: Path) -> Net:
    """A shrunk model, saved with its record."""
    small, record = js.shrink(js.fold(sparse()), draw(2, 6))
    save(folder, small, draw(2, 6), record=record)
    return small
