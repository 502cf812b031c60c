"""Coupled units of layers stacked for a scan: the same in all layers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._slots import coupled_units, held_groups, sparse_parts

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
X = jax.random.normal(jax.random.key(0), (32, 4))
STREAM = ("first/kernel:1", "first/bias:0", "layers/down/kernel:2", "layers/down/bias:1")
STREAM += ("layers/up/kernel:1", "last/kernel:0")
INNER = ("layers/up/kernel:2", "layers/up/bias:1", "layers/norm/scale:1", "layers/norm/bias:1")
INNER += ("layers/down/kernel:1",)


class Block(nnx.Module):
    """Adds to a stream of 8."""

    def __init__(self, rngs: nnx.Rngs):
        self.up, self.norm = nnx.Linear(8, 12, rngs=rngs), nnx.BatchNorm(12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.down(nnx.relu(self.norm(self.up(x))))


class Deep(nnx.Module):
    """Three blocks in one."""

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> Block:
            return Block(rngs)

        self.first, self.last = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.layers = make(rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block: Block, x: Array) -> Array:
            return block(x)

        return self.last(run(self.layers, self.first(x)))


@functools.cache
def groups() -> js.export.UnitGroups:
    return js.groups(Deep(nnx.Rngs(0)), X)


def coupled(rule: js.Rule) -> Any:
    return js.couple(Deep(nnx.Rngs(0)), groups(), (".*", rule))


def along(arrays: Any, spans: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Each array with the units on its first axis."""
    found = {}
    for span in spans:
        path, _, axis = span.partition(":")
        found[path] = np.moveaxis(np.asarray(arrays[path]), int(axis), 0)
    return found


def norms(model: nnx.Module, spans: tuple[str, ...]) -> np.ndarray:
    """The root mean square of each unit over its entries in all layers."""
    arrays = {path: part.weight[...] for path, part in sparse_parts(model).items()}
    rows = [own.reshape(len(own), -1) for own in along(arrays, spans).values()]
    return np.sqrt((np.concatenate(rows, axis=1) ** 2).mean(1))


def trained(model: nnx.Module, optimizer: js.Optimizer, wrt: Any, steps: int) -> None:
    @nnx.jit
    def run(model: nnx.Module, optimizer: js.Optimizer) -> None:
        loss = lambda model: ((model(X) - X[:, :3]) ** 2).mean()
        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(model))

    for _ in range(steps):
        run(model, optimizer)
    model.eval()


def check(model: Any, stream: np.ndarray, inner: np.ndarray) -> None:
    """All masks are 0 where these units are dead, and `shrink` leaves the others."""
    ones = {path: np.ones(part.shape) for path, part in sparse_parts(model).items()}
    for spans, alive in ((STREAM, stream), (INNER, inner)):
        for own in along(ones, spans).values():
            own[~alive] = 0  # a view
    for path, mask in js.masks(model).items():
        np.testing.assert_array_equal(mask, ones[path], err_msg=path)
    folded = js.fold(model)
    np.testing.assert_allclose(folded(X), model(X), rtol=1e-5, atol=1e-6)
    small, _ = js.shrink(model, X)
    assert small.layers.up.kernel.shape == (3, stream.sum(), inner.sum())
    assert small.first.kernel.shape == (4, stream.sum())
    np.testing.assert_allclose(small(X), model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_highest_units_over_all_layers_stay() -> None:
    model = coupled(js.Top(density=0.5, unit=js.Group(), scope=js.WholeModel()))
    trained(model, js.Optimizer(model, optax.adam(1e-2)), nnx.Param, 3)
    scores = np.concatenate([norms(model, STREAM), norms(model, INNER)])
    kept = scores >= np.sort(scores)[-10]
    assert 0 < kept[:8].sum() < 8 and 0 < kept[8:].sum() < 12
    check(model, kept[:8], kept[8:])


def test_units_of_all_layers_are_exchanged_together() -> None:
    model = js.prune.random(coupled(js.Held()), density=0.5, key=jax.random.key(1))
    start = {name: np.asarray(group.mask[...]) for name, group in held_groups(model).items()}
    wrt = (nnx.Param, js.Mask)
    by = js.RigL(last=8, every=2, fraction=0.6, unit=js.Group())
    tx = js.revise(optax.adam(1e-2), (".*", by), roles=js.roles(model))
    trained(model, js.Optimizer(model, tx, wrt=wrt), wrt, 8)
    alive = {}
    for group in coupled_units(model).values():  # the stream has a mask for itself and the stack
        rows = np.asarray(group.mask[...]).reshape(-1, group.mask[...].shape[-1]) > 0
        np.testing.assert_array_equal(rows, rows[:1].repeat(len(rows), 0))
        np.testing.assert_array_equal(alive.setdefault(group.name, rows[0]), rows[0])
    assert [int(one.sum()) for one in alive.values()] == [4, 6]
    assert any((start[name].reshape(-1, len(one))[0] != one).any() for name, one in alive.items())
    check(model, *alive.values())


def test_samples_are_the_same_in_all_layers_and_what_is_learned_is_refused() -> None:
    model = coupled(js.Gibbs(density=0.5, beta=1.0, unit=js.Group()))
    seen = []
    for _ in range(3):
        model = js.advance(model)
        ups = np.asarray(js.masks(model)["layers/up/bias"])
        np.testing.assert_array_equal(ups, ups[:1].repeat(3, 0))
        stream = np.asarray(js.masks(model)["layers/down/bias"])
        first = np.asarray(js.masks(model)["first/bias"])
        np.testing.assert_array_equal(stream, first[None].repeat(3, 0))
        seen.append(np.concatenate([ups[0], first]))
    assert (np.array(seen) != seen[0]).any()
    assert jnp.isfinite(model(X)).all()
    with pytest.raises(ValueError, match=r"stacks layers, .* what Threshold learns about them"):
        coupled(js.Threshold(unit=js.Group()))
