"""Proximal steps: solutions of convex problems, the conditions of the prox, zeros that shrink."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from sklearn import linear_model

import jsparse as js
from jsparse._tiles import pool
from jsparse.optim._proximal import prox
from jsparse.optim._response import initial_state, next_state, response
from tests.support.sampled import one_in

pytestmark = pytest.mark.standard_dtypes
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(40, 8)) * np.geomspace(0.3, 2.0, 8)).astype(np.float32)
Y = (X[:, [1, 5]] @ RNG.normal(size=(2, 3)) + 0.3 * RNG.normal(size=(40, 3))).astype(np.float32)
WIDE = X.astype(float), Y.astype(float)
ALPHA = 0.15
STEPS = 1500
RATE = optax.cosine_decay_schedule(0.05, STEPS, 1e-3)
TRANSFORMS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.02, momentum=0.8),
    "nesterov": optax.sgd(0.02, momentum=0.8, nesterov=True),
    "adam": optax.adam(RATE),
    "slow averages": optax.adam(RATE, b1=0.5, b2=0.9),
    "adamw": optax.adamw(RATE, weight_decay=0.0),
    "nadam": optax.nadam(RATE),
    "radam": optax.radam(RATE),
    "amsgrad": optax.amsgrad(RATE),
    "adamax": optax.adamax(RATE),
    "adagrad": optax.adagrad(0.3),
    "rmsprop": optax.rmsprop(RATE),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(RATE),
    "clipped": optax.clip(1e3),
}


def solved(tx: optax.GradientTransformation) -> np.ndarray:
    """The weights that minimize |Y - X w|^2 / 2 / rows + penalty, [8, 3], by many steps."""
    loss = lambda tree: ((X @ tree["a"]["kernel"] - Y) ** 2).sum() / 2 / len(X)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        tree, state = carry
        moves, state = tx.update(jax.grad(loss)(tree), state, tree)
        return (optax.apply_updates(tree, moves), state), None

    tree: Any = {"a": {"kernel": jnp.ones((8, 3))}}
    run = jax.jit(lambda carry: lax.scan(step, carry, None, length=STEPS)[0])
    return np.asarray(run((tree, tx.init(tree)))[0]["a"]["kernel"])


@pytest.mark.parametrize("name", one_in(2, TRANSFORMS))
def test_lasso_has_the_known_solution_under_every_transform(name: str) -> None:
    tx = TRANSFORMS[name]
    tx = optax.chain(tx, optax.sgd(0.1)) if name == "clipped" else tx
    want = linear_model.Lasso(ALPHA, fit_intercept=False, tol=1e-8).fit(*WIDE).coef_.T
    got = solved(js.optim.proximal(tx, (".*/kernel", ALPHA)))
    np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_array_equal(got == 0, want == 0)
    assert 0 < (want == 0).sum() < want.size


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_group_lasso_has_the_known_solution(name: str) -> None:
    want = linear_model.MultiTaskLasso(ALPHA, fit_intercept=False, tol=1e-8).fit(*WIDE).coef_.T
    pair = (".*/kernel", ALPHA / 3**0.5)  # 3 weights in a channel
    got = solved(js.optim.proximal(TRANSFORMS[name], pair, unit=js.Channel()))
    np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_array_equal(got == 0, want == 0)
    assert 0 < (want == 0).sum() < want.size


@pytest.mark.parametrize("unit", [js.Filter(), js.Channel(), js.Block((4, 3)), js.Kernel()])
def test_the_prox_meets_its_conditions_in_any_metric(unit: js.Block) -> None:
    shape = (3, 7, 5)
    tile = unit.tile(shape, js.Role())
    z = RNG.normal(size=shape).astype(np.float32)
    step = np.exp(RNG.normal(-2, 3, shape)).astype(np.float32)  # from 1e-5 to 100
    step[0, 0], z[1, 1] = 0.0, 0.0
    x = np.asarray(prox(jnp.asarray(z), jnp.asarray(step), tile), np.float64)
    per = lambda a: np.asarray(pool(jnp.asarray(a, jnp.float32), tile))
    whole = lambda a: np.asarray(
        jax.vjp(lambda w: pool(w, tile), jnp.ones(shape))[1](jnp.asarray(a, jnp.float32))[0]
    )  # spreads
    a = step * np.sqrt(whole(per(np.ones(shape))))
    norm = np.sqrt(whole(per(x**2)))
    kept = norm > 0
    assert kept.any()
    slack = (x - z) + a * x / np.where(kept, norm, 1.0)
    np.testing.assert_allclose(np.where(kept, slack, 0) / (1 + a), 0, atol=2e-5)
    force = per(np.where(z == 0, 0, z / np.where(a > 0, a, 1e-12)) ** 2)
    np.testing.assert_array_equal(whole(force)[~kept] <= 1.0 + 1e-5, True)
    np.testing.assert_array_equal(whole(force)[kept] > 1.0 - 1e-5, True)


REFUSED = {
    "lamb": optax.lamb(1e-3),
    "lars": optax.lars(1e-3),
    "lion": optax.lion(1e-3),
    "sign": optax.sign_sgd(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "rmsprop with momentum": optax.rmsprop(1e-3, momentum=0.9),
    "coupled": optax.chain(optax.centralize(), optax.sgd(0.1)),
    "mask by path": optax.adamw(1e-3, mask={"kernel": True}),
    "no rate": optax.scale_by_adam(),
    "accumulation inside": optax.MultiSteps(optax.adam(1e-3), 2),
    "partition inside": optax.partition({"a": optax.sgd(0.1)}, "a"),
    "normalized": optax.chain(optax.normalize_by_update_norm(), optax.scale(-1.0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_transform_whose_step_cannot_be_told_is_refused(name: str) -> None:
    tx = js.optim.proximal
    with pytest.raises(
        ValueError, match=r"cannot determine the step of tx: (.|\n)*MultiSteps, partition"
    ):
        tx(REFUSED[name], ("kernel", 0.1))


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(nnx.relu(self.a(x)))


@nnx.jit
def train_step(model: Any, optimizer: Any) -> None:
    loss = lambda model: ((model(X) - Y) ** 2).mean() + js.cost(model)
    optimizer.update(model, nnx.grad(loss)(model))


def around(model: nnx.Module) -> dict[str, Any]:
    """The places that a proximal transform may have; rates for the filters of `a`."""
    new = lambda: js.optim.proximal(optax.adam(1e-2), ("a/kernel.*", 0.1), unit=js.Filter())
    labels = lambda params: jax.tree_util.tree_map_with_path(
        lambda keys, _: "a" if "'a'" in jax.tree_util.keystr(keys[:1]) else "b",
        params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )
    return {
        "stock": nnx.Optimizer(model, new(), wrt=nnx.Param),
        "parts": js.Optimizer(model, optax.MultiSteps(new(), 2).gradient_transformation()),
        "partition": js.Optimizer(
            model, optax.partition({"a": new(), "b": optax.sgd(0.05)}, labels)
        ),
        "route": js.Optimizer(model, js.route(model, new(), optax.adam(1e-2))),
    }


@pytest.mark.parametrize("place", ["stock", "parts", "partition", "route"])
def test_zeros_make_the_model_smaller_wherever_the_transform_stands(place: str) -> None:
    model = Net()
    optimizer = around(model)[place]
    for _ in range(200):
        train_step(model, optimizer)
    alive = np.asarray((model.a.kernel[...] != 0).any(0))
    assert 0 < alive.sum() < 16 and (model.b.kernel[...] != 0).all()
    assert (np.asarray(model.a.kernel[...] != 0) == alive).all()  # whole filters
    small, _ = js.shrink(model, jnp.asarray(X))
    assert small.a.kernel.shape == (8, alive.sum())
    x = jnp.asarray(X)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_weight_under_a_rule_moves_and_all_else_stays_as_it_was() -> None:
    decayed = optax.adamw(1e-2, weight_decay=0.5)  # of thresholds too, but for jsparse.Optimizer
    near = js.optim.proximal(decayed, ("a/kernel/weight", 0.1), unit=js.Filter())
    found = []
    for tx in (near, decayed):
        model = js.sparsify(Net(), ("a/kernel", js.Threshold(alpha=1e-3)))
        model.a.kernel.threshold[...] = jnp.full(16, 0.1)
        train_step(model, js.Optimizer(model, tx))
        found.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    weights = [tree["a"]["kernel"].pop("weight") for tree in found]
    jax.tree.map(np.testing.assert_array_equal, *found)
    shrunk = np.linalg.norm(weights[0], axis=0) / np.linalg.norm(weights[1], axis=0)
    assert (shrunk < 1).all()


def test_the_step_is_that_of_adam_in_any_scale_of_gradients() -> None:
    tx = optax.adam(3e-3)
    weight, ones, state = jnp.ones(4), initial_state(tx), tx.init(jnp.ones(4))
    for count in range(1, 4):
        gradient = jnp.asarray(RNG.normal(size=4) * np.array([0.0, 1e-5, 1.0, 1e4]), jnp.float32)
        after: Any = tx.update(gradient, state, weight)[1]
        got = response(tx, state, after, ones, weight, {})
        want = 3e-3 / (np.sqrt(np.asarray(after[0].nu) / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(got, want, rtol=1e-4)
        state, ones = after, next_state(tx, ones)


def test_bad_patterns_and_units_are_refused_by_path() -> None:
    tree = {"kernel": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match="matches no parameter; nearest: kernel"):
        js.optim.proximal(optax.sgd(0.1), ("kernle", 0.1)).init(tree)
    with pytest.raises(ValueError, match="kernel: Head"):
        js.optim.proximal(optax.sgd(0.1), ("kernel", 0.1), unit=js.Head()).init(tree)
    tx = js.optim.proximal(optax.sgd(0.1), ("kernel", 0.1))
    with pytest.raises(ValueError, match="needs the weights"):
        tx.update(tree, tx.init(tree))


def test_a_strength_may_grow_along_a_curve() -> None:
    grows = js.schedule.cubic(0.0, 0.5, 0, 4)
    tx = js.optim.proximal(optax.sgd(0.1), ("w", grows))
    weights, still = {"w": jnp.array([1.0, -0.05])}, {"w": jnp.zeros(2)}
    state, expected = tx.init(weights), np.array([1.0, -0.05])
    for count in range(6):
        moves, state = tx.update(still, state, weights)
        weights = optax.apply_updates(weights, moves)
        threshold = 0.1 * 0.5 * (1 - (1 - min(count / 4, 1)) ** 3)
        expected = np.sign(expected) * np.maximum(np.abs(expected) - threshold, 0)
        np.testing.assert_allclose(weights["w"], expected, rtol=1e-6)
    assert expected[1] == 0 < expected[0]
