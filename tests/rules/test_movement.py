"""Movement, powers and SR-STE against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse._step import passed_on, refined, signed_power
from tests.support.cases import UNITS, normal, units_of

KEY = jax.random.key(0)


# Movement


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "make",
    [
        lambda u: js.Movement(density=0.5, unit=u),
        lambda u: js.SoftMovement(lam=0.0, tau=0.5, unit=u),
    ],
)
def test_scores_receive_the_gradient_times_the_weight(make, unit) -> None:
    """dW = G M,  dS_u = sum over the unit of G W, also where M is 0."""
    rule = make(unit)
    w, g = normal(0, 5, 8), normal(1, 5, 8)
    made = rule.init(w, KEY)
    made |= {"scores": jax.random.normal(KEY, made["scores"].shape)}
    grads = jax.grad(lambda w, s: (rule.apply(w, made | {"scores": s}) * g).sum(), (0, 1))
    dw, ds = grads(w, made["scores"])
    mask, scores = np.asarray(rule.mask(w, made)), np.asarray(made["scores"])
    np.testing.assert_allclose(dw, g * mask, atol=1e-6)
    kept = [scores[place] for place, inside in units_of(unit, w.shape) if mask[inside].all()]
    for place, inside in units_of(unit, w.shape):
        assert ds[place] == pytest.approx(float((g * w)[inside].sum()), abs=1e-4)
        assert (mask[inside] == (scores[place] >= min(kept))).all()
    assert 0 < len(kept) < scores.size


def test_movement_keeps_what_helps_though_it_starts_small() -> None:
    """Five inputs of twenty matter. Their weights start at 0.1, the others at 1."""
    w = jnp.where(jnp.arange(20) < 5, 0.1, 1.0)[:, None]
    x = normal(0, 256, 20)
    y = x[:, :5].sum(1, keepdims=True)
    layer = nnx.Linear(20, 1, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = w
    curve = js.schedule.cubic(1.0, 0.25, 20, 150)
    model = js.sparsify(layer, ("kernel", js.Movement(density=curve)))
    optimizer = js.Optimizer(model, optax.sgd(0.03))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: ((m(x) - y) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(300)]
    np.testing.assert_array_equal(model.kernel.read_mask()[:, 0], np.arange(20) < 5)
    assert losses[-1] < 1e-3 * losses[0]
    assert float(model.kernel.step[...]) == 300


def test_density_follows_its_curve() -> None:
    for scope in (js.Whole(), js.WholeModel()):
        rule = js.Movement(density=js.schedule.cubic(1.0, 0.1, 0, 10), scope=scope)
        model = js.sparsify(nnx.Linear(10, 10, rngs=nnx.Rngs(0)), ("kernel", rule))
        kept = []
        for _ in range(12):
            kept.append(int(model.kernel.read_mask().sum()))
            model = js.advance(model)
        want = [max(1, round(100 * float(rule.density(jnp.array(t))))) for t in range(12)]
        assert kept == want and kept[-1] == 10


def test_the_first_mask_favors_no_rows() -> None:
    """Of 400 equal scores 100 are kept at random: each quarter 25 +- 5 standard deviations."""
    rule, w = js.Movement(density=0.25), jnp.ones((20, 20))
    made = rule.init(w, KEY)
    assert float(jnp.abs(made["scores"]).max()) < 1e-18
    mask = np.asarray(rule.mask(w, made)).reshape(4, 100)
    assert mask.sum() == 100
    assert (np.abs(mask.sum(1) - 25) < 5 * np.sqrt(25 * 0.75 * 0.75)).all()


def test_soft_movement_charges_the_mean_score_and_keeps_a_few_of_each_layer() -> None:
    rule = js.SoftMovement(lam=2.0, least=0.02)
    w = normal(0, 10, 10)
    made = rule.init(w, KEY)
    assert rule.mask(w, made).all()
    assert float(rule.cost(made)) == pytest.approx(2.0 * 0.5)
    np.testing.assert_allclose(jax.grad(rule.cost)(made)["scores"], 2.0 * 0.25 / 100, rtol=1e-5)
    scores = -9.0 - jnp.arange(100.0).reshape(10, 10)
    np.testing.assert_array_equal(np.flatnonzero(rule.mask(w, {"scores": scores})), [0, 1])


# Powerpropagation


@pytest.mark.parametrize("alpha", [1.0, 1.375, 3.0])
def test_powerpropagation_starts_as_the_dense_model(alpha: float) -> None:
    layer = nnx.Linear(6, 5, rngs=nnx.Rngs(0))
    model = js.sparsify(layer, ("kernel", js.Powerpropagation(alpha=alpha)))
    np.testing.assert_allclose(model.kernel.read(), layer.kernel[...], rtol=1e-5)
    theta, g = model.kernel.weight[...], normal(1, 6, 5)
    grad = jax.grad(lambda m: (m.kernel.read() * g).sum())(model).kernel.weight[...]
    np.testing.assert_allclose(grad, g * alpha * np.abs(theta) ** (alpha - 1), rtol=1e-4)
    half = js.Powerpropagation(alpha=alpha, density=0.5)
    pruned = js.sparsify(js.fold(model), ("kernel", half)).kernel
    want = np.asarray(js.Top(density=0.5).mask(layer.kernel[...], {}))
    np.testing.assert_array_equal(pruned.read_mask(), want)
    np.testing.assert_allclose(pruned.read(), layer.kernel[...] * want, rtol=1e-5)


@pytest.mark.parametrize(("alpha", "slope"), [(1.0, 1.0), (1.5, 0.0), (2.0, 0.0)])
def test_powers_have_finite_gradients_at_0(alpha: float, slope: float) -> None:
    assert float(jax.grad(signed_power)(0.0, alpha)) == slope
    assert float(jax.jvp(lambda x: signed_power(x, alpha), (0.0,), (1.0,))[1]) == slope


def test_a_power_cannot_be_taken_twice() -> None:
    model = js.sparsify(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), ("kernel", js.Powerpropagation()))
    with pytest.raises(ValueError, match=r"kernel: Powerpropagation .* fold the model first"):
        js.sparsify(model, ("kernel", js.Top(density=0.5)))


# SR-STE


@pytest.mark.parametrize("unit", [js.Weight(), js.Filter()])
def test_masked_weights_decay(unit) -> None:
    """dW = G + decay (1 - M) W; each read adds the decay, `resolve` reads once."""
    rule = js.SRSTE(density=0.5, decay=0.1, unit=unit, scope=js.Whole())
    w, g = normal(0, 4, 6), normal(1, 4, 6)
    mask = np.asarray(rule.mask(w, {}))
    assert mask.sum() == 12
    decay = 0.1 * (1 - mask) * w
    once = jax.grad(lambda w: (rule.apply(w, {}) * g).sum())(w)
    twice = jax.grad(lambda w: (rule.apply(w, {}) * g + rule.apply(w, {}) * g).sum())(w)
    np.testing.assert_allclose(once, g + decay, atol=1e-6)
    np.testing.assert_allclose(twice, 2 * g + 2 * decay, atol=1e-5)
    free = js.SRSTE(density=0.5, decay=0.0, unit=unit)
    np.testing.assert_array_equal(jax.grad(lambda w: (free.apply(w, {}) * g).sum())(w), g)


def test_n_of_m_is_kept() -> None:
    mask = js.SRSTE(density=0.5, scope=js.Groups(4)).mask(normal(0, 8, 3), {})
    np.testing.assert_array_equal(np.asarray(mask).reshape(2, 4, 3).sum(1), 2)


def test_refined_maps_and_refuses_forward_mode() -> None:
    w, m = normal(0, 3, 4), jnp.ones((3, 4))
    rows = jax.vmap(lambda w, m: jax.grad(lambda w: refined(w, m, 0.5).sum())(w))(w, 0 * m)
    np.testing.assert_allclose(rows, 1 + 0.5 * w, rtol=1e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda w: refined(w, m, 0.5), (w,), (w,))


def test_a_mask_is_passed_on_unchanged() -> None:
    mask, score = jnp.array([0.0, 1.0]), jnp.array([1e30, -3e-20])
    value, pull = jax.vjp(passed_on, mask, score)
    np.testing.assert_array_equal(value, mask)
    np.testing.assert_array_equal(pull(jnp.array([5.0, 7.0])), [[0, 0], [5, 7]])
