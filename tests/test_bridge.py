"""Linen modules in NNX (`nnx.bridge.ToNNX`) and boxed Linen params become sparse as others do."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.cases import RULES
from tests.support.sampled import one_in

pytestmark = pytest.mark.standard_dtypes
X = jax.random.normal(jax.random.key(0), (8, 6))
AUTO = (jax.sharding.AxisType.Auto,) * 2


class Net(nn.Module):
    boxed: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        kernel = nn.initializers.lecun_normal()
        if self.boxed:
            kernel = nn.with_logical_partitioning(kernel, ("in", "out"))
        x = nn.Dense(8, kernel_init=kernel)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, kernel_init=kernel)(x)


class Around(nnx.Module):
    """A bridge inside another module."""

    def __init__(self, rngs: nnx.Rngs):
        # without keys of its own, which may not advance in another trace
        self.net = nnx.bridge.ToNNX(Net()).lazy_init(X, rngs=nnx.Rngs(0, dropout=1))
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.net(x, train=False))


def bridged(module: nn.Module, x: jax.Array = X) -> Any:
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0, dropout=1)).lazy_init(x)


@pytest.mark.parametrize("rule", one_in(2, RULES))
def test_a_linen_layer_reads_the_masked_weight(rule: str) -> None:
    dense = bridged(nn.Dense(4))
    model = js.sparsify(dense, (".*kernel", RULES[rule]))
    model.eval()
    part = model.kernel
    want = X @ part.read() + model.bias[...][None]
    np.testing.assert_allclose(model(X), want, atol=1e-6)
    np.testing.assert_allclose(nnx.jit(lambda m: m(X))(model), want, atol=1e-6)
    assert model.kernel is part and not isinstance(dense.kernel, js.Sparse)
    for plain in (js.fold(model), js.resolve(model)):
        assert type(plain) is nnx.bridge.ToNNX
        np.testing.assert_allclose(plain(X), want, atol=1e-6)


def test_it_trains_under_jit_with_statistics_and_dropout() -> None:
    model = js.sparsify(bridged(Net()), (".*/kernel", js.Threshold(alpha=1e-3)))
    optimizer, structure = js.Optimizer(model, optax.adam(1e-2)), nnx.graphdef(model)

    @nnx.jit
    def step(model: Any, optimizer: js.Optimizer) -> tuple[jax.Array, jax.Array]:
        def loss(model: Any) -> tuple[jax.Array, jax.Array]:
            out = model(X, mutable=["batch_stats"])
            return (out**2).mean() + js.cost(model), out

        (value, out), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return value, out

    runs = [step(model, optimizer) for _ in range(20)]
    assert runs[-1][0] < runs[0][0]
    assert (model.BatchNorm_0["mean"][...] != 0).any()
    assert ((runs[0][1] == 0) != (runs[1][1] == 0)).any() or (runs[0][1] != runs[1][1]).any()
    assert list(js.masks(model)) == ["Dense_0/kernel", "Dense_1/kernel"]
    assert jax.tree.structure(nnx.graphdef(model)) == jax.tree.structure(structure)


def test_a_bridge_inside_a_module_and_a_call_from_another_trace() -> None:
    model = js.sparsify(Around(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.5)))
    assert len(js.masks(model)) == 3
    folded = js.fold(model)
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(X), folded(X), atol=1e-6)
    np.testing.assert_allclose(nnx.clone(model)(X), folded(X), atol=1e-6)
    with pytest.raises(TypeError):
        model.net(X, nonsense=1)
    assert len(js.masks(model)) == 3  # each Sparse is back after an error


def test_boxed_weights_match_by_their_path() -> None:
    """With names for their axes, in NNX and as Linen params."""
    with jax.set_mesh(jax.make_mesh((1, 1), ("in", "out"), axis_types=AUTO)):
        model = js.sparsify(bridged(Net(boxed=True)), (".*/kernel", js.Top(density=0.5)))
        assert list(js.masks(model)) == ["Dense_0/kernel", "Dense_1/kernel"]
        np.testing.assert_allclose(model(X, train=False), js.fold(model)(X, train=False), atol=1e-6)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    boxed = jax.jit(Net(boxed=True).init)(keys, X)
    plan = js.tree.plan(boxed["params"], (".*/kernel", js.Top(density=0.5)))
    assert sorted(plan) == ["Dense_0/kernel", "Dense_1/kernel"]
    learned, held = js.tree.init(plan, boxed["params"], jax.random.key(2))
    masked = js.tree.apply(plan, boxed["params"], learned, held)
    assert isinstance(masked["Dense_0"]["kernel"], nn.LogicallyPartitioned)
    assert int((masked["Dense_0"]["kernel"].value == 0).sum()) == 24
    run = jax.jit(lambda variables: Net(boxed=True).apply(variables, X, train=False))
    run(boxed | {"params": masked})
