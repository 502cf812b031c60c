"""LAMB, LARS and their routing, against the papers' formulas in numpy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

pytestmark = pytest.mark.standard_dtypes


class Net(nnx.Module):
    """Every kind of parameter: weights, biases, normalization, attention, a raw one."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)
        self.raw = nnx.Param(jnp.ones((3, 3)))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        return self.out(self.norm(x + self.attend(x))) @ self.raw[...]


def moved(model: nnx.Module, tx: optax.GradientTransformation, steps: int = 1) -> dict:
    """The change of each parameter after steps with gradients of 1, by path."""
    optimizer = js.Optimizer(model, tx)
    start = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for _ in range(steps):
        step(model, optimizer, ones)
    change = jax.tree.map(
        lambda a, b: np.asarray(a - b), nnx.to_pure_dict(nnx.state(model, nnx.Param)), start
    )
    leaves = jax.tree_util.tree_leaves_with_path(change)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): leaf for k, leaf in leaves}


def test_only_weights_of_layers_are_scaled() -> None:
    model = js.sparsify(Net(nnx.Rngs(0)), ("(out|attend/query)/kernel", js.Threshold()))
    change = moved(model, js.route(model, optax.sgd(1.0), optax.sgd(0.5)))
    scaled = {path for path, step in change.items() if np.allclose(step, -1.0)}
    rest = {path for path, step in change.items() if np.allclose(step, -0.5)}
    attend = {f"attend/{name}/kernel" for name in ("key", "value", "out")}
    assert scaled == attend | {
        "attend/query/kernel/weight", "embed/embedding", "out/kernel/weight", "raw"
    }  # fmt: skip
    assert rest == set(change) - scaled
    assert {"attend/query/kernel/threshold", "attend/query/bias", "norm/scale"} <= rest


def lamb_step(w: np.ndarray, g: np.ndarray, decay: float, low: float, high: float) -> np.ndarray:
    """The first step of LAMB at rate 1; the bias-corrected moments are g and g^2."""
    u = g / (np.abs(g) + 1e-6) + decay * w
    return -np.clip(np.linalg.norm(w), low, high) / np.linalg.norm(u) * u


@pytest.mark.parametrize("bounds", [(0.0, float("inf")), (0.0, 0.5), (9.0, 10.0)])
def test_lamb_steps_as_the_paper_says(bounds: tuple[float, float]) -> None:
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    w = np.asarray(model.kernel[...])
    change = moved(model, js.lamb(model, 1.0, weight_decay=0.1, bounds=bounds))
    want = lamb_step(w, np.ones_like(w), 0.1, *bounds)
    np.testing.assert_allclose(change["kernel"], want, rtol=1e-5)
    np.testing.assert_allclose(change["bias"], -1.0, rtol=1e-5)


def test_later_steps_of_lamb_keep_their_moments() -> None:
    model = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    w = np.asarray(model.kernel[...], np.float64)
    change = moved(model, js.lamb(model, 0.1, weight_decay=0.0), steps=3)
    new = w.copy()
    for _ in range(3):
        new += 0.1 * lamb_step(new, np.ones_like(w), 0.0, 0.0, np.inf)
    np.testing.assert_allclose(change["kernel"], new - w, rtol=1e-4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_steps_as_the_paper_says(nesterov: bool) -> None:
    model = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    w = np.asarray(model.kernel[...], np.float64)
    change = moved(model, js.lars(model, 2.0, weight_decay=0.1, nesterov=nesterov), steps=3)
    new, velocity, g = w.copy(), np.zeros_like(w), np.ones_like(w)
    for _ in range(3):
        size, slope = np.linalg.norm(new), np.linalg.norm(g)
        step = 2.0 * 1e-3 * size / (slope + 0.1 * size) * (g + 0.1 * new)
        velocity = 0.9 * velocity + step
        new -= 0.9 * velocity + step if nesterov else velocity
    np.testing.assert_allclose(change["kernel"], new - w, rtol=1e-4)


def test_each_layer_of_a_stack_has_its_own_ratio() -> None:
    @nnx.vmap
    def stack(key: jax.Array) -> nnx.Linear:
        return nnx.Linear(4, 3, rngs=nnx.Rngs(key))

    model = stack(jax.random.split(jax.random.key(0), 2))
    model.kernel[...] = model.kernel[...] * jnp.array([1.0, 100.0])[:, None, None]
    w = np.asarray(model.kernel[...])
    change = moved(model, js.lamb(model, 1.0, weight_decay=0.0))
    for n in range(2):
        want = lamb_step(w[n], np.ones_like(w[n]), 0.0, 0.0, np.inf)
        np.testing.assert_allclose(change["kernel"][n], want, rtol=1e-5)
    np.testing.assert_allclose(change["bias"], -1.0, rtol=1e-5)  # [2, 3], yet no weight


def test_thresholds_freeze_under_the_plain_optimizer_and_move_under_ours() -> None:
    def threshold(make: Callable[[nnx.Module], optax.GradientTransformation]) -> float:
        model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Threshold()))
        return float(np.abs(moved(model, make(model), steps=100)["kernel/threshold"]).max())

    assert threshold(lambda _: optax.lamb(1e-2)) < 0.05
    assert threshold(lambda _: optax.lars(1e-2)) < 0.2
    assert threshold(lambda model: js.lamb(model, 1e-2)) == pytest.approx(1.0, rel=0.01)
    ours = threshold(lambda model: js.lars(model, 1e-2, rest_learning_rate=1e-2))
    assert ours == pytest.approx(1.0, rel=0.01)


def test_a_tree_is_routed_by_its_names() -> None:
    params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    learned = {"dense/kernel": {"threshold": jnp.ones((2, 3))}}
    for tree in (params, (params, learned)):
        tx = js.route(tree, optax.sgd(1.0), optax.sgd(2.0))
        step, _ = tx.update(jax.tree.map(jnp.ones_like, tree), tx.init(tree), tree)
        got = step[0] if isinstance(tree, tuple) else step
        assert float(got["dense"]["kernel"][0, 0]) == -1.0
        assert float(got["dense"]["bias"][0]) == -2.0
    assert float(step[1]["dense/kernel"]["threshold"][0, 0]) == -2.0


def test_the_rate_grows_with_the_root_of_the_batch() -> None:
    numbers = {"samples": 4096, "epochs": 8.0, "at_batch": 64, "warmup_epochs": 0.5}
    small = js.batch_schedule(64, learning_rate=0.1, **numbers)
    large = js.batch_schedule(256, learning_rate=0.1, **numbers)
    assert float(small(32)) == pytest.approx(0.1)  # half an epoch of 64 steps
    assert float(large(32)) == pytest.approx(0.2)  # two epochs of 16 steps
    assert float(large(16)) == pytest.approx(0.1)
    assert float(large(80)) == pytest.approx(0.1)  # half way down
    assert float(large(128)) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: js.lamb(m, 1.0, bounds=(2.0, 1.0)), "bounds must be a lower and a higher norm"),
        (lambda m: js.lamb({"bias": jnp.ones(3)}, 1.0), "no weights of layers"),
        (lambda m: js.route(nnx.LayerNorm(3, rngs=nnx.Rngs(0)), optax.sgd(1.0), optax.sgd(1.0)),
         "no weights of layers"),
        (lambda m: js.batch_schedule(0, samples=1, epochs=1, learning_rate=1, at_batch=1,
                                     warmup_epochs=0), "batch must be a whole number"),
        (lambda m: js.batch_schedule(8, samples=8, epochs=2, learning_rate=1, at_batch=1,
                                     warmup_epochs=1), "has 2 steps and the warm-up 8"),
    ],
)  # fmt: skip
def test_errors(call: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
