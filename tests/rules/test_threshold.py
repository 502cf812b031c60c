"""Dynamic Sparse Training against the paper's formulas and figures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jsparse as js
from jsparse._step import long_tailed

KEY = jax.random.key(0)


def state(rule: js.Threshold, weight: jax.Array, threshold: float) -> dict:
    made = rule.init(weight, KEY)
    return made | {"threshold": jnp.full_like(made["threshold"], threshold)}


@given(st.integers(0, 99))
def test_gradients_are_the_published_ones(seed: int) -> None:
    """dW = G (M + |W| H(Q)),  dt = -sum_j G W H(Q) - alpha exp(-t)."""
    rule = js.Threshold(alpha=1e-2)
    keys = jax.random.split(jax.random.key(seed), 3)
    w, g = jax.random.normal(keys[0], (5, 3)), jax.random.normal(keys[1], (5, 3))
    t = jax.random.uniform(keys[2], (3,))
    made = rule.init(w, KEY)

    def loss(w, t):
        now = made | {"threshold": t}
        return (rule.apply(w, now) * g).sum() + rule.cost(now)

    dw, dt = jax.grad(loss, (0, 1))(w, t)
    q = jnp.abs(w) - t[None]
    slope = long_tailed(q)
    kept = (q > 0).astype(jnp.float32)
    np.testing.assert_allclose(dw, g * (kept + jnp.abs(w) * slope), atol=1e-5)
    np.testing.assert_allclose(dt, -(g * w * slope).sum(0) - 1e-2 * jnp.exp(-t), atol=1e-5)


def test_a_threshold_far_below_0_costs_a_finite_sum_and_comes_back() -> None:
    """Plain exp(148) is infinite: with it the loss, and a step later every weight, is lost."""
    rule = js.Threshold(alpha=1e-2)
    w = jax.random.normal(KEY, (5, 3))
    low = rule.init(w, KEY) | {"threshold": jnp.array([-148.0, -1.0, 0.3])}
    cost, grads = jax.value_and_grad(rule.cost)(low)
    e = np.e
    assert float(cost) == pytest.approx(1e-2 * (e * (1 + 147) + e + np.exp(-0.3)), rel=1e-5)
    np.testing.assert_allclose(
        grads["threshold"], -1e-2 * np.array([e, e, np.exp(-0.3)]), rtol=1e-5
    )
    after = rule.advance(w, low)
    np.testing.assert_array_equal(after["threshold"], jnp.array([-1.0, -1.0, 0.3]))
    np.testing.assert_array_equal(rule.mask(w, after), rule.mask(w, low))


def test_training_survives_a_step_that_throws_thresholds_far_down() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Threshold(alpha=1e-3)))
    optimizer = js.Optimizer(model, optax.sgd(0.1, momentum=0.9))
    x, y = jax.random.normal(KEY, (8, 4)), jnp.ones((8, 3))

    @nnx.jit
    def step(model: nnx.Linear, optimizer: js.Optimizer, kick: jax.Array) -> jax.Array:
        def loss(model: nnx.Linear) -> tuple[jax.Array, jax.Array]:
            task = ((model(x) - y) ** 2).mean() + js.cost(model)
            return task + kick * model.kernel.threshold[...].sum(), task

        (_, task), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return task

    losses = [float(step(model, optimizer, jnp.asarray(kick))) for kick in [2e3, *[0.0] * 20]]
    assert losses[-1] < losses[0] < 10
    assert float(model.kernel.threshold[...].min()) >= -1.0


@pytest.mark.parametrize(
    ("scope", "shape"), [(js.Whole(), ()), (js.PerOutput(), (6,)), (js.Each(), (4, 6))]
)
def test_shapes_of_thresholds(scope, shape: tuple) -> None:
    assert js.Threshold(scope=scope).init(jnp.ones((4, 6)), KEY)["threshold"].shape == shape


@pytest.mark.parametrize(
    ("unit", "scope", "shape"),
    [
        (js.Weight(), js.PerOutput(), (6,)),
        (js.Kernel(), js.PerOutput(), (6,)),
        (js.Kernel(), js.Each(), (1, 1, 4, 6)),
        (js.Filter(), js.PerOutput(), (6,)),
        (js.Channel(), js.Each(), (1, 1, 4, 1)),
        (js.Block((4, 4)), js.Each(), (3, 3, 1, 2)),
    ],
)
def test_a_structured_threshold_acts_on_the_norm_of_its_unit(unit, scope, shape: tuple) -> None:
    rule = js.Threshold(unit=unit, scope=scope)
    w = jax.random.normal(KEY, (3, 3, 4, 6))
    now = state(rule, w, 1.0)
    assert now["threshold"].shape == shape
    mask = np.asarray(rule.mask(w, now))
    tile = unit.tile(w.shape, js.Role())
    for start in np.ndindex(*(-(-n // t) for n, t in zip(w.shape, tile, strict=True))):
        unit_of = tuple(slice(i * t, (i + 1) * t) for i, t in zip(start, tile, strict=True))
        norm = np.sqrt(np.mean(np.asarray(w)[unit_of] ** 2))
        assert (mask[unit_of] == (norm > 1.0)).all()


@pytest.mark.slow
@settings(max_examples=4)  # each shape is compiled anew
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4), st.sampled_from([(1, 1), (2, 3), (4, 4)])
)
def test_any_shape_with_ragged_blocks(shape: list[int], block: tuple) -> None:
    for rule in (
        js.Threshold(unit=js.Block(block), scope=js.Each()),
        js.Threshold(unit=js.Block(block)),
        js.Top(density=0.5, unit=js.Block(block)),
    ):
        w = jax.random.normal(KEY, tuple(shape))
        made = rule.init(w, KEY)
        mask, grad = rule.mask(w, made), jax.vjp(rule.apply, w, made)[1](w)[0]
        assert mask.shape == w.shape == grad.shape
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (1,)])
def test_small_and_empty_weights(shape: tuple) -> None:
    for rule in (
        js.Threshold(),
        js.Threshold(unit=js.Filter()),
        js.Top(density=0.5),
        js.Held(),
        js.Keep(),
    ):
        w = jnp.ones(shape)
        made = rule.init(w, KEY)
        assert rule.apply(w, made).shape == shape
        assert rule.advance(w, made).keys() == made.keys()


def test_a_batch_of_zero_samples() -> None:
    layer = js.Linear(4, 3, rule=js.Threshold(), rngs=nnx.Rngs(0))
    grads = nnx.grad(lambda layer: layer(jnp.ones((0, 4))).sum() + js.cost(layer))(layer)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_units_of_zeros_have_finite_gradients() -> None:
    rule = js.Threshold(unit=js.Filter())
    made = rule.init(jnp.zeros((4, 6)), KEY)
    assert np.isfinite(jax.grad(lambda w: rule.apply(w, made).sum())(jnp.zeros((4, 6)))).all()


def lenet() -> nnx.Module:
    sizes = [(784, 300), (300, 100), (100, 10)]
    return nnx.Sequential(*[nnx.Linear(a, b, rngs=nnx.Rngs(0)) for a, b in sizes])


def test_golden_lenet_300_100() -> None:
    """266,200 weights, 410 thresholds, a regularizer of 410 alpha at the start."""
    model = js.sparsify(lenet(), (".*/kernel", js.Threshold(alpha=5e-4)))
    report = js.summary(model)
    assert (report.size, report.kept, report.learned) == (266_200, 266_200, 410)
    assert float(js.cost(model)) == pytest.approx(410 * 5e-4, rel=1e-6)


def test_golden_drift() -> None:
    """With no gradient from the data a small threshold grows by lr alpha / (1 - momentum)."""
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Threshold(alpha=5e-4)))
    optimizer = js.Optimizer(model, optax.sgd(0.01, momentum=0.9))
    step = nnx.jit(lambda m, o: o.update(m, nnx.grad(js.cost)(m)))
    for _ in range(100):
        step(model, optimizer)
    before = np.asarray(model.kernel.threshold[...])
    for _ in range(10):
        step(model, optimizer)
    drift = (np.asarray(model.kernel.threshold[...]) - before) / 10
    np.testing.assert_allclose(drift, 5e-5, rtol=0.02)


@pytest.mark.parametrize(("kept", "reset"), [(1, True), (2, False)])
def test_a_layer_with_one_percent_left_starts_over(kept: int, reset: bool) -> None:
    w = jnp.full((10, 10), 0.1).at[0, :kept].set(1.0)
    rule = js.Threshold()
    after = rule.advance(w, state(rule, w, 0.5))
    assert bool((after["threshold"] == 0).all()) is reset


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(("kept", "reset"), [(199, True), (201, False), (5000, False)])
def test_a_large_layer_is_counted_whole_where_its_sample_is_thin(
    kept: int, reset: bool, seen: bool
) -> None:
    rows = np.arange(200)
    rows = rows[np.argsort(rows % 4 != 0, kind="stable")]  # those that the sample sees first
    weight = np.full((200, 100), 0.1, np.float32)
    for n in range(kept):
        weight[(rows if seen else rows[::-1])[n // 100], n % 100] = 1.0
    rule = js.Threshold()
    after = jax.jit(rule.advance)(weight, state(rule, jnp.asarray(weight), 0.5))
    assert bool((after["threshold"] == 0).all()) is reset


def test_recurrent_cells_do_not_start_over_by_default() -> None:
    for rule, left in ((js.Threshold(), 9.0), (js.Threshold(reset_recurrent=0.01), 0.0)):
        cell = js.OptimizedLSTMCell(4, 3, rule=rule, rngs=nnx.Rngs(0))
        kernel = cell.dense_h.kernel
        kernel.threshold[...] = jnp.full(12, 9.0)
        assert float(js.advance(cell).dense_h.kernel.threshold[0]) == left


def test_pruned_weights_can_return() -> None:
    rule = js.Threshold()
    w = jnp.array([[0.1]])
    made = state(rule, w, 0.3)
    assert float(jax.grad(lambda w: rule.apply(w, made).sum())(w)[0, 0]) > 0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: js.Threshold(alpha=-1), ValueError, "0 or more; got -1"),
        (lambda: js.Threshold(alpha=float("nan")), ValueError, "got nan"),
        (lambda: js.Threshold(reset=1.0), ValueError, "reset must be a number in"),
        (lambda: js.Top(density=0.0), ValueError, r"in \(0, 1\]; got 0"),
        (lambda: js.Top(density=1.5), ValueError, r"in \(0, 1\]; got 1.5"),
        (lambda: js.TargetDensity(density=0, steps=9), ValueError, r"in \(0, 1\]"),
        (
            lambda: js.TargetDensity(density=0.5, steps=0),
            ValueError,
            "steps must be a whole",
        ),
        (
            lambda: js.TargetDensity(density=0.5, steps=9, ramp=0),
            ValueError,
            "ramp must be",
        ),
        (lambda: js.Threshold().init(jnp.ones((2, 2), int), KEY), TypeError, "floating-point"),
        (lambda: js.Threshold().init(jnp.array(1.0), KEY), ValueError, "got a scalar"),
        (
            lambda: js.Top(density=0.5, scope=js.Groups(4)).init(jnp.ones((10, 3)), KEY),
            ValueError,
            "axis 0 has length 10, not a multiple of 4",
        ),
    ],
)
def test_bad_input(make, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        make()
