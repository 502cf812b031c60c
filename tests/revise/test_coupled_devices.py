"""Masks of coupled units on eight devices are those on one, wherever the parameters lie."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding

import jsparse as js
from jsparse._slots import held_groups
from tests.support.coupled import Net, X
from tests.support.sharded import reshard

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
P = jax.P
BOTH, UNIT = (nnx.Param, js.Mask), js.Group()
STEPS = 6


class Layout(NamedTuple):
    """How matrices, vectors and the batch lie on a mesh with axes x and y."""

    matrix: P
    vector: P
    batch: P


LAYOUTS = {
    "replicated": Layout(P(), P(), P("x")),
    "split outputs": Layout(P(None, "x"), P("x"), P()),
    "split twice": Layout(P("x", "y"), P("y"), P("x")),
}
REVISIONS = {  # each with the density of its first mask
    "SET": (js.SET(last=9, every=2, fraction=0.4, unit=UNIT), 0.5),
    "RigL": (js.RigL(last=9, every=2, fraction=0.4, unit=UNIT), 0.5),
    "Gradual": (js.Gradual(density=0.5, last=6, every=2, unit=UNIT), 1.0),
    "TopKAST": (js.TopKAST(density=0.5, backward=0.75, every=2, unit=UNIT), 0.5),
    "ACDC": (js.ACDC(density=0.5, first=2, every=2, last=6, unit=UNIT), 1.0),
}


class Split(Net):
    """The net whose parameters are gathered when they are read."""

    def __init__(self, rngs: nnx.Rngs, batch: P):
        super().__init__(rngs)
        self.out, self.batch = nnx.Linear(8, 4, rngs=rngs), batch

    def __call__(self, x: Array) -> Array:
        def linear(layer: nnx.Linear, x: Array) -> Array:
            kernel, bias = reshard(layer.kernel[...], P()), reshard(layer.bias[...], P())
            return reshard(x, self.batch) @ kernel + bias[None]

        h = linear(self.a, x)
        y = nnx.relu(self.norm(linear(self.b, nnx.relu(h))))
        return linear(self.out, h + linear(self.c, y))


@functools.cache
def groups() -> js.export.UnitGroups:
    return js.groups(Split(nnx.Rngs(0), P()), X)


@nnx.jit
def step(model: nnx.Module, optimizer: js.Optimizer, x: Array) -> Array:
    loss = lambda model: ((model(x) - jnp.sin(3 * x)) ** 2).mean()
    value, grads = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, BOTH))(model)
    optimizer.update(model, grads)
    return value


def history(model: nnx.Module, name: str, x: Array) -> tuple[list[float], np.ndarray]:
    """The losses of a run, and the masks of both groups after each step."""
    by, density = REVISIONS[name]
    model = js.couple(model, groups(), (".*", js.Held()))
    model = js.prune.magnitude(model, density=density, choose=js.prune.by_layer())
    tx = js.revise(optax.adam(1e-2), (".*", by), roles=js.roles(model))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    before = jax.tree.map(lambda x: x.sharding, nnx.state(model))
    losses, masks = [], []
    for _ in range(STEPS):
        losses.append(float(step(model, optimizer, x)))
        own = [jax.device_get(part.mask[...]) for part in held_groups(model).values()]
        masks.append(np.concatenate(own))
    # what moved, masks and norms of units too, would compile the second step anew
    for a, there in zip(*map(jax.tree.leaves, (nnx.state(model), before)), strict=True):
        assert a.sharding.is_equivalent_to(there, a.ndim)
    return losses, np.array(masks)


@functools.cache
def one_device(name: str) -> tuple[list[float], np.ndarray]:
    return history(Split(nnx.Rngs(0), P()), name, X)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", REVISIONS)
@pytest.mark.slow
def test_eight_devices_revise_as_one(name: str, layout: str, kind: str) -> None:
    matrix, vector, batch = LAYOUTS[layout]
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(getattr(AxisType, kind),) * 2)
    on_mesh = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        model = Split(nnx.Rngs(0), batch)
        state = jax.tree.map(lambda a: on_mesh(a, (P(), vector, matrix)[a.ndim]), nnx.state(model))
        nnx.update(model, state)
        losses, masks = history(model, name, on_mesh(X, batch))
    want, expected = one_device(name)
    np.testing.assert_allclose(losses, want, rtol=5e-6)
    np.testing.assert_array_equal(masks, expected)
    assert (expected[1:] != expected[:-1]).any()
