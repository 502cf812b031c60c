"""Coupled units that a penalty makes 0 in all the weights that make them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.prune import group_lasso

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
X = jax.random.normal(jax.random.key(0), (32, 4))


class Net(nnx.Module):
    """A residual stream with a normalization inside, and a concatenation."""

    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 12, rngs=rngs)
        self.norm, self.c = nnx.BatchNorm(12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.d, self.joined = nnx.Linear(4, 6, rngs=rngs), nnx.BatchNorm(14, rngs=rngs)
        self.out = nnx.Linear(14, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.a(x)
        h = h + self.c(nnx.relu(self.norm(self.b(nnx.relu(h)))))
        return self.out(self.joined(nnx.relu(jnp.concatenate([h, self.d(x)], -1))))


def trained(model: nnx.Module, tx: optax.GradientTransformation, steps: int) -> nnx.Module:
    model.eval()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def run(model: nnx.Module, optimizer: nnx.Optimizer) -> None:
        loss = lambda model: ((model(X) - X[:, :3]) ** 2).mean()
        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(steps):
        run(model, optimizer)
    return model


def test_units_die_in_all_that_makes_them_and_shrink_removes_them() -> None:
    model = Net(nnx.Rngs(0))
    tx = group_lasso(optax.adam(2e-2), js.groups(model, X), ("b/.*", 0.003), (".*", 0.01))
    model = trained(model, optax.MultiSteps(tx, 2), 300)
    stream = np.abs(model.a.kernel[...]).sum(0) == 0
    assert 0 < stream.sum() < 8
    for array in (model.a.bias, model.c.bias, model.c.kernel, model.joined.scale):
        own = np.abs(np.asarray(array[...])).reshape(-1, array.shape[-1]).sum(0)[:8]
        np.testing.assert_array_equal(own == 0, stream)
    inner = np.asarray(model.norm.scale[...]) == 0
    assert inner.any() and (np.asarray(model.b.kernel[...])[:, inner] == 0).all()
    small, _ = js.shrink(model, X)
    assert small.a.kernel.shape[1] == small.c.kernel.shape[1] == 8 - stream.sum()
    assert small.norm.num_features == 12 - inner.sum()
    np.testing.assert_allclose(small(X), model(X), rtol=1e-4, atol=1e-5)


def test_units_of_one_layer_move_as_under_proximal() -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(4, 6, use_bias=False, rngs=rngs), nnx.relu, nnx.Linear(6, 3, rngs=rngs)
    )
    grows = js.schedule.cubic(0.0, 0.04, 0, 40)
    ours = group_lasso(optax.adam(1e-2), js.groups(model, X), ("layers/0/.*", grows))
    theirs = js.optim.proximal(optax.adam(1e-2), ("layers/0/kernel", grows), unit=js.Filter())
    one, other = (trained(nnx.clone(model), tx, 40) for tx in (ours, theirs))
    for path in (0, 2):
        np.testing.assert_allclose(
            one.layers[path].kernel[...], other.layers[path].kernel[...], rtol=1e-4, atol=1e-6
        )


class Tokens(nnx.Module):
    """With a token beside those of the input, and positions that are learned."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed, self.out = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.token, self.positions = nnx.Param(jnp.ones((1, 1, 6))), nnx.Param(jnp.ones((3, 6)))

    def __call__(self, x: Array) -> Array:
        x = self.embed(x)
        token = jnp.broadcast_to(self.token[...], (len(x), 1, x.shape[-1]))
        return self.out(jnp.concatenate([token, x], 1) + self.positions[...][None])


def test_tokens_and_positions_die_with_their_unit() -> None:
    model = Tokens(nnx.Rngs(0))
    tx = group_lasso(optax.sgd(0.1), js.groups(model, (1, 2, 3)), (".*", 1e3))

    @jax.jit
    def moved(params: nnx.State) -> nnx.State:
        moves, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        return optax.apply_updates(params, moves)

    nnx.update(model, moved(nnx.state(model, nnx.Param)))
    for array in (model.token, model.positions, model.embed.kernel, model.embed.bias):
        assert not array[...].any()
    assert model.out.kernel[...].all()


class Attention(nnx.Module):
    """Whose heads and widths are made by the same weights."""

    def __init__(self, rngs: nnx.Rngs):
        self.q = nnx.MultiHeadAttention(2, 4, 8, decode=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.q(x)


def test_what_cannot_be_penalized_is_said() -> None:
    model = Net(nnx.Rngs(0))
    groups = js.groups(model, X)
    with pytest.raises(ValueError, match=r"'a/kernel' matches no group .* a/kernel:1.* whole name"):
        group_lasso(optax.sgd(0.1), groups, ("a/kernel", 0.1))
    with pytest.raises(TypeError, match=r"groups must be what jsparse\.groups gives"):
        group_lasso(optax.sgd(0.1), model, (".*", 0.1))
    params = nnx.state(model, nnx.Param)
    del params["c"]
    with pytest.raises(ValueError, match="has the weight c/kernel, which is not among"):
        group_lasso(optax.sgd(0.1), groups, (".*", 0.1)).init(params)
    smaller = jax.tree.map(lambda one: one[..., :4], nnx.state(model, nnx.Param))
    with pytest.raises(ValueError, match=r"a/kernel has length 8 on axis 1 there, .* has 4; give"):
        group_lasso(optax.sgd(0.1), groups, (".*", 0.1)).init(smaller)
    crossed = js.groups(Attention(nnx.Rngs(0)), (1, 3, 4))
    with pytest.raises(ValueError, match="are both made by q/query/kernel; give a strength to one"):
        group_lasso(optax.sgd(0.1), crossed, (".*", 0.1))
