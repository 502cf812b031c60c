"""Residual blocks that do little, and the model without them."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from tests.support.zoo import modules

X = jax.random.normal(jax.random.key(0), (5, 3, 4))


class Block(nnx.Module):
    """Adds to what it is given."""

    def __init__(self, rngs: nnx.Rngs):
        self.inside = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Array, scale: float = 1.0) -> Array:
        return x + scale * self.inside(x)


class Net(nnx.Module):
    """Blocks in a list and by name, between layers of another width."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.last = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.blocks = modules([Block(rngs) for _ in range(3)])
        self.end = Block(rngs)

    def __call__(self, x: Array) -> Array:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.last(self.end(x))


def test_influence_is_one_minus_the_cosine_and_the_lowest_blocks_go() -> None:
    model: Any = Net(nnx.Rngs(0))
    model.blocks[1].inside.kernel[...] *= 0.0
    scores = js.prune.influence(model, [X[:2], X[2:]], "blocks/[0-9]|end")
    x, expected = np.asarray(model.first(X)), {}
    blocks = {f"blocks/{n}": model.blocks[n] for n in range(3)}
    for path, block in (blocks | {"end": model.end}).items():
        y = np.asarray(block(x, 1.0 if path == "end" else 0.5))
        rows = zip(x.reshape(-1, 4), y.reshape(-1, 4), strict=True)
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in rows]
        expected[path], x = 1 - np.mean(cosines), y
    assert scores == pytest.approx(expected, abs=1e-5)
    assert min(scores, key=lambda path: scores[path]) == "blocks/1"
    smaller = js.prune.drop_blocks(model, scores, drop=1)  # one that does nothing
    np.testing.assert_allclose(smaller(X), model(X), rtol=1e-6)
    assert not jax.tree.leaves(nnx.state(smaller.blocks[1]))
    least = sorted(scores, key=lambda path: scores[path])[:3]
    for path in least:
        part = model.end if path == "end" else model.blocks[int(path[-1])]
        for variable in (part.inside.kernel, part.inside.bias):
            variable[...] *= 0.0
    np.testing.assert_allclose(js.prune.drop_blocks(model, scores, drop=3)(X), model(X), rtol=1e-6)


def test_what_is_no_block_is_said() -> None:
    model = Net(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"last takes .*gives .*leave it out of the pattern"):
        js.prune.influence(model, [X], "last")
    with pytest.raises(ValueError, match="'block' matches no module; there are first"):
        js.prune.influence(model, [X], "block")
    with pytest.raises(ValueError, match="scores: 'blocks/9' is not the path of a module"):
        js.prune.drop_blocks(model, {"blocks/9": 1.0}, drop=1)
    with pytest.raises(ValueError, match="drop is 2, and scores has 2 blocks"):
        js.prune.drop_blocks(model, {"end": 1.0, "blocks/0": 1.0}, drop=2)
