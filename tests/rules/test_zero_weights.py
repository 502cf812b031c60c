"""Layers that are initialized with zeros (heads, the second factor of LoRA, biases) train."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

X, Y = jax.random.normal(jax.random.key(0), (32, 6)), jnp.arange(32) % 3
RULES = {
    "threshold": js.Threshold(alpha=1e-3),
    "threshold each": js.Threshold(scope=js.Each()),
    "threshold filter": js.Threshold(unit=js.Filter()),
    "soft threshold": js.SoftThreshold(),
    "soft threshold filter": js.SoftThreshold(unit=js.Filter(), scope=js.PerOutput()),
    "soft threshold of the paper": js.SoftThreshold(s_init=-3200.0),
}


def head(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(6, 3, kernel_init=nnx.initializers.zeros, use_bias=False, rngs=rngs)


def lora(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.LoRA(6, 2, 3, rngs=rngs)


def two_in_a_row(rngs: nnx.Rngs) -> nnx.Module:
    """The second has no gradient before the bias of the first has moved."""
    zeros = nnx.initializers.zeros
    first = nnx.Linear(6, 4, kernel_init=zeros, bias_init=nnx.initializers.ones, rngs=rngs)
    return nnx.Sequential(first, nnx.Linear(4, 3, kernel_init=zeros, rngs=rngs))


def trained(model: nnx.Module, tx: optax.GradientTransformation) -> tuple[float, float]:
    """The loss before and after 100 steps."""

    def task(model: Callable) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(X), Y).mean()

    @nnx.jit
    def step(model: nnx.Module, optimizer: js.Optimizer) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda m: task(m) + js.cost(m))(model)
        optimizer.update(model, grads)
        return loss

    optimizer, before = js.Optimizer(model, tx), float(task(model))
    for _ in range(100):
        step(model, optimizer)
    return before, float(task(model))


@functools.cache
def dense_run(make: Callable) -> tuple[float, float]:
    return trained(make(nnx.Rngs(1)), optax.adam(1e-2))


@pytest.mark.standard_dtypes  # adam
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("make", "pattern"), [(head, "kernel"), (lora, "lora_b"), (two_in_a_row, ".*/kernel")]
)
def test_a_layer_of_zeros_starts_dense_and_trains(rule: str, make: Callable, pattern: str) -> None:
    before, dense = dense_run(make)
    model = js.sparsify(make(nnx.Rngs(1)), (pattern, RULES[rule]))
    assert js.summary(model).density == 1
    start, after = trained(model, optax.adam(1e-2))
    assert start == pytest.approx(before)
    assert before - after > 0.8 * (before - dense) > 0.01


@pytest.mark.parametrize("rule", ["threshold", "soft threshold"])
def test_biases_train_under_a_pattern_of_everything(rule: str) -> None:
    model = js.sparsify(nnx.Linear(6, 3, rngs=nnx.Rngs(1)), (".*", RULES[rule]))
    trained(model, optax.sgd(0.1))
    assert (model.bias.weight[...] != 0).all()


def test_a_reset_returns_a_layer_that_can_learn() -> None:
    """Thresholds above every weight: the reset opens all weights, those that are 0 too."""
    model = js.sparsify(head(nnx.Rngs(1)), ("kernel", js.Threshold(alpha=0.0)))
    model.kernel.threshold[...] = jnp.full(3, 0.5)
    assert not model.kernel.read_mask().any()
    model = js.advance(model)
    assert model.kernel.read_mask().all()
    assert nnx.grad(lambda m: m(X)[:, 0].sum())(model).kernel.weight[...][:, 0].all()


@pytest.mark.parametrize("threshold", [1e-30, 0.1])
def test_above_0_the_comparison_is_strict(threshold: float) -> None:
    rule = js.Threshold()
    weight = jnp.array([[0.0, threshold, 0.2]])
    state = rule.init(weight, jax.random.key(0))
    kept = rule.mask(weight, state | {"threshold": jnp.full(3, threshold)})
    np.testing.assert_array_equal(kept, [[0.0, 0.0, 1.0]])


def test_only_weights_that_are_all_zero_start_lower() -> None:
    weight = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    rule = js.SoftThreshold(scope=js.PerOutput())
    np.testing.assert_array_equal(rule.init(weight, jax.random.key(0))["s"], [-20.0, -5.0])
    assert rule.init(jnp.zeros((0, 2)), jax.random.key(0))["s"].shape == (2,)


def test_zeros_that_a_power_would_never_change_are_said() -> None:
    with pytest.warns(UserWarning, match=r"kernel is all zeros, which Powerpropagation never"):
        js.sparsify(head(nnx.Rngs(1)), ("kernel", js.Powerpropagation(density=0.5)))
