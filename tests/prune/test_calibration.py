"""Calibration in one sweep: the authors' results, each operation once, few values at hand.

The expected weights are in golden/calibration.npz beside this file; golden/calibration.py makes
them with the authors' code, a checkout of github.com/locuslab/wanda.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._pattern import Groups, PerOutput, Whole
from jsparse.prune._inputs import _windows, from_matrices, matrices
from jsparse.prune._sweep import Group, Sweep, cut
from tests.support.sampled import one_in
from tests.support.zoo import modules

pytestmark = pytest.mark.standard_dtypes
GOLDEN = np.load(Path(__file__).parent / "golden" / "calibration.npz")
LAYERS = ("q", "k", "v", "o", "up", "down")
METHODS = {"wanda": js.prune.wanda, "sparsegpt": js.prune.sparsegpt}
CASES = {
    "wanda": ("wanda", PerOutput()),
    "wanda 2:4": ("wanda", Groups(4)),
    "sparsegpt": ("sparsegpt", Whole()),
    "sparsegpt 2:4": ("sparsegpt", Groups(4)),
}


def norm(x: Any, np: Any = jnp) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


class Block(nnx.Module):
    """The block of golden/calibration.py, with its weights."""

    def __init__(self, number: int, rngs: nnx.Rngs):
        for name in LAYERS:
            kernel = GOLDEN[f"before/{number}/{name}"].T
            layer = nnx.Linear(*kernel.shape, use_bias=False, rngs=rngs)
            layer.kernel[...] = jnp.asarray(kernel)
            setattr(self, name, layer)

    def __call__(self, x: Array) -> Array:
        h = norm(x)
        weights = nnx.softmax(self.q(h) @ self.k(h).mT / h.shape[-1] ** 0.5)
        x = x + self.o(weights @ self.v(h))
        return x + self.down(nnx.relu(self.up(norm(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.blocks = modules([Block(n, rngs) for n in range(2)])

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


def held(model: nnx.Module, pattern: str = ".*kernel") -> nnx.Module:
    return js.sparsify(model, (pattern, js.Held()))


@pytest.mark.parametrize("case", one_in(2, CASES))
def test_the_authors_code_prunes_the_same_weights(case: str) -> None:
    """Block by block, as theirs does, in the same order of attributes."""
    method, scope = CASES[case]
    batches = list(jnp.asarray(GOLDEN["inputs"]))
    small = METHODS[method](
        held(Transformer(nnx.Rngs(0))), batches, density=0.5, scope=scope, together=r"blocks/\d+"
    )
    for path, part in js.prune.held_parts(small).items():
        _, block, layer, _ = path.split("/")
        theirs = GOLDEN[f"{case}/{block}/{layer}"].T
        np.testing.assert_array_equal(part.read_mask() > 0, theirs != 0)
        np.testing.assert_allclose(part.read(), theirs, rtol=2e-3, atol=2e-4)


def test_weight_by_weight_in_float64() -> None:
    """Wanda with loops over layers and sorts, each layer after the pruned ones before it."""
    w = {key: GOLDEN[f"before/{key}"].T.astype(np.float64) for key in _keys()}
    masks = {}

    def prune(key: str, x: np.ndarray) -> np.ndarray:
        score = np.abs(w[key]) * np.linalg.norm(x.reshape(-1, x.shape[-1]), axis=0)[:, None]
        masks[key] = np.argsort(np.argsort(-score, axis=0), axis=0) < len(score) // 2
        return x @ (w[key] * masks[key])

    x = GOLDEN["inputs"].astype(np.float64)
    for n in range(2):
        h = norm(x, np)
        q, k, v = (prune(f"{n}/{name}", h) for name in "qkv")
        weights = np.exp(q @ k.transpose(0, 2, 1) / h.shape[-1] ** 0.5)
        x = x + prune(f"{n}/o", weights / weights.sum(-1, keepdims=True) @ v)
        x = x + prune(f"{n}/down", np.maximum(prune(f"{n}/up", norm(x, np)), 0))
    small = js.prune.wanda(
        held(Transformer(nnx.Rngs(0))), list(jnp.asarray(GOLDEN["inputs"])), density=0.5
    )
    for key, mask in masks.items():
        np.testing.assert_array_equal(js.masks(small)[f"blocks/{key}/kernel"], mask)
    assert any((masks[key] != (GOLDEN[f"wanda/{key}"].T != 0)).any() for key in _keys())


def _keys() -> list[str]:
    return [f"{n}/{name}" for n in range(2) for name in LAYERS]


class Counted(nnx.Module):
    """Pairs of layers that say when they really run."""

    def __init__(self, depth: int, runs: list[int], rngs: nnx.Rngs):
        pair = lambda: modules([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.blocks = modules([pair() for _ in range(depth)])

        def note(x: np.ndarray) -> np.ndarray:
            runs.append(1)
            return x

        self.note = note  # a function, since copies of the model would have lists of their own

    def __call__(self, x: Array) -> Array:
        for layer in (layer for block in self.blocks for layer in block):
            x = jnp.tanh(
                layer(jax.pure_callback(self.note, jax.ShapeDtypeStruct(x.shape, x.dtype), x))
            )
        return x


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_an_operation_runs_once_on_each_batch(method: str, depth: int) -> None:
    """Or twice if it reads a pruned weight of its block, and a later block needs it."""
    runs: list[int] = []
    model = held(Counted(depth, runs, nnx.Rngs(0)))
    batches = [jax.random.normal(jax.random.key(n), (5, 8)) for n in range(3)]
    METHODS[method](model, batches, density=0.5)
    assert len(runs) == 3 * 2 * depth
    runs.clear()
    METHODS[method](model, batches, density=0.5, together=r"blocks/\d+")
    assert len(runs) == 3 * (depth + 2 * depth - 1)
    runs.clear()
    METHODS[method](model, batches, density=0.5, together="")
    assert len(runs) == 3 * 2 * depth


def test_means_of_units_need_one_pass() -> None:
    runs: list[int] = []
    model = Counted(3, runs, nnx.Rngs(0))
    batches = [jax.random.normal(jax.random.key(n), (5, 8)) for n in range(2)]
    score = js.prune.Minimum(js.prune.activations(jnp.tanh, "blocks/0/0", "blocks/2/1"), batches)
    score(model, {"blocks/0/0/kernel": (8,), "blocks/2/1/kernel": (8,)})
    assert len(runs) == 2 * 6


def chain(depth: int) -> tuple[Callable, dict[str, Array]]:
    """A deep net as a function of its weights, with a sum of squares before each layer."""
    weights = {f"{n:02}": jnp.eye(16) * 0.9 for n in range(depth)}

    def function(weights: dict[str, Array], x: Array) -> dict[str, Array]:
        found = {}
        for path in weights:
            found[path] = (x**2).sum(0)
            x = x + jnp.tanh(x @ weights[path])
        return found

    return function, weights


@pytest.mark.parametrize("depth", [3, 12])
def test_values_are_freed_after_their_last_use(depth: int) -> None:
    """Between two parts one array of each batch is alive, whatever the depth."""
    function, weights = chain(depth)
    batches = [np.full((1000, 16), n + 1, np.float32) for n in range(2)]
    sweep = Sweep(function, weights, batches)
    long = lambda: sum(a.nbytes for a in jax.live_arrays() if a.shape == (1000, 16))
    before = long()
    alive = [long() - before for _ in sweep.run([([path], [path]) for path in weights])]
    assert len(alive) == depth and max(alive) == 2 * 1000 * 16 * 4


def test_equal_blocks_are_compiled_once_and_nothing_runs_twice() -> None:
    function, weights = chain(9)
    (trace,) = Sweep(function, weights, [jnp.ones((4, 16))]).traces.values()
    number = dict(zip(weights, trace.inputs, strict=False))
    result = trace.results
    parts = cut(trace.ops, [Group([result[path]], [number[path]]) for path in weights])
    assert len(set(parts)) == 3  # the first, the last and the others
    done = [id(op) for part in parts for op in part.ops]
    assert len(done) == len(set(done)) <= len(trace.ops)
    (whole,) = cut(trace.ops, [Group(list(result.values()), [])])
    assert sorted(map(id, whole.ops)) == sorted(done)


CONVOLUTIONS = {
    "same": ((6, 5), (3, 3), {}),
    "strides": ((7, 6), (3, 2), {"strides": (2, 3), "padding": "VALID"}),
    "dilation": ((9, 8), (3, 3), {"kernel_dilation": 2, "padding": ((1, 0), (2, 3))}),
    "input dilation": ((4, 4), (2, 2), {"input_dilation": 2, "padding": ((1, 1), (0, 2))}),
    "circular": ((5, 5), (3, 3), {"padding": "CIRCULAR"}),
    "causal": ((9,), (3,), {"padding": "CAUSAL"}),
    "groups": ((6, 5), (3, 3), {"feature_group_count": 2}),
    "depthwise": ((6, 5), (3, 3), {"feature_group_count": 4}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_windows_times_the_kernel_are_the_convolution(case: str) -> None:
    places, window, settings = CONVOLUTIONS[case]
    layer = nnx.Conv(4, 8, window, use_bias=False, rngs=nnx.Rngs(0), **settings)
    x = jax.random.normal(jax.random.key(0), (2, 3, *places, 4))  # two axes of batches
    part = held(layer).kernel
    rows = _windows(layer, x)
    kernel = matrices(part, part.weight[...], rows.shape[0])
    np.testing.assert_array_equal(from_matrices(part, kernel), part.weight[...])
    product = np.einsum("gni,gio->ngo", rows, kernel)
    y = np.asarray(layer(x))
    np.testing.assert_allclose(product.reshape(-1, 8), y.reshape(-1, 8), rtol=1e-4, atol=1e-5)
    assert layer.conv_general_dilated is jax.lax.conv_general_dilated


@pytest.mark.parametrize("groups", one_in(2, [2, 1]))
@pytest.mark.parametrize("method", METHODS)
def test_a_convolution_is_pruned_as_dense_layers_on_its_windows(method: str, groups: int) -> None:
    layer = nnx.Conv(4, 6, (3, 3), feature_group_count=groups, use_bias=False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 4)) * jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]])
    small = METHODS[method](held(layer), [x[:2], x[2:]], density=0.5)
    rows = _windows(layer, x)
    part = small.kernel
    split = lambda array: matrices(part, array, groups)
    for n in range(groups):
        dense = nnx.Linear(rows.shape[-1], 6 // groups, use_bias=False, rngs=nnx.Rngs(0))
        dense.kernel[...] = matrices(part, layer.kernel[...], groups)[n]
        alone = METHODS[method](held(dense), [rows[n]], density=0.5)
        np.testing.assert_array_equal(split(part.read_mask())[n], alone.kernel.read_mask())
        np.testing.assert_allclose(split(part.read())[n], alone.kernel.read(), rtol=2e-3, atol=2e-4)


@jax.custom_vjp
def cubed(x: Array) -> Array:
    return x + x**3


cubed.defvjp(lambda x: (cubed(x), x), lambda x, g: (g * (1 + 3 * x**2),))


class Wrapped(nnx.Module):
    """Three layers, of which one is called in a way of its own."""

    def __init__(self, way: Callable, rngs: nnx.Rngs):
        self.first, self.second, self.third = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.way = way

    def __call__(self, x: Array) -> Array:
        x = self.drop(self.way(self.first, x))
        x = cubed(nnx.silu(self.way(self.second, x)))
        return self.third(x)


def twice(layer: Callable, x: Array) -> Array:
    return layer(jnp.tanh(layer(x)))


WAYS = {
    "plain": lambda layer, x: layer(x),
    "jit": nnx.jit(lambda layer, x: layer(x)),
    "remat": nnx.remat(lambda layer, x: layer(x)),
    "cond": lambda layer, x: nnx.cond(x.sum() < 1e9, lambda m, x: m(x), lambda m, x: x, layer, x),
    "shared": twice,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_any_model_as_if_it_ran_again_for_each_weight(way: str, method: str) -> None:
    """The reference prunes one weight, stores it, and runs the whole model for the next one."""
    prune = METHODS[method]
    batches = [jax.random.normal(jax.random.key(n), (9, 8)) for n in range(2)]
    model = Wrapped(WAYS[way], nnx.Rngs(0))
    small = prune(held(model), batches, density=0.5)
    for name in ("first", "second", "third"):
        one = prune(held(model, f"{name}/kernel"), batches, density=0.5)
        masks = js.masks(small)[f"{name}/kernel"], js.masks(one)[f"{name}/kernel"]
        np.testing.assert_array_equal(*masks)
        model = js.fold(one)
        np.testing.assert_allclose(
            getattr(small, name).kernel[...], getattr(model, name).kernel[...], rtol=2e-3, atol=2e-4
        )


@pytest.mark.parametrize("method", METHODS)
def test_batches_split_over_devices(method: str) -> None:
    """The same masks on one device and on eight."""
    model = held(Wrapped(WAYS["plain"], nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (16, 8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    found = [METHODS[method](model, [b], density=0.5) for b in (x, jax.device_put(x, where))]
    for path, mask in js.masks(found[0]).items():
        np.testing.assert_array_equal(mask, js.masks(found[1])[path])
