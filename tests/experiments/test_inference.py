"""Networks beside other runtimes: what is asked of each, and what is said of those left out."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")

from experiments.bench import calibration, calls, depth, gradients, inference, runtimes, step
from experiments.common.record import tables

pytestmark = pytest.mark.standard_dtypes
HERE = all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnx", "onnxruntime"))


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = {"openvino", "onnx"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else 1)
    line = 'pip install "jsparse[bench]"'
    assert runtimes.absent() == {
        "ONNX Runtime": f"needs onnx: {line}",
        "OpenVINO": f"needs onnx and openvino: {line}",
        "OpenVINO bf16": f"needs onnx and openvino: {line}",
    }


def test_gains_are_over_the_fastest_dense_runtime_in_float32() -> None:
    ms = {"XLA": 4, "ONNX Runtime": 3, "OpenVINO": 5, "PyTorch": 2, "OpenVINO bf16": 1, "10%": 0.5}
    times = {name: np.full(3, one / 1e3) for name, one in ms.items()}
    row = runtimes.Row(times, {})
    assert runtimes.cells(row, [0.1]) == ["4", "3", "5", "2", "1", "0.5", "4", "2"]
    for other in (*runtimes.FLOATS, runtimes.BFLOAT):
        del times[other]
    assert runtimes.cells(row, [0.1]) == ["4", "-", "-", "-", "-", "0.5", "8", "-"]


def test_what_is_timed_is_the_network_with_its_largest_weights() -> None:
    x = runtimes.inputs("lenet-300-100", 3)
    dense, kept = (runtimes.compiled("lenet-300-100", x, part)() for part in (1.0, 0.05))
    assert x.shape == (3, 28, 28) and dense.shape == kept.shape == (3, 10)
    assert float(np.abs(dense - kept).max()) > 1e-3
    assert runtimes.inputs("transformer-512", 2).dtype == np.int32


@pytest.mark.slow
def test_all_ways_to_call_a_network_give_its_outputs(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("flatbuffers")
    x = jnp.asarray(runtimes.inputs("lenet-300-100", 3))
    expected = runtimes.kept("lenet-300-100", 0.05)(x)
    ways = calls.ways(calls.stored("lenet-300-100", x, 0.05), x, tmp_path / "model")
    assert len(ways) == 6
    for way, call in ways.items():
        np.testing.assert_allclose(call(), expected, atol=1e-4, err_msg=way)


def test_a_packed_convolution_is_timed_with_the_gradients_of_the_dense_one(tmp_path: Path) -> None:
    gradients.write(tmp_path, (3, 4), 2, 0.4)
    kernel, x, dy = (np.load(tmp_path / f"{name}.npy") for name in ("kernel", "x", "dy"))
    axes = ("NHWC", "HWIO", "NHWC")
    dense = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes)
    y, back = jax.vjp(dense, x, kernel)
    dx, dw = back(dy)
    np.savez(tmp_path / "planes.npz", forward=y, dx=dx, dw=dw)  # in place of PyTorch's
    for name in gradients.WIDTHS:
        assert np.isfinite(gradients.packed(str(tmp_path), name)()).all()
    gradients.compare(tmp_path)
    np.savez(tmp_path / "planes.npz", forward=y, dx=dx, dw=1.1 * dw)
    with pytest.raises(AssertionError, match="csr dw"):
        gradients.compare(tmp_path)
    with pytest.raises(ValueError, match=r"--densities got .1.5,.; give fractions"):
        gradients.Settings(torch=tmp_path, densities=(1.5,))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cores": (1000,)}, "--cores got .1000,.; give numbers from 1 to"),
        ({"densities": (1.0,)}, "--densities got"),
        ({"inputs": (0,)}, "are 1 or more"),
    ],
)
def test_bad_settings_of_inference(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        inference.Settings(**given)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="jax2onnx, onnx or onnxruntime is not installed")
def test_runtimes_take_turns_and_agree(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runtimes.compare(["lenet-300-100"], 2, runtimes.Setup(1, [0.1], 1, tmp_path))
    printed = capsys.readouterr().out
    (table,) = tables(printed)
    (row,) = table["rows"]
    assert row[0] == "lenet-300-100" and float(row[1]) > 0 and float(row[2]) > 0
    assert "batch 2, 1 core, ms of processor time" in table["title"]
    without = importlib.util.find_spec("openvino") is None
    assert (row[3] == "-") == without == ("needs openvino" in printed)
    assert row[4] == "-" and "lenet-300-100: PyTorch needs a Python with torch: --torch" in printed


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="jax2onnx, onnx or onnxruntime is not installed")
def test_a_network_that_cannot_be_exported_is_said_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(runtimes, "write", refuse)
    runtimes.compare(["lenet-300-100"], 1, runtimes.Setup(1, [0.1], 1, tmp_path))
    printed = capsys.readouterr().out
    (table,) = tables(printed)
    assert table["rows"][0][2:6] == ["-", "-", "-", "-"] and float(table["rows"][0][1]) > 0
    assert "lenet-300-100: ONNX Runtime, OpenVINO, OpenVINO bf16 not exported: no such" in printed


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (depth.Settings, {"depths": ()}, "give at least one depth"),
        (depth.Settings, {"rounds": 0}, "--rounds 0"),
        (depth.Settings, {"width": 30}, "--width got 30; give a multiple of 4"),
        (step.Settings, {"rounds": 0}, "--rounds got 0; give 1 or more"),
        (calibration.Settings, {"batch": 5}, "--sequences got 16, --batch 5; give a multiple"),
        (calibration.Settings, {"depths": (0,)}, "--depths got"),
        (calibration.Settings, {"width": 100}, "--width got 100; give a multiple of 8"),
        (calibration.Settings, {"tokens": 0}, "--tokens got 0; give 1 or more"),
    ],
)
def test_settings_that_cannot_be_measured(kind: type, given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**given)
