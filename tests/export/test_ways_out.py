"""Saved models: read back without their class and with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.experimental.sparse import BCOO

import jsparse as js
from jsparse._slots import slots
from jsparse._storage import manifest
from jsparse.export import load, restore, save, stablehlo
from jsparse.export._packing import compiled
from jsparse.export._shrinking.verify import apart
from tests.support.saved import Net, draw, net, saved_model, sparse
from tests.support.zoo_cases import CASES, outputs, prepared, shapes

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers
ROOT = Path(__file__).parents[2]
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)


def variables(model: nnx.Module) -> dict[str, Any]:
    found = {slot.path: slot.value for slot in slots(model)}
    return {p: v[...] for p, v in found.items() if not isinstance(v, nnx.RngState)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Net]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, saved_model(folder)


ELSEWHERE = """
import sys
import jax, numpy as np, jsparse
loaded = jsparse.export.load("model")
x = np.load("x.npy")
np.save("y.npy", loaded(x))
np.save("jitted.npy", jax.jit(lambda x: 2 * loaded(x))(x))
assert not any(name.startswith(("tests", "pickle5", "torch")) for name in sys.modules)
"""


def test_a_process_without_the_class_calls_it(saved, tmp_path) -> None:
    folder, small = saved
    shutil.copytree(folder, tmp_path / "model")
    np.save(tmp_path / "x.npy", draw(5, 6, seed=1))
    run = [sys.executable, "-W", "error", "-c", ELSEWHERE]
    paths = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)}
    subprocess.run(run, cwd=tmp_path, env=paths, check=True)
    expected = outputs(small, draw(5, 6, seed=1))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "jitted.npy"), 2 * expected, rtol=1e-5, atol=1e-6)


def test_a_shrunk_model_comes_back_into_its_class(saved) -> None:
    folder, small = saved
    again = restore(folder, net(seed=1))
    assert again.a.out_features == small.a.out_features == 4
    assert shapes(again) == shapes(small)
    jax.tree.map(np.testing.assert_array_equal, variables(again), variables(small))
    from_sparse = restore(folder, sparse())  # the rules are left out
    jax.tree.map(np.testing.assert_array_equal, variables(from_sparse), variables(small))


def test_the_description_is_for_people_and_programs(saved) -> None:
    folder, _ = saved
    about = json.loads((folder / "model.json").read_text())
    assert about["inputs"] == [{"name": "[0]", "shape": ["batch", 6], "dtype": "float32"}]
    assert about["outputs"] == [{"shape": ["batch", 3], "dtype": "float32"}]
    assert about["variables"]["norm/mean"] == {
        "shape": [4],
        "dtype": "float32",
        "kind": "BatchStat",
    }
    assert about["layers"]["a"]["in_features"] == 6
    places = [b".py", bytes(ROOT), bytes(folder)]
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not any(place in content for place in places)
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["versions"]["jax"] == jax.__version__
    assert load(folder).about == about
    assert repr(load(folder)).startswith("Loaded(float32[batch, 6] -> float32[batch, 3]; 8 ")


@pytest.mark.parametrize("name", ["mobile net", "lstm", slow("decoder")])
def test_zoo(name: str, tmp_path) -> None:
    case = CASES[name]
    model = prepared(case.make, case.dead)
    save(tmp_path / "model", model, case.inputs(0, 2))
    fresh = case.inputs(1, 3)  # of another batch size
    expected = outputs(model, fresh)
    np.testing.assert_allclose(load(tmp_path / "model")(fresh), expected, rtol=1e-4, atol=1e-5)
    again = restore(tmp_path / "model", case.make(rngs=nnx.Rngs(1)))
    jax.tree.map(np.testing.assert_array_equal, variables(again), variables(model))


FORMATS: dict[str, Any] = {
    "csr": (js.Weight(), js.export.csr()),
    "blocks": (js.Block((4, 3)), js.export.blocks((4, 3))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_packed(name: str, tmp_path, monkeypatch) -> None:
    unit, format = FORMATS[name]
    packed = js.export.pack(
        js.sparsify(net(), ("./kernel", js.Top(density=0.3, unit=unit))), format
    )
    save(tmp_path / "model", packed, draw(2, 6))
    loaded, fresh = load(tmp_path / "model"), draw(5, 6, seed=1)
    expected = outputs(packed, fresh)
    np.testing.assert_allclose(loaded(fresh), expected, rtol=1e-4, atol=1e-5)
    assert "custom_call @jsparse" in loaded.program.mlir_module()
    with monkeypatch.context() as patch:  # a machine without a compiler
        patch.setattr(compiled, "load", lambda: False)
        plain = load(tmp_path / "model")
        np.testing.assert_allclose(plain(fresh), expected, rtol=1e-4, atol=1e-5)
        assert "custom_call @jsparse" not in plain.program.mlir_module()
    assert loaded.weights["a/values"].shape == packed.a.values.shape
    again = restore(tmp_path / "model", net(seed=1))
    assert type(again.a) is type(packed.a)
    assert again.a.product is type(packed.a)(1, 1, **SIZES[name]).product  # the kernel, where it is
    jax.tree.map(np.testing.assert_array_equal, variables(again), variables(packed))
    np.testing.assert_allclose(outputs(again, fresh), expected, rtol=1e-4, atol=1e-5)


SIZES: dict[str, dict] = {"csr": {"kept": 1, "width": 1}, "blocks": {"kept": 1, "block": (1, 1)}}


def test_a_packed_layer_alone(tmp_path) -> None:
    layer = js.sparsify(nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    layer.kernel.mask[...] = jnp.zeros((6, 5)).at[2, 3].set(1.0)
    packed = js.export.pack(layer, js.export.csr())
    save(tmp_path / "model", packed, draw(2, 6))
    again = restore(tmp_path / "model", nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(1)))
    np.testing.assert_array_equal(again.kernel_matrix(), js.fold(layer).kernel[...])


class Odd(nnx.Module):
    """Every kind of array a file may hold."""

    def __init__(self, fill: float):
        kinds = ["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
        kinds += ["int8", "uint16", "int32", "bool"]
        numbers = fill * np.arange(6).reshape(2, 3)
        for kind in kinds:
            setattr(self, kind, nnx.Param(jnp.asarray(numbers, kind)))
        self.number = nnx.Param(jnp.asarray(fill, jnp.bfloat16))
        self.nothing = nnx.Param(jnp.zeros((0, 3)))

    def __call__(self, x: Array) -> dict[str, Array]:
        small = self.float8_e4m3fn[...].astype(jnp.float32)
        return {"y": x @ small, "numbers": (self.number[...], self.uint16[...])}


def test_dtypes_and_shapes_come_back_bit_by_bit(tmp_path) -> None:
    model, x = Odd(1.5), draw(4, 2)
    save(tmp_path / "model", model, x)
    loaded, again = load(tmp_path / "model"), restore(tmp_path / "model", Odd(0.0))
    for path, value in variables(model).items():
        for found in (loaded.weights[path], variables(again)[path]):
            assert found.dtype == value.dtype and found.shape == value.shape, path
            assert np.asarray(found).tobytes() == np.asarray(value).tobytes(), path
    assert loaded(x)["numbers"][0] == 1.5


class Two(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.asarray(2.0))

    def __call__(self, x: Array, table: dict[str, Array]) -> Array:
        return self.scale[...] * x @ table["w"]


def test_sizes_are_free_where_that_is_said_or_can_be(tmp_path) -> None:
    x, table = draw(2, 5), {"w": draw(5, 3)}
    save(tmp_path / "fixed", Two(), x, table)
    fixed = load(tmp_path / "fixed")
    assert "first axes of the inputs" in fixed.about["sizes are fixed because"]
    np.testing.assert_allclose(fixed(x, table), 2 * x @ table["w"], rtol=1e-5)
    save(tmp_path / "free", Two(), x, table, shapes=("rows, 5", "5, columns"))
    more = draw(7, 5), {"w": draw(5, 4, seed=2)}
    np.testing.assert_allclose(
        load(tmp_path / "free")(*more), 2 * more[0] @ more[1]["w"], rtol=1e-5
    )
    with pytest.raises(ValueError, match="shapes: got 1 for 2 input arrays"):
        stablehlo(Two(), x, table, shapes=("rows, 5",))


class Sized(nnx.Module):
    """Code that asks for sizes: it fails at a free one, or takes another path."""

    def __init__(self, silent: bool):
        self.silent = silent

    def __call__(self, x: Array) -> Array:
        if self.silent:
            return x + 1 if x.shape[0] == 2 else x
        return x * np.ones(int(x.shape[0]))[:, None].astype(np.float32)


def test_code_that_asks_for_sizes(tmp_path) -> None:
    exported = stablehlo(Sized(False), draw(2, 3))
    assert exported.in_avals[0].shape == (2, 3)
    with pytest.raises(ValueError, match="the program with free sizes"):
        stablehlo(Sized(True), draw(2, 3))


def test_options_are_the_same_at_each_call(tmp_path) -> None:
    model = net()
    save(tmp_path / "model", model, draw(2, 6), scale=3.0)
    x = draw(4, 6)
    expected = 3 * outputs(model, x)
    np.testing.assert_allclose(load(tmp_path / "model")(x), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"input 1 is a float.*given by name"):
        save(tmp_path / "other", model, draw(2, 6), 3.0)
    with pytest.raises(TypeError, match="got no inputs; after the model give the arrays of a call"):
        save(tmp_path / "other", model, scale=3.0)


class Number(nnx.Module):
    """A variable that holds a number of Python."""

    def __init__(self, number: float):
        self.number = nnx.Variable(number)

    def __call__(self, x: Array) -> Array:
        return x * self.number[...]


def test_numbers_come_back_as_numbers(tmp_path) -> None:
    save(tmp_path / "model", Number(2.5), draw(2, 3), shapes="rows, 3")
    assert load(tmp_path / "model")(jnp.ones((4, 3))).tolist() == [[2.5] * 3] * 4
    (number,) = jax.tree.leaves(nnx.state(restore(tmp_path / "model", Number(0.0))))
    assert type(number) is float and number == 2.5


def test_a_program_in_64_bits_is_refused_where_they_are_off(tmp_path) -> None:
    home = jax if hasattr(jax, "enable_x64") else jax.experimental  # since jax 0.8
    with home.enable_x64(True):
        save(tmp_path / "model", Number(2.5), jnp.ones((2, 3), jnp.float64))
        assert load(tmp_path / "model")(jnp.ones((2, 3), jnp.float64)).dtype == jnp.float64
    with pytest.raises(ValueError, match=r"computes in 64 bits.*jax_enable_x64"):
        load(tmp_path / "model")


def test_sizes_are_free_on_a_mesh_with_explicit_axes() -> None:
    mesh = jax.make_mesh((1,), ("all",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        exported = stablehlo(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), draw(2, 6))
    assert str(exported.out_avals[0].shape) == "(batch, 3)"


def test_a_sparse_array_in_a_variable_is_refused_by_path(tmp_path) -> None:
    model: Any = Two()
    model.scale = nnx.Param(BCOO.fromdense(jnp.eye(5)))
    x, table = draw(2, 5), {"w": draw(5, 3)}
    for call in (save, js.export.onnx):
        with pytest.raises(TypeError, match=r"scale holds a BCOO, .*todense\(\)"):
            call(tmp_path / "model", model, x, table)
    for call in (stablehlo, js.shrink):
        with pytest.raises(TypeError, match="scale holds a BCOO"):
            call(model, x, table)
    with pytest.raises(TypeError, match=r"scale: a rule needs an array.*holds BCOO"):
        js.sparsify(model, ("scale", js.Held()))


def test_complex_outputs_are_compared_whole() -> None:
    assert apart([np.asarray(1 + 1j)], [np.asarray(1 - 1j)]) > 1
    assert apart([np.asarray(1 + 1j)], [np.asarray(1 + 1j)]) == 0


def test_a_folder_is_whole_or_absent(saved, tmp_path, monkeypatch) -> None:
    folder, small = saved
    with pytest.raises(FileExistsError, match="choose another folder"):
        save(folder, small, draw(2, 6))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "model", Two(), draw(2, 5), {"w": draw(5, 3)})
    assert list(tmp_path.iterdir()) == []

    def overtaken(*_: Any) -> None:
        (tmp_path / "model" / "theirs").mkdir(parents=True)

    monkeypatch.setattr(manifest, "write", overtaken)
    with pytest.raises(FileExistsError, match="choose another folder"):
        save(tmp_path / "model", Two(), draw(2, 5), {"w": draw(5, 3)})
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "theirs"]


@pytest.mark.parametrize("package", ["safetensors", "flatbuffers"])
def test_what_is_not_installed_is_named(package: str, saved, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}.*with its extra export"):
        load(saved[0])
