"""Linen modules in `nnx.bridge.ToNNX` get smaller, and apply as Linen modules."""

import json
import pickle
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

pytestmark = pytest.mark.standard_dtypes
IMAGES = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
TOKENS = jax.random.randint(jax.random.key(1), (2, 5), 0, 9)


class Mlp(nn.Module):
    hidden: int = 8
    inputs: ClassVar[int] = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.relu(nn.Dense(self.hidden)(x)))


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Conv(8, (3, 3), feature_group_count=x.shape[-1])(x)
        x = nn.relu(nn.Conv(8, (1, 1))(x))
        x = nn.ConvTranspose(4, (2, 2), strides=(2, 2))(x)
        return nn.DenseGeneral((1, 3))(x.mean((1, 2)))


class Transformer(nn.Module):
    width: int = 12
    heads: int = 2

    def setup(self) -> None:
        self.embed = nn.Embed(9, self.width)
        self.attention = nn.MultiHeadDotProductAttention(self.heads)
        self.norms = [nn.LayerNorm() for _ in range(2)]
        self.mlp = nn.Sequential([nn.Dense(16), nn.gelu, nn.Dense(self.width)])
        self.places = self.param("places", nn.initializers.normal(), (5, self.width))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.places[None]
        x = x + self.attention(self.norms[0](x))
        return self.embed.attend(x + self.mlp(self.norms[1](x)))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.RNN(nn.OptimizedLSTMCell(6))(nn.Embed(9, 4)(tokens))
        return nn.Dense(3)(nn.RNN(nn.GRUCell(6))(x)[:, -1])


def bridged(module: nn.Module, x: jax.Array) -> Any:
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)


def narrow(module: nnx.Module) -> dict[str, int]:
    """The width of the transformer, which a weight of its own has."""
    return {"width": module.places.shape[-1]} if hasattr(module, "places") else {}


def test_dead_units_of_an_mlp_go_and_linen_applies_the_rest() -> None:
    x = IMAGES[:, 0, 0]
    module = Mlp()
    half = js.Top(density=0.5, unit=js.Filter())
    model = js.sparsify(bridged(module, x), ("Dense_1/kernel", half))
    small, record = js.shrink(model, x)
    assert type(small) is nnx.bridge.ToNNX and not record.stayed and not record.attributes
    assert small.Dense_1["kernel"].shape == (3, 4)
    np.testing.assert_allclose(small(x), js.fold(model)(x), atol=1e-6)

    smaller, variables = js.export.linen(small)
    assert isinstance(smaller, Mlp) and variables["params"]["Dense_0"]["kernel"].shape == (4, 3)
    np.testing.assert_array_equal(smaller.apply(variables, x), small(x))
    with pytest.raises(Exception, match="Dense_1"):  # the original one still checks its sizes
        module.apply(variables, x)

    unpickled = pickle.loads(pickle.dumps(smaller))
    np.testing.assert_array_equal(unpickled.apply(variables, x), small(x))

    again = js.export.rebuild(bridged(module, x), js.export.Record.from_dict(record.to_dict()))
    assert nnx.graphdef(again) == nnx.graphdef(small)
    nnx.update(again, nnx.state(small))
    np.testing.assert_array_equal(nnx.jit(lambda m, x: m(x))(again, x), small(x))
    with pytest.raises(TypeError, match=r"expected an nnx\.bridge\.ToNNX, got Linear"):
        js.export.linen(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))  # type: ignore[arg-type]


def test_convolutions_and_norms_go_and_the_rest_trains_on() -> None:
    dense = bridged(Convolutional(), IMAGES)
    small, record = js.prune.units(dense, IMAGES, budget=0.5)
    assert len(record.widths) == 3 and not record.stayed
    assert small.BatchNorm_0["mean"].shape == small.Conv_0["kernel"].shape[-1:] != (8,)
    optimizer = js.Optimizer(small, optax.adam(1e-2))

    @nnx.jit
    def step(model: Any, optimizer: js.Optimizer) -> jax.Array:
        loss = lambda model: (model(IMAGES, train=True, mutable=["batch_stats"]) ** 2).mean()
        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [step(small, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0] and (small.BatchNorm_0["mean"][...] != 0).any()
    smaller, _ = js.prune.units(small, IMAGES, density=0.5)
    assert smaller.Conv_0["kernel"].shape[-1] < small.Conv_0["kernel"].shape[-1]


def test_rules_that_stay_train_on_in_the_smaller_module() -> None:
    model = js.sparsify(bridged(Convolutional(), IMAGES), ("Conv_2/kernel", js.Held()))
    model = js.hold(model, {"Conv_2/kernel": jnp.ones((1, 1, 8, 8)).at[..., 5:].set(0.0)})
    model.Conv_2["bias"][...] = model.Conv_2["bias"][...] - 1.0 * (jnp.arange(8) > 4)
    optimizer = js.Optimizer(model, optax.sgd(0.1))
    want = model(IMAGES)
    small, optimizer, _ = js.shrink_training(model, optimizer, IMAGES)
    grads = nnx.grad(lambda model: (model(IMAGES) ** 2).mean())(small)
    assert small.Conv_2["kernel"].weight.shape == (1, 1, 8, 5)
    np.testing.assert_allclose(small(IMAGES), want, atol=1e-6)
    optimizer.update(small, grads)
    assert (small(IMAGES) != want).any()


def test_a_transformer_narrows_where_mend_sets_the_size_of_its_own_weight() -> None:
    dense = bridged(Transformer(), TOKENS)
    held = {group.width: group.held for group in js.groups(dense, TOKENS)}
    assert held[12] == (
        "places: its size follows from an attribute of a Linen module; `mend` may set width (12)"
    )
    assert not held[16]
    small, record = js.prune.units(dense, TOKENS, density=0.5, mend=narrow)
    assert record.attributes == {"": {"width": 6}}
    assert small.places.shape == (5, 6) and small.mlp["layers_0"]["kernel"].shape == (6, 8)
    assert small.attention["query"]["kernel"].shape == (6, 1, 3)
    text = json.loads(json.dumps(record.to_dict()))
    again = js.export.rebuild(dense, js.export.Record.from_dict(text))
    assert again(TOKENS).shape == small(TOKENS).shape
    module, variables = js.export.linen(again)
    assert module.width == 6 and dense.embed["embedding"].shape == (9, 12)
    assert module.apply(variables, TOKENS).shape == (2, 5, 9)


@pytest.mark.slow
def test_cells_and_embeddings_go() -> None:
    small, record = js.prune.units(bridged(Recurrent(), TOKENS), TOKENS, density=0.5)
    assert not record.stayed and len(record.widths) == 3
    assert small.GRUCell_0["hn"]["kernel"].shape[0] < 6
    assert small(TOKENS).shape == (2, 3)
