"""Packed layers of int8 give what the dequantized dense layer gives, and take little room."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from safetensors.numpy import load_file, save_file

import jsparse as js
from jsparse._storage import manifest
from jsparse.export import (
    BlockSparseInt8,
    CsrInt8,
    DamagedModel,
    blocks,
    csr,
    int8,
    load,
    pack,
    pallas_dot,
    restore,
    save,
    stablehlo,
    unpack,
)
from jsparse.export._packing import compiled
from jsparse.export._packing.structure import CsrInt8Sizes
from tests.support.packing import draw, linear, matrix, needs_compiler
from tests.support.saved import net
from tests.support.zoo_cases import outputs

FORMATS = {
    "csr": int8(csr()),
    "csr in groups": int8(csr(16)),
    "blocks": int8(blocks((8, 4))),
    "ragged": int8(blocks((7, 5))),
}
SMALL = {"float32": 1e-6, "bfloat16": 2e-2, "float16": 2e-3}


@pytest.fixture(params=["kernel", "plain"])
def product(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(compiled, "load", lambda: False)


def off(found: Any, expected: Any) -> float:
    found, expected = np.float64(found), np.float64(expected)
    return abs(found - expected).max() / abs(expected).max()


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_and_gradients_are_those_of_the_dequantized_layer(name, product):
    layer = linear(matrix(300, 37))
    packed = pack(layer, FORMATS[name])
    dense, x = unpack(packed), jnp.asarray(draw(67, 300, seed=4))

    @jax.jit
    def run(x):
        found = []
        for model in (packed, dense):
            ours = lambda x, model=model: (model(x) ** 2).mean()
            found.append([model(x), jax.grad(ours)(x), *(model(x[:n]) for n in (0, 1, 3, 20))])
        batches = jax.vmap(packed, 1, 1)(x.reshape(1, 67, 300)[:, :4])
        return found, batches

    (ours, expected), batches = run(x)
    assert [off(a, b) < 1e-5 for a, b in zip(ours, expected, strict=True) if a.size] == [True] * 5
    assert ours[2].shape == (0, 37) and off(batches[0], expected[0][:4]) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_sums_are_wide(name, dtype, product):
    """100 weights of 127 times inputs of 10 are 127000, more than float16 holds."""
    layer = linear(np.ones((100, 8), np.float32) * np.float32(1e-3), param_dtype=dtype)
    packed, x = FORMATS[name](layer), jnp.full((3, 100), 10, dtype)
    assert packed(x).dtype == dtype and off(packed(x), unpack(packed)(x)) < SMALL[dtype]


@pytest.mark.parametrize("name", ["csr", "blocks"])
@pytest.mark.parametrize("most", [1e-2, 1e-3, 1e-4, 1e-5])
def test_scales_below_what_float16_resolves(name, most, product):
    kernel, x = most * np.sign(matrix(64, 32)), jnp.asarray(draw(5, 64))
    computed = linear(np.float32(kernel), dtype="float16", use_bias=False)
    stored = linear(np.float32(kernel), param_dtype="float16", use_bias=False)
    for layer, inputs in ((computed, x), (stored, x.astype(jnp.float16))):
        packed: Any = FORMATS[name](layer)
        weights = np.float64(layer.kernel[...])
        found = np.float64(packed.values[...]).reshape(-1)  # of one size and two signs
        assert set(abs(found)) - {0} == {abs(found).max()} and packed(inputs).dtype == jnp.float16
        near = abs(np.float64(packed.kernel_matrix()) - weights) <= abs(weights) * 2**-6
        assert near.all() and off(packed(inputs), np.float64(inputs) @ weights) < 2e-2


def test_weights_that_are_almost_subnormal():
    kernel = np.float32([[1e-37, 5e-38], [-5e-38, 0]])
    packed = int8(csr())(linear(kernel))
    assert off(packed.kernel_matrix(), kernel) < 0.1


def test_weights_are_off_by_half_a_scale_and_zeros_stay():
    kernel = matrix(300, 37)
    kernel[5, 1] = kernel[:, 1].max() / 1000  # rounds to 0
    layer: Any = linear(kernel)
    for format in FORMATS.values():
        packed = pack(layer, format)
        scale = np.asarray(packed.scale[...])
        found = np.asarray(packed.kernel_matrix())
        assert (abs(found - kernel) <= scale / 2 * (1 + 1e-5)).all()
        assert not found[kernel == 0].any() and found[5, 1] == 0
        values = np.abs(packed.values[...].astype(np.int32))
        assert values.max() == 127 and np.allclose(scale[1:7], abs(kernel[:, 1:7]).max(0) / 127)
    assert pack(layer, int8(csr())).width == 150  # two equal groups
    assert pack(layer, int8(csr(40))).width == 40


def test_only_the_scale_and_the_bias_are_trained():
    packed = pack(linear(matrix(60, 20)), int8(csr()))
    grads = nnx.grad(lambda model, x: (model(x) ** 2).sum())(packed, jnp.asarray(draw(9, 60)))
    assert set(nnx.to_pure_dict(grads)) == {"bias", "scale"}
    dense = unpack(packed)
    by_kernel = nnx.grad(lambda model, x: (model(x) ** 2).sum())(dense, jnp.asarray(draw(9, 60)))
    expected = (by_kernel["kernel"][...] * (dense.kernel[...] / packed.scale[...][None])).sum(0)
    assert off(grads["scale"][...], expected) < 1e-5


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_on_a_mesh(name):
    packed, x = pack(linear(matrix(32, 16)), FORMATS[name]), jnp.asarray(draw(8, 32))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, jax.P("data")))
        graphdef, state = nnx.split(packed)
        state = jax.device_put(state, NamedSharding(mesh, jax.P()))
        found = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, split)
    assert off(found, unpack(packed)(x)) < 1e-6


def test_what_int8_cannot_hold_is_refused_by_path():
    kernel = matrix(12, 8)
    kernel[2, 2] = np.inf
    model, format = nnx.Sequential(linear(matrix(8, 12)), linear(kernel)), int8(csr())
    picked = lambda: js.export.pick(model, (2, 8), formats={"int8": format})
    for call in (lambda: pack(model, format), lambda: js.export.left_dense(model, format), picked):
        with pytest.raises(ValueError, match=r"layers/1: a weight is infinite or NaN"):
            call()
    with pytest.raises(ValueError, match="give blocks"):
        int8(blocks((4, 4), product=pallas_dot))(linear(matrix(8, 8)))
    with pytest.raises(TypeError, match="makes a CsrInt8; int8 takes"):
        int8(int8(csr()))(linear(matrix(8, 8)))
    with pytest.raises(TypeError, match=r"call it: int8\(...\)"):
        pack(linear(matrix(8, 8)), int8)  # type: ignore[arg-type]
    for make in (
        lambda: CsrInt8(400, 3, kept=1, width=256),
        lambda: CsrInt8(4, 3, kept=13, width=4),
        lambda: BlockSparseInt8(4, 3, block=(2, 2), kept=5),
    ):
        with pytest.raises(ValueError, match=r"allowed are 1 to 255|are kept"):
            make()


ARRAYS: dict[str, Any] = {  # two groups of 4 and 2 inputs, 2 outputs
    "values": np.ones(4, np.int8),
    "indices": np.array([0, 3, 1, 1], np.uint8),
    "counts": np.array([2, 0, 1, 1], np.uint8),
    "scale": np.ones(2, np.float32),
}
WRONG: dict[str, tuple[str, Any]] = {
    r"values is float32\[4\], expected int8\[4\]": ("values", np.ones(4, np.float32)),
    r"indices\[1\] is 4, expected 0 to 3": ("indices", np.array([0, 4, 1, 1], np.uint8)),
    r"indices\[1\] is 3, not above": ("indices", np.array([3, 3, 1, 1], np.uint8)),
    r"indices\[2\] is 2, expected 0 to 1": ("indices", np.array([0, 3, 2, 1], np.uint8)),
    "counts add up to 5, expected 4": ("counts", np.array([2, 1, 1, 1], np.uint8)),
    r"counts is uint8\[3\], expected uint8\[4\]": ("counts", np.array([2, 1, 1], np.uint8)),
    r"scale\[1\] is inf, expected a finite": ("scale", np.array([1, np.inf], np.float32)),
}


@pytest.mark.parametrize("message", WRONG)
def test_each_fault_is_named(message):
    CsrInt8Sizes(6, 2, 4, 4).check_arrays(ARRAYS)
    name, wrong = WRONG[message]
    with pytest.raises(ValueError, match=message):
        CsrInt8Sizes(6, 2, 4, 4).check_arrays(ARRAYS | {name: wrong})


@needs_compiler
def test_a_call_on_a_damaged_layer_is_an_error_and_not_a_crash():
    x = jnp.asarray(draw(5, 70))
    for name, part in (("csr", "indices"), ("csr", "counts"), ("blocks", "rows")):
        layer: Any = FORMATS[name](linear(matrix(70, 37)))
        array = getattr(layer, part)
        array[...] = array[...].at[1].set(200)
        with pytest.raises(ValueError, match=part):
            layer.check()
        with pytest.raises(jax.errors.JaxRuntimeError, match="of a packed layer is damaged"):
            jax.block_until_ready(layer(x))


# Files.


@pytest.fixture(scope="module", params=["csr", "blocks"])
def saved(request, tmp_path_factory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("int8") / "model"
    unit, format = {
        "csr": (js.Weight(), csr()),
        "blocks": (js.Block((2, 3)), blocks((2, 3))),
    }[request.param]
    with jax.numpy_dtype_promotion("standard"):
        model = js.sparsify(net(), ("./kernel", js.Top(density=0.3, unit=unit)))
        packed = pack(model, int8(format))
        save(folder, packed, jnp.asarray(draw(2, 6)))
    return folder, packed


@pytest.mark.standard_dtypes
def test_files_come_back(saved, monkeypatch):
    folder, packed = saved
    x = jnp.asarray(draw(5, 6, seed=1))
    expected = outputs(packed, x)
    loaded, again = load(folder), restore(folder, net(seed=1))
    assert type(again.a) is type(packed.a)
    monkeypatch.setattr(compiled, "load", lambda: False)
    for call in (loaded, lambda x: outputs(again, x), load(folder)):
        np.testing.assert_allclose(call(x), expected, rtol=1e-4, atol=1e-5)
    assert loaded.weights["a/values"].dtype == jnp.int8
    assert "custom_call @jsparse" not in stablehlo(packed, x).mlir_module()


@pytest.mark.standard_dtypes
def test_a_damaged_file_is_never_loaded(saved, tmp_path):
    folder, _ = saved
    weights = load_file(folder / "weights.safetensors")
    structure = "counts" if "a/counts" in weights else "starts"
    for name, wrong in (("scale", np.nan), (structure, 99), ("values", None)):
        copy = shutil.copytree(folder, tmp_path / name)
        array = weights[f"a/{name}"].copy()
        if wrong is None:
            array = array[:-1]
        else:
            array.flat[-1] = wrong
        save_file(weights | {f"a/{name}": array}, copy / "weights.safetensors")
        (copy / "manifest.json").unlink()
        manifest.write(copy, {"format": "jsparse.model", "version": 1})
        with pytest.raises(DamagedModel, match=r"weights\.safetensors"):
            load(copy)


@pytest.mark.parametrize("name", ["weights", "blocks"])
def test_a_twentieth_of_the_weights_is_a_file_below_3_percent(name, tmp_path):
    unit, format = {
        "weights": (js.Weight(), csr()),
        "blocks": (js.Block((32, 32)), blocks((32, 32))),
    }[name]
    dense = nnx.Linear(1024, 1024, rngs=nnx.Rngs(0))
    model = js.sparsify(dense, ("kernel", js.Top(density=0.05, unit=unit)))
    save(tmp_path / "model", pack(model, int8(format)), jnp.ones((2, 1024)))
    size = (tmp_path / "model" / "weights.safetensors").stat().st_size
    assert size < 0.03 * 4 * 1024 * 1025
