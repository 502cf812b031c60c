"""LogME against the evidence itself, LEEP and NCE against sums by hand, and rankings of models."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.report import leep, logme, nce, transfer
from jsparse.report._logme import _by_singular_values, _columns, _maximum

RNG = np.random.default_rng(0)


def drawn(samples: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and classes that depend on three of them."""
    f = RNG.standard_normal((samples, width))
    return f, (f[:, :3] + RNG.standard_normal((samples, 3))).argmax(1)


FULL, LABELS = drawn(100, 12)
WIDE, FEW = drawn(40, 90)
TARGETS = FULL[:, :2] @ RNG.standard_normal((2, 2)) + 0.1 * RNG.standard_normal((100, 2))
CASES = {
    "more samples": (FULL, LABELS),
    "more features": (WIDE, FEW),
    "zero columns": (np.hstack([FULL[:, :8], np.zeros((100, 4))]), LABELS),
    "copied columns": (np.hstack([FULL, FULL[:, :5]]), LABELS),
    "a constant column": (np.hstack([FULL, np.ones((100, 1))]), LABELS),
    "scale 1000": (1e3 * FULL, LABELS),
    "scale 0.001": (1e-3 * FULL, LABELS),
    "nothing to find": (FULL[:, 6:], RNG.integers(0, 3, 100)),
    "regression": (FULL, TARGETS),
    "little noise": (FULL, TARGETS * 1e-3),
}


def evidence(f: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """log N(y; 0, F F^T / alpha + I / beta) / N, from the covariance itself."""
    covariance = f @ f.T / alpha + np.eye(len(f)) / beta
    spread = np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y)
    return -0.5 * (spread / len(f) + math.log(2 * math.pi))


def directly(f: np.ndarray, y: np.ndarray) -> float:
    """The highest evidence, by Nelder-Mead from several starts, in the covariance's own axes."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    values, axes = np.linalg.eigh(f @ f.T)
    along = (axes.T @ y) ** 2

    def cost(point: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(point, -40, 40))
        variance = np.maximum(values, 0) / alpha + 1 / beta
        return 0.5 * (np.log(2 * np.pi * variance) + along / variance).mean()

    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 2000}
    starts = [(a, b) for a in (-2.0, 4.0) for b in (0.0, 8.0)]
    return -min(minimize(cost, s, method="Nelder-Mead", options=options).fun for s in starts)


@pytest.mark.parametrize("case", CASES)
def test_the_evidence_is_the_highest(case: str) -> None:
    f, targets = CASES[case]
    found, y = logme(f, targets), _columns(targets, len(f))
    assert found.score == pytest.approx(np.mean([directly(f, one) for one in y.T]), abs=1e-6)
    slowly = _maximum(_by_singular_values(f, y), len(f))
    assert found.score == pytest.approx(slowly.evidence.mean() / len(f), abs=1e-7)


@pytest.mark.parametrize("case", ["more samples", "more features", "regression", "zero columns"])
def test_alpha_beta_and_weights_are_those_of_the_model(case: str) -> None:
    f, targets = CASES[case]
    found, y = logme(f, targets), _columns(targets, len(f))
    at = [evidence(f, *one) for one in zip(y.T, found.alpha, found.beta, strict=True)]
    assert np.mean(at) == pytest.approx(found.score, abs=1e-8)
    for n, (alpha, beta) in enumerate(zip(found.alpha, found.beta, strict=True)):
        precision = alpha * np.eye(f.shape[1]) + beta * f.T @ f
        expected = beta * np.linalg.solve(precision, f.T @ y[:, n])
        np.testing.assert_allclose(found.weights[:, n], expected, atol=1e-8)


def test_dead_features_and_scale_change_nothing() -> None:
    score = logme(FULL, LABELS).score
    dead = np.hstack([FULL, np.zeros((100, 30))])
    for f in (dead, 1e5 * FULL, 1e-200 * FULL, 1e200 * FULL, FULL[:, ::-1]):
        assert logme(f, LABELS).score == pytest.approx(score, abs=1e-9)
    found = logme(FULL, TARGETS)
    far = logme(FULL, 1e3 * TARGETS)
    assert far.score == pytest.approx(found.score - math.log(1e3), abs=1e-9)
    np.testing.assert_allclose(far.weights, 1e3 * found.weights, rtol=1e-5)
    np.testing.assert_allclose(far.beta, 1e-6 * found.beta, rtol=1e-6)


def test_targets_without_noise_have_a_finite_score() -> None:
    exact = FULL @ RNG.standard_normal((12, 1))
    noisy = [exact + s * RNG.standard_normal((100, 1)) for s in (1e-6, 1e-3, 1.0)]
    scores = [logme(FULL, y).score for y in (exact, *noisy)]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    assert math.isfinite(logme(np.zeros((4, 3)), [0, 1, 0, 1]).score)


def test_the_digits_have_the_known_score() -> None:
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    found = logme(images / 16, labels)
    assert found.score == pytest.approx(0.2703, abs=5e-5)
    assert ((images / 16 @ found.weights).argmax(1) == labels).mean() > 0.9
    single = logme(jnp.asarray(images / 16, jnp.bfloat16), jnp.asarray(labels))
    assert single.score == pytest.approx(found.score, abs=0.01)


def test_truth_values_are_two_classes() -> None:
    p, y = RNG.dirichlet(np.ones(3), 20), np.arange(20) % 3 == 0
    whole = y.astype(int)
    assert logme(p, y).score == logme(p, whole).score == logme(p, jnp.asarray(y)).score
    assert leep(p, y) == leep(p, whole) and nce(y, ~y) == nce(whole, 1 - whole)


def test_leep_and_nce_are_the_sums_of_their_papers() -> None:
    p = RNG.dirichlet(np.ones(5), 40)
    y = np.arange(40) % 3
    joint = np.zeros((3, 5))
    for row, one in zip(p, y, strict=True):
        joint[one] += row / 40
    terms = [
        math.log(sum(joint[one, z] / joint[:, z].sum() * row[z] for z in range(5)))
        for row, one in zip(p, y, strict=True)
    ]
    assert leep(p, y) == pytest.approx(np.mean(terms))
    hard = np.eye(5)[p.argmax(1)]
    assert leep(hard, y) == pytest.approx(nce(p.argmax(1), y))  # one source class for sure
    assert leep(np.hstack([p, np.zeros((40, 2))]), y) == pytest.approx(leep(p, y))
    assert nce(y + 7, y) == pytest.approx(0)
    assert nce(np.zeros(40, int), y) == pytest.approx(
        sum(n * math.log(n) for n in (0.35, 0.325, 0.325))
    )


class Net(nnx.Module):
    """A hidden layer and dropout, of which evaluation shows nothing."""

    def __init__(self) -> None:
        self.fc = nnx.Linear(6, 12, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def features(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.fc(x)))


def test_models_are_ranked_at_several_densities(capsys: pytest.CaptureFixture) -> None:
    dense = Net()
    thin = lambda d: js.sparsify(dense, (".*/kernel", js.Top(density=d)))
    models = {"1 %": thin(0.01), "dense": dense, "half": thin(0.5)}
    x = jax.random.normal(jax.random.key(0), (80, 6))
    y = np.asarray(x[:, :2].argmax(1))
    found = transfer(models, nnx.jit(Net.features), x, y)
    scores = {name: logme(nnx.relu(model.fc(x)), y).score for name, model in models.items()}
    assert {n: row.score for n, row in found.rows.items()} == pytest.approx(scores, abs=1e-5)
    assert list(found.rows) == sorted(scores, key=scores.get, reverse=True)
    assert found.best == "dense" and dense.dropout.deterministic is False
    row = found.rows["1 %"]
    assert (row.features, row.live, row.parameters, row.density) == (12, 1, 13, 1 / 72)
    assert json.loads(json.dumps(found.to_dict()))["half"]["parameters"] == 48
    assert str(found).splitlines()[0].split()[:4] == ["model", "LogME", "features", "live"]


def test_what_goes_wrong_names_the_model() -> None:
    x, y = jnp.ones((4, 6)), [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"row 0, column 0 \(model 'a'\)"):
        transfer({"a": Net()}, lambda model, x: model.features(x) * jnp.nan, x, y)
    with pytest.raises(TypeError, match="features of model 'a' must be"):
        transfer({"a": Net()}, lambda model, x: model.features(x[:, :2]), x, y)
    with pytest.raises(ZeroDivisionError) as raised:
        transfer({"a": Net()}, lambda model, x: x / (1 // 0), x, y)
    assert raised.value.__notes__ == ["raised by features of model 'a'"]
    with pytest.raises(ValueError, match="without class 1: renumber"):
        logme(x, [0, 2, 0, 2])
