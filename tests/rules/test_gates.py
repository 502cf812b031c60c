"""Learned gates and soft thresholds against their formulas; what gated rules refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

import jsparse as js
from tests.support.cases import UNITS, normal, units_of

KEY = jax.random.key(0)


# L0


def test_gates_are_0_and_1_as_often_as_the_distribution_says() -> None:
    """Closed forms, beta = 2/3, over 1e5 gates: 5 standard deviations.

    Wrong for 5 keys in a million.
    """
    n, beta = 100_000, 2 / 3
    rule = js.HardConcrete(lam=1.0)
    for log_a in (-2.0, 0.0, 3.0):
        made = rule.init(jnp.ones(n), KEY) | {"logits": jnp.full(n, log_a)}
        z = np.asarray(rule.apply(jnp.ones(n), made))
        for found, want in [
            ((z == 0).mean(), expit(beta * np.log(0.1 / 1.1) - log_a)),
            ((z == 1).mean(), expit(log_a - beta * np.log(1.1 / 0.1))),
            # between: P(z <= 1/4), from s = (1/4 + 0.1) / 1.2
            ((z <= 0.25).mean(), expit(beta * logit(0.35 / 1.2) - log_a)),
        ]:
            assert abs(found - want) < 5 * np.sqrt(want * (1 - want) / n)
        open_ = float(rule.cost(made)) / n
        assert open_ == pytest.approx(1 - expit(beta * np.log(0.1 / 1.1) - log_a), rel=1e-4)
        np.testing.assert_array_equal(rule.mask(jnp.ones(n), made), z > 0)


@pytest.mark.parametrize("unit", UNITS)
def test_an_open_gate_costs_its_weights(unit) -> None:
    """cost and its gradient: lam |u| p and lam |u| p (1 - p), with p = P(z > 0)."""
    rule = js.HardConcrete(lam=0.1, unit=unit)
    w = normal(0, 5, 6)
    made = rule.init(w, KEY)
    p = expit(np.asarray(made["logits"]) - 2 / 3 * np.log(0.1 / 1.1))
    size = np.zeros_like(p)
    for place, inside in units_of(unit, w.shape):
        size[place] = w[inside].size
    assert size.sum() == w.size
    grads = jax.grad(rule.cost)(made)
    np.testing.assert_allclose(rule.cost(made), (0.1 * size * p).sum(), rtol=1e-5)
    np.testing.assert_allclose(grads["logits"], 0.1 * size * p * (1 - p), rtol=1e-4)
    assert (np.asarray(grads["price"]) == 0).all()


def test_a_gate_is_differentiable_where_it_is_neither_0_nor_1() -> None:
    rule = js.HardConcrete(lam=1.0)
    w, made = normal(0, 8, 8), rule.init(normal(0, 8, 8), KEY)
    read = lambda logits: rule.apply(w, made | {"logits": logits})
    h = 1e-2
    quotient = (read(made["logits"] + h) - read(made["logits"] - h)) / (2 * h)
    slope = jax.grad(lambda logits: read(logits).sum())(made["logits"])
    z = np.asarray(read(made["logits"]) / w)
    inner = (z > 0.02) & (z < 0.98)
    assert inner.any() and not inner.all()
    np.testing.assert_allclose(slope[inner], quotient[inner], atol=1e-3)
    assert (np.asarray(slope)[(z == 0) | (z == 1)] == 0).all()


def test_each_step_draws_anew_and_testing_draws_nothing() -> None:
    rule = js.HardConcrete(lam=1.0)
    w = jnp.ones((30, 30))
    first = rule.init(w, KEY)
    second = rule.advance(w, first)
    one, two = (np.asarray(rule.apply(w, s)).ravel() for s in (first, second))
    np.testing.assert_array_equal(one, np.asarray(rule.apply(w, first)).ravel())
    # 900 gates at nearly equal logits: 5 standard deviations
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(900)
    del first["draw"]
    mean = np.clip(expit(np.asarray(first["logits"])) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(rule.apply(w, first), mean, rtol=1e-5)


def test_logits_start_at_the_given_rate_and_stay_within_their_limits() -> None:
    rule = js.HardConcrete(lam=1.0, start=0.8)
    w = jnp.ones((50, 40))
    made = rule.init(w, KEY)
    noise = np.asarray(made["logits"]) - logit(0.8)
    assert abs(noise.mean()) < 5e-2 / np.sqrt(2000)
    assert noise.std() == pytest.approx(1e-2, rel=0.1)
    after = rule.advance(w, made | {"logits": jnp.linspace(-9.0, 9.0, 2000).reshape(50, 40)})
    assert np.exp(after["logits"]).min() == pytest.approx(0.01, rel=1e-5)
    assert np.exp(after["logits"]).max() == pytest.approx(100, rel=1e-5)
    np.testing.assert_array_equal(after["price"], made["price"])


# STR


def shrunk(w: np.ndarray, g: np.ndarray, unit) -> np.ndarray:
    """W (1 - g / rms) above g, else 0, unit by unit, in float64; g: [grid], broadcastable."""
    out = np.zeros(w.shape)
    for place, inside in units_of(unit, w.shape):
        rms = np.sqrt((w[inside] ** 2).mean())
        at = tuple(0 if n == 1 else i for i, n in zip(place, g.shape, strict=True))
        out[inside] = w[inside] * max(0.0, 1 - g[at] / rms) if rms else 0.0
    return out


SHARED = {js.Whole(): (1, 1), js.PerOutput(): (1, -1), js.Each(): (-1, -1)}


@pytest.mark.parametrize("scope", SHARED)
@pytest.mark.parametrize("unit", UNITS)
def test_soft_thresholds_and_their_gradients(unit, scope) -> None:
    """The formula and its finite differences, in float64 by numpy."""
    rule = js.SoftThreshold(unit=unit, scope=scope, decay=0.0)
    w, upstream = normal(0, 4, 8), np.asarray(normal(1, 4, 8), np.float64)
    s = rule.init(w, KEY)["s"]
    s = 0.3 * jax.random.normal(KEY, s.shape)
    tile = unit.tile(w.shape, js.Role())
    grid = [-(-n // t) for n, t in zip(w.shape, tile, strict=True)]
    axes = [n if shared == -1 else 1 for n, shared in zip(grid, SHARED[scope], strict=True)]

    def formula(w, s):
        return shrunk(w, expit(s).reshape(axes), unit)

    now, at = np.asarray(w, np.float64), np.asarray(s, np.float64)

    @jax.jit
    def run(w, s, upstream):
        read, pull = jax.vjp(lambda w, s: rule.apply(w, {"s": s}), w, s)
        return read, rule.mask(w, {"s": s}), pull(upstream)

    read, mask, grads = run(w, s, jnp.asarray(upstream, jnp.float32))
    np.testing.assert_allclose(read, formula(now, at), atol=1e-5)
    np.testing.assert_array_equal(mask, formula(now, at) != 0)
    for which, (got, values) in enumerate(zip(grads, (now, at), strict=True)):
        want = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = [now.copy(), at.copy()]
                moved[which][place] += h
                ends.append((formula(*moved) * upstream).sum())
            want[place] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_single_weights_shrink_by_the_threshold() -> None:
    rule, w = js.SoftThreshold(), normal(0, 9, 9)
    made = {"s": jnp.array(-0.5)}
    want = np.sign(w) * np.maximum(np.abs(w) - expit(-0.5), 0)
    np.testing.assert_allclose(rule.apply(w, made), want, atol=1e-6)


def test_s_decays_as_weights_do_and_a_low_one_is_dense() -> None:
    rule, w = js.SoftThreshold(s_init=-3200.0, decay=0.01), normal(0, 3, 4)
    made = rule.init(w, KEY)
    np.testing.assert_array_equal(rule.apply(w, made), w)
    assert float(jax.grad(rule.cost)(made)["s"]) == pytest.approx(0.01 * -3200)


@pytest.mark.parametrize("s_init", [-3200.0, -1.0])
@pytest.mark.parametrize("unit", UNITS)
def test_units_of_zeros_have_no_nan(unit, s_init: float) -> None:
    rule = js.SoftThreshold(unit=unit, s_init=s_init)
    w = jnp.zeros((4, 8)).at[:2, :4].set(1.0)
    made = rule.init(w, KEY)
    read, pull = jax.vjp(rule.apply, w, made)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((read, pull(w + 1.0))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: js.HardConcrete(lam=-1.0), "lam must be a number, 0 or more; got -1"),
        (lambda: js.HardConcrete(lam=float("nan")), "got nan"),
        (lambda: js.HardConcrete(lam=1.0, start=1.0), r"in \(0, 1\); got 1"),
        (lambda: js.HardConcrete(lam=1.0, scope=js.Whole()), r"Top\(.*scope=Whole\(\)\) or Gibbs"),
        (lambda: js.SoftThreshold(decay=-1.0), "decay must be a number, 0 or more"),
        (lambda: js.SoftThreshold(s_init=float("-inf")), "finite number"),
        (lambda: js.SoftThreshold(scope=js.Groups(2)), "use PerOutput"),
        (lambda: js.Movement(density=0.0), r"in \(0, 1\]; got 0"),
        (lambda: js.Movement(density=0.5, scope=js.Each()), "Movement would keep all"),
        (lambda: js.SoftMovement(lam=1.0, tau=1.0), "tau must be a number in"),
        (lambda: js.SoftMovement(lam=1.0, least=0.0), r"in \(0, 1\]"),
        (lambda: js.SoftMovement(lam=-1.0), "lam must be a number, 0 or more"),
        (lambda: js.Powerpropagation(alpha=0.5), "1 or more; got 0.5"),
        (lambda: js.Powerpropagation(density=2.0), r"in \(0, 1\]; got 2"),
        (lambda: js.SRSTE(density=0.5, decay=-1.0), "decay must be a number, 0 or more"),
        (lambda: js.SRSTE(density=0.5, scope=js.Each()), "SRSTE would keep all"),
    ],
)
def test_bad_input(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1,)])
def test_small_and_empty_weights(shape: tuple) -> None:
    for rule in (
        js.HardConcrete(lam=1.0, unit=js.Filter()),
        js.SoftThreshold(unit=js.Filter()),
        js.Movement(density=0.5, unit=js.Filter()),
        js.SoftMovement(lam=1.0),
        js.Powerpropagation(density=0.5),
        js.SRSTE(density=0.5),
    ):
        w = jnp.ones(shape)
        made = rule.init(w, KEY)
        assert rule.apply(made.pop("weight", w), made).shape == shape
        assert np.isfinite(rule.cost(made))
        assert rule.advance(w, made).keys() == made.keys()
