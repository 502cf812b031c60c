"""Nothing reads or writes out of bounds, whatever the arrays of a packed layer hold."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jsparse as js
from jsparse._storage import manifest
from jsparse.export import DamagedModel, blocks, csr, load, pack, restore, save
from jsparse.export._packing.pallas import gpu_dot, tpu_dot
from jsparse.export._packing.structure import BlockSizes, CsrSizes
from tests.support import convolving
from tests.support.damage import build, damaged, run, structure
from tests.support.packing import draw, linear, matrix, needs_compiler
from tests.support.saved import net

FORMATS = {"csr": csr(16), "blocks": blocks((8, 4))}


def test_what_pack_makes_passes_and_damage_is_refused():
    choice, refused = random.Random(0), 0
    for _ in range(100):
        given = structure(choice)
        assert given.fault() == ""
        refused += bool(damaged(given, choice).fault())
    assert refused > 60  # the others got the number that they had


def csr_of(**changed: Any) -> dict[str, np.ndarray]:
    """Two groups of 4 and 2 inputs, 2 outputs, 4 kept."""
    arrays: dict[str, Any] = {
        "values": np.ones(4, np.float32),
        "indices": np.array([0, 3, 1, 1], np.uint16),
        "starts": np.array([0, 2, 2, 3, 4], np.int32),
    }
    return arrays | changed


SIZES = CsrSizes(6, 2, 4, 4)
REFUSED: dict[str, dict[str, Any]] = {
    r"indices\[1\] is 4, expected 0 to 3": {"indices": np.array([0, 4, 1, 1], np.uint16)},
    r"indices\[2\] is 2, expected 0 to 1": {"indices": np.array([0, 3, 2, 1], np.uint16)},
    r"indices\[1\] is 3, not above": {"indices": np.array([3, 3, 1, 1], np.uint16)},
    r"starts do not rise from 0 to 4": {"starts": np.array([0, 2, 1, 3, 4], np.int32)},
    r"starts do not rise from 0 to 4,": {"starts": np.array([0, 2, 2, 3, 5], np.int32)},
    r"starts do not rise": {"starts": np.array([-1, 2, 2, 3, 4], np.int32)},
    r"starts is int32\[4\], expected int32\[5\]": {"starts": np.array([0, 2, 2, 4], np.int32)},
    r"indices is int32\[4\], expected uint16\[4\]": {"indices": np.zeros(4, np.int32)},
    r"values is float32\[5\], expected float32\[4\]": {"values": np.ones(5, np.float32)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_each_fault_is_named(message):
    SIZES.check_arrays(csr_of())
    with pytest.raises(ValueError, match=message):
        SIZES.check_arrays(csr_of(**REFUSED[message]))


def test_sizes_that_no_matrix_has_are_refused_by_the_constructors():
    for make in (
        lambda: js.export.Csr(4, 3, kept=13, width=4),
        lambda: js.export.BlockSparse(4, 3, block=(2, 2), kept=5),
        lambda: js.export.BlockSparse(4, 3, block=(2, 2), kept=-1),
    ):
        with pytest.raises(ValueError, match=r"kept|must be"):
            make()
    arrays = {"values": np.ones((1, 2, 2)), "rows": np.array([2], np.int32)}
    with pytest.raises(ValueError, match=r"rows\[0\] is 2, expected 0 to 1"):
        BlockSizes(4, 3, 1, 2, 2).check_arrays(arrays | {"starts": np.array([0, 1, 1], np.int32)})


@needs_compiler
@pytest.mark.parametrize("name", FORMATS)
def test_a_call_on_a_damaged_layer_is_an_error_and_not_a_crash(name):
    x = draw(5, 70)
    for part, wrong in (("starts", 2**30), ("indices" if name == "csr" else "rows", 60_000)):
        layer = FORMATS[name](linear(matrix(70, 37)))
        array = getattr(layer, part)
        array[...] = array[...].at[1].set(wrong)
        with pytest.raises(ValueError, match=part):
            layer.check()
        for call in (layer, nnx.grad(lambda x, layer=layer: layer(x).sum())):
            with pytest.raises(jax.errors.JaxRuntimeError, match="of a packed layer is damaged"):
                jax.block_until_ready(call(jnp.asarray(x)))


def test_pallas_kernels_stay_inside_too():
    layer: Any = blocks((128, 128))(linear(draw(256, 256)))
    x = jnp.asarray(draw(8, 256))
    for wrong in (-7, 2**30):
        rows, starts = (v[...].at[1].set(wrong) for v in (layer.rows, layer.starts))
        for arrays in (
            layer.arrays(layer.values[...])._replace(rows=rows),
            layer.arrays(layer.values[...])._replace(starts=starts),
        ):
            for dot in (tpu_dot, gpu_dot):
                assert dot(arrays, x, 256, tile=8, interpret=True).shape == (8, 256)


# Files.

SMALL: dict[str, Any] = {
    "csr": (js.Weight(), csr(16)),
    "blocks": (js.Block((2, 2)), blocks((2, 2))),
}


@pytest.fixture(scope="module", params=SMALL)
def saved(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "model"
    with jax.numpy_dtype_promotion("standard"):
        unit, format = SMALL[request.param]
        model = js.sparsify(net(), ("(a|b)/kernel", js.Top(density=0.4, unit=unit)))
        save(folder, pack(model, format), jnp.asarray(draw(2, 6)))
    return folder


def resealed(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    manifest.write(folder, {"format": "jsparse.model", "version": 1})


@pytest.mark.standard_dtypes
def test_a_damaged_structure_is_never_loaded(saved, tmp_path):
    weights = load_file(saved / "weights.safetensors")
    place = "a/rows" if "a/rows" in weights else "a/indices"
    for name, at, wrong in ((place, 0, 60_000), ("a/starts", 1, 9999), ("b/starts", 0, 1)):
        folder = shutil.copytree(saved, tmp_path / f"{name.replace('/', '-')}")
        changed = weights[name].copy()
        changed[at] = wrong
        save_file(weights | {name: changed}, folder / "weights.safetensors")
        resealed(folder)
        for read in (lambda f=folder: load(f), lambda f=folder: restore(f, net())):
            with pytest.raises(
                DamagedModel, match=rf"weights\.safetensors: {name[0]}: .*{name[2:]}"
            ):
                read()


@pytest.mark.standard_dtypes
def test_a_missing_program_is_called_missing(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    kernels = folder / "program.cpu.stablehlo"
    if not kernels.exists():
        pytest.skip("no C++ compiler")
    kernels.unlink()
    resealed(folder)
    with pytest.raises(DamagedModel, match=r"model is damaged: program\.cpu\.stablehlo is missing"):
        load(folder)


@pytest.mark.standard_dtypes
def test_a_program_that_calls_python_is_not_run(tmp_path):
    """It holds an address of the process that wrote it."""
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    save(tmp_path / "model", model, jnp.ones((2, 4)))
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    like = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    name = "xla_ffi_python_cpu_callback"
    call = lambda weights, x: jax.ffi.ffi_call(name, like)(x, index=np.uint64(0))
    checks = [jax.export.DisabledSafetyCheck.custom_call(name)]
    shapes = {
        path: jax.ShapeDtypeStruct(one["shape"], one["dtype"])
        for path, one in about["variables"].items()
    }
    exported = jax.export.export(jax.jit(call), disabled_checks=checks)(shapes, jnp.ones((2, 4)))
    (tmp_path / "model" / "program.stablehlo").write_bytes(exported.serialize())
    resealed(tmp_path / "model")
    with pytest.raises(DamagedModel, match=r"program\.stablehlo calls \w*python_cpu_callback"):
        load(tmp_path / "model")


@needs_compiler
@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    """What passes runs, forward and backward; what is damaged runs within bounds or is refused."""
    program, choice = build(tmp_path), random.Random(1)
    words, passes = [], []
    for n in range(1000):
        given = structure(choice)
        if n % 4:
            given = damaged(given, choice)
        words.append(given.words(choice.choice([0, 1, 2, 9, 33, 70]), choice.choice([4, 8, 16])))
        passes.append(given.fault() == "")
    windows = [convolving.words(choice, whole=n % 4 == 0) for n in range(200)]
    said = run(program, windows)
    assert len(said) == 200 and set(said[::4]) == {"ran"} and said.count("refused") > 50
    said = run(program, words)
    assert len(said) == len(passes) and sum(passes) > 250 and said.count("refused") > 250
    assert all(word == "ran" for word, good in zip(said, passes, strict=True) if good)
