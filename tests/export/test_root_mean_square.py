"""Means over dead units: where weights and an epsilon make up for them, and where nothing can."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.export import Record, rebuild
from tests.support.root_mean_square import (
    GRN,
    TOKENS,
    Fixed,
    Llama,
    Norm,
    Own,
    Scanned,
    bare,
    stock,
)
from tests.support.zoo_cases import masked, shapes

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers
X = jax.random.normal(jax.random.key(0), (5, 3))
TEXT = jax.random.randint(jax.random.key(1), (2, 6), 0, TOKENS)


@pytest.fixture(autouse=True)
def promotion() -> Iterator[None]:
    """Norms multiply rows by a scale."""
    with jax.numpy_rank_promotion("allow"):
        yield


class Net(nnx.Module):
    """A norm between two layers."""

    def __init__(self, norm: Norm, rngs: nnx.Rngs):
        self.a = nnx.Linear(3, 8, use_bias=False, rngs=rngs)
        self.norm, self.b = norm(8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b(self.norm(0.1 * self.a(x)))


def test_layers_that_compute_in_half_precision_may_round_as_such() -> None:
    norm: Any = lambda width, rngs: nnx.RMSNorm(width, dtype=jnp.bfloat16, rngs=rngs)
    model = Net(norm, nnx.Rngs(0))
    model.a.dtype = model.b.dtype = jnp.bfloat16
    model.a.kernel[...] = model.a.kernel[...].at[:, 5:].set(0.0)
    small, _ = js.shrink(model, X)
    assert small.norm.num_features == 5
    np.testing.assert_allclose(small(X), model(X), rtol=0.05, atol=0.02)


def layer(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm in which units 1, 4 and 6 are dead."""
    scale = np.ones(width, np.float32)
    scale[[1, 4, 6]] = 0.0
    return nnx.LayerNorm(width, scale_init=lambda *given: jnp.asarray(scale), rngs=rngs)


def dead(norm: Norm) -> Net:
    """A net in which units 1, 4 and 6 of 8 are dead."""
    net = Net(norm, nnx.Rngs(0))
    net.a.kernel[...] = net.a.kernel[...].at[:, jnp.array([1, 4, 6])].set(0.0)
    return net


@pytest.mark.parametrize(
    ("norm", "name", "weight", "power"),
    [
        (stock, "epsilon", "norm/scale", 0.5),
        (Own, "eps", "norm/weight", 0.5),
        (GRN, "eps", "norm/gamma", 1.0),
        (bare, "epsilon", "b/kernel", 0.5),
    ],
)
def test_weights_and_an_epsilon_make_up_for_a_mean_over_dead_units(
    norm: Norm, name: str, weight: str, power: float
) -> None:
    net = dead(norm)
    small, record = js.shrink(net, X)
    assert small.a.kernel.shape == (3, 5) and not record.stayed
    np.testing.assert_allclose(small(X), net(X), rtol=1e-5, atol=1e-6)
    assert record.attributes["norm"][name] == getattr(small.norm, name)
    assert getattr(small.norm, name) == pytest.approx(1e-3 * 8 / 5)
    assert record.factors == {weight: pytest.approx((8 / 5) ** power)}
    again = rebuild(Net(norm, nnx.Rngs(1)), Record.from_dict(record.to_dict()))
    assert shapes(again) == shapes(small)
    assert getattr(again.norm, name) == getattr(small.norm, name)


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (layer, r"8\.0, which would become 5\.0, and weights .* for it after `sub` at "),
        (Fixed, r"`add` at \S+ reads 0\.001, which cannot become 0\.0016, as no attribute"),
    ],
)
def test_what_nothing_can_make_up_for_stays_and_says_so(norm: Norm, why: str) -> None:
    net = dead(norm)
    small, record = js.shrink(net, X)
    assert shapes(small) == shapes(net) and not record.factors
    assert re.search(rf"^3 of 8 dead units stay: `div` at .*{why}", record.stayed["a/kernel"])


@pytest.mark.parametrize(
    ("make", "norm"), [pytest.param(Llama, stock, marks=pytest.mark.slow), (Scanned, Own)]
)
def test_half_of_the_width_of_a_transformer(
    make: Callable[..., Llama], norm: Norm, tmp_path: Path
) -> None:
    model = make(norm, nnx.Rngs(0))
    small, record = js.prune.units(model, TEXT, density=0.5)
    assert record.widths["embed/embedding:1"] == "16 -> 8"
    full = masked(model, record)
    np.testing.assert_allclose(small(TEXT), full(TEXT), rtol=1e-4, atol=1e-5)
    shrunk, _ = js.shrink(full, TEXT)
    assert shapes(shrunk) == shapes(small) and shrunk.embed.features == 8
    np.testing.assert_allclose(shrunk(TEXT), full(TEXT), rtol=1e-4, atol=1e-5)
    js.export.save(tmp_path / "small", small, TEXT, record=record)
    same = js.export.restore(tmp_path / "small", make(norm, nnx.Rngs(1)))
    np.testing.assert_array_equal(same(TEXT), small(TEXT))

    def loss(model: Llama) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(TEXT)[:, :-1], TEXT[:, 1:])
        return losses.mean()

    optimizer = nnx.Optimizer(same, optax.adam(1e-2), wrt=nnx.Param)
    step = nnx.jit(lambda model, optimizer: optimizer.update(model, nnx.grad(loss)(model)))
    before = loss(same)
    for _ in range(5):
        step(same, optimizer)
    assert loss(same) < before


def test_stacked_layers_say_why_their_dead_units_stay() -> None:
    model = Scanned(nnx.LayerNorm, nnx.Rngs(0))
    for layer in (model.blocks.leave, model.blocks.down):
        layer.kernel[...] = layer.kernel[...].at[..., :4].set(0.0)
    for norm in (model.blocks.before, model.blocks.between, model.last):
        assert isinstance(norm, nnx.LayerNorm) and norm.scale is not None
        norm.scale[...] = norm.scale[...].at[..., :4].set(0.0)
    model.embed.embedding[...] = model.embed.embedding[...].at[:, :4].set(0.0)
    _, record = js.shrink(model, TEXT)
    for path in ("blocks/leave/kernel", "blocks/down/kernel"):
        assert re.match(r"4 of 16 dead units stay: `div` at .*after `sub`", record.stayed[path])


def test_in_training_such_units_stay_as_the_scale_would_learn_otherwise() -> None:
    net = dead(stock)
    small, _, record = js.shrink_training(net, js.Optimizer(net, optax.sgd(0.1)), X)
    assert small.a.kernel.shape == (3, 8) and "a/kernel" in record.stayed


class Slow(nnx.LayerNorm):
    """One that subtracts the mean before it squares."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, epsilon=1e-3, use_fast_variance=False, rngs=rngs)


class Gate(nnx.Module):
    """The mean of what is 1/2 for dead units scales all others."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (width,)))

    def __call__(self, x: Array) -> Array:
        return x * jax.nn.sigmoid(x).mean(axis=-1, keepdims=True) * self.weight[...]


@pytest.mark.parametrize("norm", [Slow, Gate])
def test_nothing_makes_up_for_a_mean_of_other_than_zeros(norm: Norm) -> None:
    """It is over the units that are left, and so is what follows from it in a layer norm."""
    net = Net(norm, nnx.Rngs(0))
    small, record = js.prune.units(net, X, density=0.5)
    assert "is over what is left" in record.widths["a/kernel:1"] and not record.factors
    part = rebuild(net, record)  # its values are those of the model, cut
    np.testing.assert_allclose(small(X), part(X), rtol=1e-5, atol=1e-6)


class Twice(GRN):
    """What it adds to the mean is added elsewhere too."""

    def __call__(self, x: Array) -> Array:
        small = jnp.full((*x.shape[:-1], 1), self.eps)
        y = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + small) * self.gamma[...]
        return y / (jnp.abs(y).sum(axis=-1, keepdims=True) + small)


class Rounded(GRN):
    """Its outputs are whole numbers before they are scaled."""

    def __call__(self, x: Array) -> Array:
        y = 8 * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.eps)
        return y.astype(jnp.int8).astype(jnp.float32) * self.gamma[...]


class Quantized(nnx.Module):
    """Its scale is a whole number times one for all."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.whole = nnx.Variable(jnp.arange(1, width + 1, dtype=jnp.int8))
        self.step, self.eps = nnx.Param(jnp.full((1,), 0.1)), 1e-3

    def __call__(self, x: Array) -> Array:
        scale = self.whole[...].astype(jnp.float32) * self.step[...]
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.eps) * scale


def test_weights_that_are_whole_numbers_take_no_factor() -> None:
    net = dead(Quantized)
    small, record = js.shrink(net, X)
    assert "norm/whole" not in record.factors
    np.testing.assert_allclose(small(X), net(X), rtol=1e-5, atol=1e-6)


class Alike(GRN):
    """Three attributes of one value: that of the mean, one read elsewhere, and one never read."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, rngs)
        self.rate, self.slope = 1e-3, 1e-3

    def __call__(self, x: Array) -> Array:
        y = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.eps) * self.gamma[...]
        return jnp.where(y > 0, y, self.slope * y)


def test_only_the_attribute_that_is_added_to_the_mean_changes() -> None:
    net = dead(Alike)
    small, record = js.shrink(net, X)
    assert small.a.kernel.shape == (3, 5)
    assert record.attributes["norm"] == {"eps": pytest.approx(1e-3 * 8 / 5)}
    assert small.norm.rate == small.norm.slope == 1e-3
    np.testing.assert_allclose(small(X), net(X), rtol=1e-5, atol=1e-6)


class Stored(GRN):
    """Its epsilon is a variable, and so is what it adds later."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, rngs)
        self.small, self.more = nnx.Variable(jnp.float32(1e-3)), nnx.Param(jnp.full((1,), 0.2))

    def __call__(self, x: Array) -> Array:
        root = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.small[...])
        return x / (root + self.more[...]) * self.gamma[...]


def test_variables_that_are_added_take_the_factor() -> None:
    net = dead(Stored)
    small, record = js.shrink(net, X)
    assert small.a.kernel.shape == (3, 5) and not record.stayed
    wider = {"norm/small": 8 / 5, "norm/more": (8 / 5) ** 0.5, "norm/gamma": (8 / 5) ** 0.5}
    assert record.factors == pytest.approx(wider)
    np.testing.assert_allclose(small(X), net(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [Twice, Rounded])
def test_what_a_factor_would_change_elsewhere_stays(norm: Norm) -> None:
    net = dead(norm)
    small, record = js.shrink(net, X)
    assert small.a.kernel.shape == (3, 8) and "a/kernel" in record.stayed
    np.testing.assert_allclose(small(X), net(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": {"norm": {"epsilon": "x"}}}, "epsilon.* is 'x', expected a size"),
        ({"attributes": {"norm": {"epsilon": -1.0}}}, "expected a size, several, or a number"),
        ({"attributes": {"norm": {"epsilon": 2}}}, "epsilon of norm to 2, the model has 0.001"),
        ({"attributes": {"a": {"out_features": 0.5}}}, "to 0.5, the model has 8"),
        ({"factors": {"norm/scale": 0.0}}, "the factor of 'norm/scale' is not a number above 0"),
        ({"cost": 1.0}, r"cost is 1.0, expected list\[int"),
        ({"cost": [1.0]}, r"cost must be two numbers, 0 or more.*; got \(1.0,\)"),
        ({"cost": [1.0, -1.0]}, "cost must be two numbers"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], message: str) -> None:
    _, record = js.shrink(dead(stock), X)
    with pytest.raises(ValueError, match=message):
        rebuild(Net(stock, nnx.Rngs(0)), Record.from_dict(record.to_dict() | change))
