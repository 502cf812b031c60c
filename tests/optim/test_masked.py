"""What lies under a stored mask has no part in the training of the weights that are read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

import jsparse as js
from jsparse._slots import sparse_parts
from tests.support.coupled import X, coupled

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
BOTH = (nnx.Param, js.Mask)
RIGL = (".*", js.RigL(last=9, every=9, unit=js.Group()))


def layer() -> nnx.Module:
    """A masked matrix and a bias."""
    model = js.sparsify(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    return js.prune.random(model, density=0.3, key=jax.random.key(1))


def units() -> nnx.Module:
    """A net with closed units, where gradients of closed ones are dense."""
    return js.prune.random(coupled(js.Held()), density=0.5, key=jax.random.key(3))


def covered(model: nnx.Module, factor: float) -> nnx.Module:
    """A copy whose masked weights are so many times larger."""
    model = nnx.clone(model)
    for part in sparse_parts(model).values():
        mask = part.read_mask()
        part.weight[...] = part.weight[...] * jnp.where(mask > 0, 1.0, factor)
    return model


def hidden(model: nnx.Module) -> list[np.ndarray]:
    """The weights that are not read."""
    parts = sparse_parts(model).values()
    return [np.where(part.read_mask() > 0, 0, part.weight[...]) for part in parts]


CASES: dict[str, tuple[Callable, Callable]] = {
    "lamb": (layer, lambda model: js.lamb(model, 0.1)),
    "lars": (layer, lambda model: js.lars(model, 1.0)),
    "adafactor": (layer, lambda _: optax.adafactor(0.1)),
    "distance from the start": (layer, lambda _: optax.contrib.dog(1.0)),
    "decay": (layer, lambda _: optax.adamw(0.1, weight_decay=0.5)),
    "clipped units": (units, lambda _: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if make is units else [])
        for name, (make, _) in CASES.items()
    ],
)
def test_a_step_neither_reads_nor_moves_what_a_mask_hides(name: str) -> None:
    make, tx = CASES[name]
    loss = lambda model: ((model(X) - 1.0) ** 2).mean()
    read = []
    for factor in (1.0, 100.0):
        model = covered(make(), factor)
        optimizer, before = js.Optimizer(model, tx(model)), hidden(model)
        for _ in range(2):
            optimizer.update(model, nnx.grad(loss)(model))
        jax.tree.map(np.testing.assert_array_equal, hidden(model), before)
        read.append(nnx.state(js.fold(model), nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, *read)
    start = nnx.state(js.fold(make()), nnx.Param)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), start, read[0])))


def test_what_is_stored_survives_a_transform_that_raises() -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("no")

    model = layer()
    optimizer, before = js.Optimizer(model, optax.stateless(lambda u, _: u)), hidden(model)
    optimizer.tx = optax.stateless(fail)
    with pytest.raises(ValueError, match="no"):
        optimizer.update(model, nnx.grad(lambda model: model(X).sum())(model))
    jax.tree.map(np.testing.assert_array_equal, hidden(model), before)


def test_the_norm_of_the_task_leaves_out_closed_units() -> None:
    model = units()
    tx = js.revise(optax.sgd(1.0), RIGL, roles=js.roles(model))
    optimizer = js.Optimizer(model, tx, wrt=BOTH, clip_task=1.0)
    loss = lambda model: 100 * ((model(X) - 1.0) ** 2).mean()
    leaves = lambda: jax.tree.leaves(nnx.state(model, nnx.Param))
    arrays = lambda: np.concatenate([np.ravel(leaf) for leaf in leaves()])
    before = arrays()
    optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, BOTH))(model))
    assert np.linalg.norm(arrays() - before) == pytest.approx(1.0, rel=1e-4)
