"""Weights that are zeros since they are not trained yet: `shrink(..., keep=...)`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import jsparse as js
from jsparse.export import Record, rebuild

X = jax.random.normal(jax.random.key(0), (2, 6))
zeros = nnx.initializers.zeros


def net(head: nnx.Module) -> nnx.Module:
    """Of its 8 hidden units, 3 are dead."""
    model = nnx.Sequential(nnx.Linear(6, 8, rngs=nnx.Rngs(0)), nnx.relu, head)
    first = model.layers[0]
    first.kernel[...] = first.kernel[...].at[:, jnp.array([1, 4, 5])].set(0.0)
    return model


def new_head() -> nnx.Module:
    return net(nnx.Linear(8, 3, kernel_init=zeros, rngs=nnx.Rngs(1)))


def adapted() -> nnx.Module:
    """LoRA: the second factor starts with zeros."""
    return net(nnx.LoRALinear(8, 3, lora_rank=4, rngs=nnx.Rngs(1)))


def test_a_random_key_beside_the_weights_is_no_weight() -> None:
    model = net(nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
    model.key = nnx.Variable(jax.random.key(0))
    small, _ = js.shrink(model, X)
    assert small.layers[0].kernel.shape == (6, 5)
    np.testing.assert_allclose(small(X), model(X), atol=1e-6)


def test_a_new_head_is_dead_unless_kept() -> None:
    """The record says so; with keep only the units go that are dead for another reason."""
    small, record = js.shrink(new_head(), X)
    assert small.layers[0].kernel.shape == (6, 1)
    assert list(record.zeros) == ["layers/2/kernel"]
    assert record.zeros["layers/2/kernel"] == (
        "all values are 0, so (1, 3) is left of (8, 3); keep='layers/2/kernel' counts it as alive"
    )
    small, record = js.shrink(new_head(), X, keep=".*/2/kernel")
    assert small.layers[0].kernel.shape == (6, 5) and small.layers[2].kernel.shape == (5, 3)
    assert not record.zeros


def test_the_second_factor_of_lora() -> None:
    small, record = js.shrink(adapted(), X)
    assert small.layers[2].lora.lora_a.shape == (5, 1)
    assert list(record.zeros) == ["layers/2/lora/lora_b"]
    small, record = js.shrink(adapted(), X, keep=[".*/lora_b"])
    assert small.layers[2].lora.lora_a.shape == (5, 4)
    assert small.layers[2].lora.lora_b.shape == (4, 3)
    assert not record.zeros


def test_what_is_kept_can_be_trained_as_before() -> None:
    """After a step of the factor the small model still gives what the whole one gives."""
    model = adapted()
    small, record = js.shrink(model, X, keep=".*/lora_b")
    for one in (model, small):
        factor = one.layers[2].lora.lora_b
        factor[...] = jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-5)
    again = rebuild(adapted(), Record.from_dict(record.to_dict()))
    shapes = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(m))] for m in (again, small)]
    assert shapes[0] == shapes[1]


def test_the_record_keeps_what_went_and_reads_older_ones() -> None:
    _, record = js.shrink(new_head(), X)
    data = record.to_dict()
    assert Record.from_dict(data).zeros == record.zeros
    assert Record.from_dict({k: v for k, v in data.items() if k != "zeros"}).zeros == {}


def test_a_weight_that_lost_nothing_is_not_listed() -> None:
    """Zeros that training left elsewhere are no news."""
    assert not js.shrink(net(nnx.Linear(8, 3, rngs=nnx.Rngs(1))), X)[1].zeros


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (".*/lorab", ValueError, "lorab"),
        ([3], TypeError, r"keep holds patterns of paths, such as .*; got \[3\]"),
        (None, TypeError, "keep holds patterns of paths, such as .*; got None"),
    ],
)
def test_patterns_that_match_nothing_are_refused(keep, error, message: str) -> None:
    with pytest.raises(error, match=message):
        js.shrink(adapted(), X, keep=keep)


@pytest.mark.parametrize("apply", [js.shrink, functools.partial(js.prune.units, density=0.5)])
def test_a_pattern_of_what_the_call_does_not_use_is_refused(apply) -> None:
    model = net(nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
    model.unused = nnx.Linear(8, 5, rngs=nnx.Rngs(2))
    with pytest.raises(ValueError, match=r"uses no weight that 'unused/\.\*' matches \(unused/b"):
        apply(model, X, keep=(".*/kernel", "unused/.*"))
    model.layers[2].kernel = model.unused.kernel = nnx.Param(jnp.ones((8, 3)))  # shared: used
    assert js.shrink(model, X, keep="unused/kernel")[0].layers[2].kernel.shape == (5, 3)


@pytest.mark.parametrize("axis", [None, "d"])
def test_a_weakly_typed_weight_shrinks_and_stays_so(axis: str | None) -> None:
    model = net(nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
    spread = NamedSharding(jax.make_mesh((8,), ("d",)), PartitionSpec(axis))
    bias = jnp.where(jnp.arange(8) < 5, 0.5, 0.0)
    model.layers[0].bias = nnx.Param(jax.device_put(bias, spread) if axis else bias)
    assert model.layers[0].bias[...].weak_type
    small, record = js.shrink(model, X)
    assert small.layers[0].out_features == 5 and record.stayed == {}
    assert small.layers[0].bias[...].weak_type
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5)
