"""Pruning trained models in one shot: exact solutions, reference loops, patterns, order."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._pattern import Each, Groups, PerOutput, Whole, WholeModel
from tests.support.cases import Shared, Stacked

pytestmark = pytest.mark.standard_dtypes  # flax's attention needs it
METHODS = {"wanda": js.prune.wanda, "sparsegpt": js.prune.sparsegpt}


def held(model: nnx.Module) -> nnx.Module:
    return js.sparsify(model, (".*kernel", js.Held()))


def linear(inputs: int, outputs: int, seed: int = 0) -> nnx.Module:
    return held(nnx.Linear(inputs, outputs, rngs=nnx.Rngs(seed)))


def correlated(n: int, inputs: int, seed: int = 0) -> Array:
    """Inputs of different size that depend on each other."""
    keys = jax.random.split(jax.random.key(seed), 3)
    size = jnp.exp(jax.random.normal(keys[2], (1, inputs)))
    mix = jax.random.normal(keys[0], (inputs, inputs)) * size
    return jax.random.normal(keys[1], (n, inputs)) @ mix


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """As the layers read them, float64."""
    return {p: np.asarray(part, np.float64) for p, part in js.prune.held_parts(model).items()}


def sparsegpt_by_hand(
    w: np.ndarray, x: np.ndarray, density: float, block: int, m: int, damping: float = 0.01
) -> np.ndarray:
    """Algorithm 1 of the paper with sorts, [inputs, outputs] in float64; m = 0 for a block."""
    w, x = np.array(w, np.float64), np.asarray(x, np.float64)
    h = x.T @ x
    h += damping * np.diag(h).mean() * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    for start in range(0, len(w), block):
        stop = min(start + block, len(w))
        mask = np.ones((stop - start, w.shape[1]))
        for i in range(start, stop):
            size = m or stop - start
            if (i - start) % size == 0:
                score = w[i : i + size] ** 2 / np.diag(upper)[i : i + size, None] ** 2
                columns = score.T if m else score.reshape(1, -1)
                ranks = np.argsort(np.argsort(-columns, axis=1), axis=1)
                best = ranks < round(density * columns.shape[1])
                mask[i - start : i - start + size] = best.T if m else best.reshape(score.shape)
            error = w[i] * (1 - mask[i - start]) / upper[i, i]
            w[i:] -= np.outer(upper[i, i:], error)
            w[i] *= mask[i - start]
    return w


def test_wanda_is_weight_times_norm_within_each_output() -> None:
    model, x = linear(8, 5), correlated(20, 8)
    w = weights(model)["kernel"]
    score = np.abs(w) * np.linalg.norm(x, axis=0)[:, None]
    by_hand = np.argsort(np.argsort(-score, axis=0), axis=0) < 4
    small = js.prune.wanda(model, [x], density=0.5)
    np.testing.assert_array_equal(js.masks(small)["kernel"], by_hand)
    np.testing.assert_array_equal(weights(small)["kernel"], w * by_hand)
    assert not (by_hand == (np.argsort(np.argsort(-np.abs(w), axis=0), axis=0) < 4)).all()


@pytest.mark.parametrize(("block", "m"), [(128, 0), (5, 0), (128, 4), (4, 2)])
def test_sparsegpt_is_the_algorithm_of_the_paper(block: int, m: int) -> None:
    """Blocks, also a ragged last one, and groups."""
    model, x = linear(12, 6), correlated(64, 12)
    w = weights(model)["kernel"]
    scope = Groups(m) if m else Whole()
    small = js.prune.sparsegpt(model, [x], density=0.5, block=block, scope=scope)
    by_hand = sparsegpt_by_hand(w, np.asarray(x), 0.5, block, m)
    np.testing.assert_array_equal(js.masks(small)["kernel"], by_hand != 0)
    np.testing.assert_allclose(weights(small)["kernel"], by_hand, rtol=2e-3, atol=2e-4)


def test_sparsegpt_is_least_squares_where_the_first_inputs_fall() -> None:
    """Then all that falls can be made up for by all that stays: the exact solution."""
    model, x = linear(6, 2), correlated(40, 6)
    model.kernel[...] = model.kernel[...] * jnp.array([[0.01], [0.01], [0.01], [9.0], [9.0], [9.0]])
    w = weights(model)["kernel"]
    small = weights(js.prune.sparsegpt(model, [x], density=0.5, damping=0.0))["kernel"]
    exact = np.linalg.lstsq(x[:, 3:], np.asarray(x, np.float64) @ w, rcond=None)[0]
    assert (small[:3] == 0).all()
    np.testing.assert_allclose(small[3:], exact, rtol=1e-3)


def test_sparsegpt_restores_what_the_masked_model_computes() -> None:
    """In a second round, or after training: what is stored under the mask is not part of it."""
    model, x = linear(12, 6), correlated(64, 12)
    model = js.prune.random(model, density=0.5, key=jax.random.key(1))
    rest = 1 - model.kernel.mask[...]
    again = js.prune.sparsegpt(model, [x], density=1.0)
    np.testing.assert_allclose(*(weights(m)["kernel"] for m in (again, model)), atol=1e-6)
    small = js.prune.sparsegpt(model, [x], density=0.25)
    model.kernel[...] = model.kernel[...] + rest * 1e3
    other = js.prune.sparsegpt(model, [x], density=0.25)
    np.testing.assert_array_equal(*(weights(m)["kernel"] for m in (other, small)))


def test_sparsegpt_keeps_outputs_better_than_wanda_and_wanda_than_magnitude() -> None:
    model, x = linear(32, 16), correlated(200, 32)
    target = x @ weights(model)["kernel"]
    for scope in (PerOutput(), Groups(4)):
        top = js.hold(js.sparsify(js.fold(model), ("kernel", js.Top(density=0.5, scope=scope))))
        whole = scope if isinstance(scope, Groups) else Whole()
        ways = [
            top,
            js.prune.wanda(model, [x], density=0.5, scope=scope),
            js.prune.sparsegpt(model, [x], density=0.5, scope=whole),
        ]
        errors = [float(((x @ weights(w)["kernel"] - target) ** 2).sum()) for w in ways]
        assert errors[0] > errors[1] > 1.2 * errors[2]


class Block(nnx.Module):
    """Of a transformer, with dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.out = nnx.Linear(16, 8, rngs=rngs)  # made first, called last
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.inner = nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.drop(self.attention(x))
        return x + self.out(nnx.gelu(self.inner(x)))


@pytest.fixture(scope="module")
def pruned() -> dict[str, nnx.Module]:
    with jax.numpy_dtype_promotion("standard"):
        x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        run = lambda way: way(held(Block(nnx.Rngs(0))), [x], density=0.5, scope=Groups(4))
        return {name: run(way) for name, way in METHODS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_n_of_m_holds_in_each_layer_of_a_transformer(method: str, pruned: dict) -> None:
    model = pruned[method]
    masks = js.masks(model)
    assert len(masks) == 6
    for path, mask in masks.items():
        inputs = (2, 4) if "attention/out" in path else (mask.shape[0],)
        groups = mask.reshape(-1, 4, mask.size // np.prod(inputs))
        assert (groups.sum(1) == 2).all()
    assert type(model.out) is nnx.Linear and not model.drop.deterministic  # as it was given
    assert jnp.isfinite(model(jnp.ones((1, 3, 8)))).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_sees_what_the_pruned_ones_before_it_give(method: str) -> None:
    """In the order of the calls, not of the attributes."""
    model, way = held(Block(nnx.Rngs(0))), METHODS[method]
    x = jax.random.normal(jax.random.key(1), (4, 6, 8))
    small = way(model, [x], density=0.5)
    plain = js.fold(small)
    plain.eval()
    hidden = x + plain.attention(x)
    for layer, seen in (("inner", hidden), ("out", nnx.gelu(plain.inner(hidden)))):
        alone = way(held(getattr(js.fold(model), layer)), [seen], density=0.5)
        np.testing.assert_array_equal(js.masks(small)[f"{layer}/kernel"], js.masks(alone)["kernel"])
        np.testing.assert_allclose(
            getattr(small, layer).kernel[...], alone.kernel[...], rtol=2e-3, atol=2e-4
        )


@pytest.mark.parametrize("method", METHODS)
def test_batches_add_up_and_masked_weights_stay_masked(method: str) -> None:
    model, x = linear(8, 4), correlated(48, 8)
    model = js.hold(model, {"kernel": jnp.ones((8, 4)).at[2].set(0.0)})
    whole = METHODS[method](model, [x], density=0.5)
    parts = METHODS[method](model, iter(jnp.split(x, 3)), density=0.5)
    np.testing.assert_array_equal(*(js.masks(m)["kernel"] for m in (whole, parts)))
    np.testing.assert_allclose(*(weights(m)["kernel"] for m in (whole, parts)), rtol=1e-3)
    assert (weights(whole)["kernel"][2] == 0).all()
    assert int(js.masks(whole)["kernel"].sum()) == 16
    assert int(js.masks(model)["kernel"].sum()) == 28  # the model given stays


def test_sparsegpt_drops_inputs_that_are_always_0() -> None:
    model, x = linear(8, 4), correlated(40, 8).at[:, :3].set(0.0)
    small = weights(js.prune.sparsegpt(model, [x], density=0.625))["kernel"]
    assert (small[:3] == 0).all() and (small[3:] != 0).all()
    np.testing.assert_allclose(small[3:], weights(model)["kernel"][3:], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_stacked_and_tied_layers(method: str) -> None:
    x = jax.random.normal(jax.random.key(0), (10, 4))
    stacked = held(Stacked(nnx.Rngs(0)))
    small = METHODS[method](stacked, [x], density=0.5)
    assert js.masks(small)["layers/kernel"].sum((1, 2)).tolist() == [8, 8, 8]
    first = held(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
    first.kernel.weight[...] = stacked.layers.kernel.weight[...][0]
    alone = METHODS[method](first, [x], density=0.5)
    np.testing.assert_array_equal(js.masks(small)["layers/kernel"][0], js.masks(alone)["kernel"])

    shared = held(Shared(nnx.Rngs(0)))
    tied = METHODS[method](shared, [x], density=0.5)
    assert tied.first.kernel is tied.second.kernel
    both = jnp.concatenate([x, jnp.tanh(shared.first(x))])  # it sees the inputs of both places
    alone = METHODS[method](held(js.fold(shared).first), [both], density=0.5)
    np.testing.assert_array_equal(js.masks(tied)["first/kernel"], js.masks(alone)["kernel"])


X = jnp.ones((2, 8))
REFUSED: dict[str, tuple[Callable, str]] = {
    "density": (lambda way, m: way(m, [X], density=0.0), "fraction of weights kept"),
    "no batch": (lambda way, m: way(m, [], density=0.5), "no batches"),
    "empty batch": (
        lambda way, m: way(m, [X, X[:0]], density=0.5),
        r"kernel gets no inputs: an array float32\[0, 8\]; leave empty batches out",
    ),
    "nan": (lambda way, m: way(m, [jnp.nan * X], density=0.5), "kernel: its inputs are not finite"),
    "not called": (
        lambda way, m: way(m, [X], density=0.5, forward=lambda model, x: x),
        "kernel: no layer that reads it is called",
    ),
    "other layer": (
        lambda way, m: way(held(nnx.ConvTranspose(2, 3, (3,), rngs=nnx.Rngs(0))), [X], density=0.5),
        "kernel of ConvTranspose is not pruned by its inputs",
    ),
    "groups": (lambda way, m: way(m, [X], density=0.5, scope=Groups(3), **more(way)), "multiple"),
    "whole model": (lambda way, m: way(m, [X], density=0.5, scope=WholeModel()), "Whole()"),
    "expression": (
        lambda way, m: way(m, [X], density=0.5, together="("),
        "not a regular expression",
    ),
    "nowhere": (
        lambda way, m: way(m, [X], density=0.5, together="blocks"),
        "matches no path; available: kernel",
    ),
    "each": (lambda way, m: way(m, [X], density=0.5, scope=Each()), "Whole()"),
}


def more(way: Callable) -> dict:
    return {"block": 6} if way is js.prune.sparsegpt else {}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_refused(method: str, case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(METHODS[method], linear(8, 4))


@pytest.mark.parametrize("method", METHODS)
def test_whole_numbers_are_inputs_like_floats(method: str) -> None:
    """Such as pixels, which the layers themselves convert."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8), np.uint8)
    kept = [
        js.masks(METHODS[method](linear(8, 4), [batch], density=0.5))["kernel"]
        for batch in (pixels, pixels.astype(np.float32))
    ]
    np.testing.assert_array_equal(*kept)


def test_an_error_names_the_batch_that_fails() -> None:
    with pytest.raises((TypeError, ValueError), match=r"fails with an array float32\[2, 7\]"):
        js.prune.wanda(linear(8, 4), [X, X[:, :7]], density=0.5)


def test_what_sparsegpt_refuses() -> None:
    model = linear(8, 4)
    gpt = lambda **more: js.prune.sparsegpt(model, [X], density=0.5, **more)
    with pytest.raises(ValueError, match=r"too similar.*raise damping, now 0"):
        gpt(damping=0.0)
    with pytest.raises(ValueError, match="damping must be a number, 0 or more"):
        gpt(damping=-1.0)
    with pytest.raises(ValueError, match="multiple of the group size 4"):
        gpt(block=6, scope=Groups(4))
