"""Recall: top-k attention over stored results, by hand, and inside a network of several passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._recall import _highest
from jsparse.layers import Recall
from tests.support.zoo import modules

KEYS = jax.random.split(jax.random.key(0), 2)
RUN = nnx.jit(lambda model, x: model(x))
H, MEMORY = jax.random.normal(KEYS[0], (3, 2, 6)), jax.random.normal(KEYS[1], (5, 3, 2, 6))


def by_hand(layer: Recall, h: np.ndarray, memory: np.ndarray, top: int) -> np.ndarray:
    """The layer's formula, one position and head at a time."""
    q, k, v = (np.asarray(p.kernel[...]) for p in (layer.query, layer.key, layer.value))
    out = np.asarray(layer.out.kernel[...])
    normed = np.asarray(layer.norm(h))
    result = np.array(h, np.float64)
    for place in np.ndindex(h.shape[:-1]):
        for head in range(q.shape[1]):
            query = normed[place] @ q[:, head]
            scores = np.array([query @ (s[place] @ k[:, head]) for s in memory]) / q.shape[2] ** 0.5
            best = np.argsort(-scores)[:top]
            a = np.exp(scores[best] - scores.max())
            read = sum(
                w * (memory[n][place] @ v[:, head]) for w, n in zip(a / a.sum(), best, strict=True)
            )
            result[place] += float(layer.gate[...]) * (read @ out[head])
    return result


def made(top: int, gate: float = 0.5) -> Recall:
    return Recall(6, heads=2, head_features=3, top=top, gate=gate, rngs=nnx.Rngs(0))


def test_it_is_its_formula_and_dense_attention_where_top_is_all() -> None:
    call = nnx.jit(lambda layer, h, memory: layer(h, memory))
    for top in (2, 5):
        layer = made(top)
        expected = by_hand(layer, np.asarray(H), np.asarray(MEMORY), top)
        np.testing.assert_allclose(layer(H, MEMORY), expected, atol=1e-6)
        np.testing.assert_allclose(call(layer, H, list(MEMORY)), expected, atol=1e-6)
    layer = made(9)
    heads = lambda x: jnp.moveaxis(x, 0, -3)  # results are the keys of each position
    dense = nnx.dot_product_attention(
        layer.query(layer.norm(H))[..., None, :, :],
        heads(layer.key(MEMORY)),
        heads(layer.value(MEMORY)),
    )
    np.testing.assert_allclose(
        layer(H, MEMORY), H + 0.5 * layer.out(dense[..., 0, :, :]), atol=1e-6
    )


def test_a_memory_may_be_of_numpy_or_a_list_of_flax() -> None:
    layer = made(2)
    expected = layer(H, MEMORY)
    for memory in (np.asarray(MEMORY), list(np.asarray(MEMORY)), modules(list(MEMORY))):
        np.testing.assert_array_equal(layer(H, memory), expected)
        np.testing.assert_array_equal(layer.weights(H, memory), layer.weights(H, MEMORY))


@pytest.mark.standard_dtypes  # a layer norm mixes them
def test_whole_numbers_are_read_like_floats() -> None:
    layer, h, memory = made(2), jnp.arange(12).reshape(2, 6), jnp.arange(36).reshape(3, 2, 6) % 5
    expected = layer(h.astype(jnp.float32), memory.astype(jnp.float32))
    np.testing.assert_allclose(layer(h, memory), expected, atol=1e-6)


def test_each_head_reads_exactly_the_top() -> None:
    layer = made(3)
    for memory in (MEMORY, jnp.ones_like(MEMORY), jnp.zeros_like(MEMORY)):  # ties too
        weights = layer.weights(H, memory)
        assert weights.shape == (5, 3, 2, 2)
        assert ((weights > 0).sum(0) == 3).all()
        np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    equal = jnp.array([1.0, 2.0, 1.0, 2.0, 1.0])[:, None]
    assert _highest(equal, 3)[:, 0].tolist() == [True, True, False, True, False]
    assert (layer.weights(H, MEMORY[:2]) > 0).all()  # fewer than top


class Net(nnx.Module):
    """Three modules, run in passes; `memory` holds what they gave."""

    def __init__(self, gate: float, passes: int):
        rngs, self.passes = nnx.Rngs(0), passes
        self.parts = modules([nnx.Linear(6, 6, rngs=rngs) for _ in range(3)])
        self.recalls = modules(
            [Recall(6, heads=2, head_features=3, top=2, gate=gate, rngs=rngs) for _ in range(3)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        memory: list[jax.Array] = []
        h = x
        for _ in range(self.passes):
            h = x
            for part, recall in zip(self.parts, self.recalls, strict=True):
                h = nnx.relu(part(recall(h, memory)))
                memory.append(h)
        return h


def test_two_passes_without_reading_are_one_repeated() -> None:
    once, twice, read = Net(0.0, 1), Net(0.0, 2), Net(0.5, 2)
    expected = RUN(once, H)
    np.testing.assert_allclose(RUN(twice, H), expected, atol=1e-7)
    assert jnp.abs(RUN(read, H) - expected).max() > 1e-3
    recall = made(2)
    np.testing.assert_array_equal(recall(H, []), H)  # the first module has nothing to read


def test_gradients_reach_earlier_results_queries_and_keys() -> None:
    layer = made(2, gate=0.1)
    slope = jax.grad(lambda memory: (layer(H, memory) ** 2).sum())(MEMORY)
    read = (layer.weights(H, MEMORY) > 0).any(-1)  # results that no head reads get none
    np.testing.assert_array_equal(jnp.abs(slope).max(-1) > 0, read)
    grads = nnx.jit(nnx.grad(lambda net: (net(H) ** 2).sum()))(Net(0.1, 1))
    by_name = nnx.to_pure_dict(grads)["recalls"][2]
    assert all(jnp.abs(by_name[n]["kernel"]).max() > 0 for n in ("query", "key", "value", "out"))
    assert abs(by_name["gate"]) > 0


def test_its_kernels_become_sparse_and_fold() -> None:
    net = js.sparsify(Net(0.5, 1), ("recalls/.*/kernel", js.Top(density=0.25)))
    assert len(js.masks(net)) == 12 and js.summary(net).density == pytest.approx(0.25, abs=0.05)
    np.testing.assert_allclose(RUN(js.fold(net), H), RUN(net, H), atol=1e-6)
