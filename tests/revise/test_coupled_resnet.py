"""A residual network with batch norm, whose channels close while it trains, and its shrunk form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

pytest.importorskip("tyro")

import jsparse as js
from experiments.networks.operations import stock_operations
from experiments.networks.resnet import ResNet
from jsparse._revise.revision import Revision
from jsparse._slots import held_groups

pytestmark = [pytest.mark.slow, pytest.mark.standard_dtypes]
BOTH, UNIT = (nnx.Param, js.Mask), js.Group()
REVISIONS = {
    "SET": (js.SET(last=9, every=2, fraction=0.4, unit=UNIT), 0.5),
    "RigL": (js.RigL(last=9, every=2, fraction=0.4, unit=UNIT), 0.5),
    "gradual": (js.Gradual(density=0.5, last=4, every=2, unit=UNIT), 1.0),
}


def network(kind: jnp.dtype) -> nnx.Module:
    graph, state = nnx.split(ResNet(8, nnx.Rngs(0), width=8))
    real = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
    return nnx.merge(graph, jax.tree.map(lambda a: a.astype(kind) if real(a) else a, state))


def taught(kind: jnp.dtype, by: Revision, density: float, steps: int) -> tuple:
    """The network after six steps of the revision, each of so many steps, and its images."""
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 3), kind)
    model = network(kind)
    model = js.couple(model, js.groups(model, x), (".*", js.Held()))
    model = js.prune.random(model, density=density, key=jax.random.key(2))
    tx = js.revise(optax.adamw(1e-2), (".*", by), roles=js.roles(model))
    around = tx if steps == 1 else optax.MultiSteps(tx, steps)
    optimizer = js.Optimizer(model, around, wrt=BOTH)
    model.train()

    def loss(model: nnx.Module) -> jax.Array:
        labels = jnp.arange(len(x))
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    @nnx.jit
    def step(model: nnx.Module, optimizer: js.Optimizer) -> None:
        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, BOTH))(model))

    for _ in range(6 * steps):
        step(model, optimizer)
    model.eval()
    return model, x


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", REVISIONS)
@pytest.mark.filterwarnings("ignore:scatter inputs:FutureWarning")  # Flax's batch norm in bfloat16
def test_what_is_shrunk_computes_the_same(name: str, kind: jnp.dtype) -> None:
    with stock_operations():
        by, density = REVISIONS[name]
        model, x = taught(kind, by, density, 1)
        masks = {group: np.asarray(part.mask[...]) for group, part in held_groups(model).items()}
        assert len(masks) == 6
        for mask in masks.values():
            assert set(np.unique(mask)) == {0, 1} and 2 * mask.sum() == mask.size
        smaller, _ = js.shrink(model, x)
        expected, found = (one(x).astype(jnp.float32) for one in (js.fold(model), smaller))
        assert smaller(x).dtype == kind and jnp.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=2e-6 if kind == jnp.float32 else 2e-2)
        count = lambda one: sum(a.size for a in jax.tree.leaves(nnx.state(one, nnx.Param)))
        assert count(smaller) < 0.4 * count(network(kind))


def test_accumulated_steps_move_the_same_masks() -> None:
    with stock_operations():
        by, density = REVISIONS["RigL"]
        (one, _), (several, _) = (taught(jnp.float32, by, density, n) for n in (1, 2))
        for name, part in held_groups(one).items():
            np.testing.assert_array_equal(part.mask[...], held_groups(several)[name].mask[...])
