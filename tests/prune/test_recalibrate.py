"""Statistics of batch normalization taken anew, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

X = np.random.default_rng(0).normal(2.0, 3.0, (3, 8, 4)).astype(np.float32)


class Net(nnx.Module):
    """Two normalizations, one of them called twice, and dropout between them."""

    def __init__(self, momentum: float = 0.99) -> None:
        rngs = nnx.Rngs(0)
        self.a = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=momentum, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.b = nnx.Linear(6, 6, rngs=rngs)
        self.both = nnx.BatchNorm(6, momentum=momentum, rngs=rngs)
        self.unused = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop(nnx.relu(self.norm(self.a(x))))
        return self.both(self.b(self.both(x)))


def wanted(net: Any, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """(mean, var) of `norm` and of `both`, with `weight` in the first layer."""
    bias, kernel = np.asarray(net.a.bias[...]), np.asarray(net.b.kernel[...])
    norm, both = [], []
    normed = lambda h: (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    for x in X:
        first = x @ weight + bias
        second = np.maximum(normed(first), 0)
        third = normed(second) @ kernel
        norm.append((first.mean(0), first.var(0)))
        both += [(h.mean(0), h.var(0)) for h in (second, third)]
    return *np.mean(norm, 0), *np.mean(both, 0)


@pytest.mark.parametrize(("momentum", "rule"), [(0.99, True), (0.5, False)])
def test_statistics_are_averages_over_batches_and_nothing_else_changes(
    momentum: float, rule: bool
) -> None:
    net = Net(momentum)
    net.norm.mean[...] = jnp.full(6, jnp.nan)  # whatever they were before
    if rule:
        net = js.sparsify(net, ("a/kernel", js.Top(density=0.5)))
    net.train()
    before = nnx.to_pure_dict(nnx.state(js.fold(net), nnx.Not(nnx.RngState)))
    new = js.recalibrate(net, (jnp.asarray(x) for x in X))
    weight = np.asarray(js.fold(net).a.kernel[...])
    found = new.norm.mean, new.norm.var, new.both.mean, new.both.var
    for got, want in zip(found, wanted(net, weight), strict=True):
        np.testing.assert_allclose(got[...], want, rtol=2e-4, atol=2e-5)
    same = nnx.to_pure_dict(nnx.state(js.fold(net), nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, same, before)
    for name in ("norm", "both"):
        for part in ("mean", "var"):
            new_part, old_part = (getattr(getattr(m, name), part) for m in (new, net))
            new_part[...] = old_part[...]
    assert nnx.graphdef(new) == nnx.graphdef(net)  # modes, momenta and classes too
    keys = lambda model: jax.tree.map(
        lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a,
        nnx.to_pure_dict(nnx.state(model)),
    )
    jax.tree.map(np.testing.assert_array_equal, keys(new), keys(net))


class Stack(nnx.Module):
    """Two blocks with a normalization each, scanned over."""

    def __init__(self) -> None:
        @nnx.vmap(in_axes=0, out_axes=0)
        def block(key: jax.Array) -> nnx.BatchNorm:
            return nnx.BatchNorm(4, rngs=nnx.Rngs(key))

        self.blocks = block(jax.random.split(jax.random.key(0), 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x: jax.Array, block: Any) -> jax.Array:
            return 3.0 * block(x) + 1.0

        return run(x, self.blocks)


def test_stacked_layers_keep_their_own_statistics() -> None:
    new = js.recalibrate(Stack(), [jnp.asarray(x) for x in X])
    want = np.stack([X.mean(1).mean(0), np.ones(4)])
    np.testing.assert_allclose(new.blocks.mean[...], want, rtol=1e-4)
    want = np.stack([X.var(1).mean(0), np.full(4, 9.0)])
    np.testing.assert_allclose(new.blocks.var[...], want, rtol=1e-3)


def test_what_cannot_be_recalibrated_is_refused() -> None:
    x = [jnp.asarray(X[0])]
    with pytest.raises(ValueError, match=r"has no nnx.BatchNorm"):
        js.recalibrate(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), x)
    with pytest.raises(ValueError, match="took statistics"):
        frozen = lambda model, x: model(x, use_running_average=True)
        js.recalibrate(nnx.BatchNorm(4, rngs=nnx.Rngs(0)), x, forward=frozen)
    with pytest.raises(ValueError, match="no batches"):
        js.recalibrate(Net(), iter(()))
    with pytest.raises(ValueError, match="mean is not finite"):
        js.recalibrate(Net(), [x[0] * jnp.nan])


def test_a_layer_that_uses_its_running_statistics_keeps_them() -> None:
    first, second = (nnx.BatchNorm(4, rngs=nnx.Rngs(0)) for _ in range(2))
    first.mean[...], first.var[...] = jnp.full(4, 2.0), jnp.full(4, 9.0)
    both = nnx.Sequential(first, second)
    forward = lambda model, x: model.layers[1](model.layers[0](x, use_running_average=True))
    new = js.recalibrate(both, [jnp.asarray(X[0])], forward=forward).layers
    np.testing.assert_array_equal(new[0].mean[...], first.mean[...])
    want = (X[0] - 2.0) / np.sqrt(9.0 + 1e-5)
    np.testing.assert_allclose(new[1].mean[...], want.mean(0), rtol=1e-4, atol=1e-5)
