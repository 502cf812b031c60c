"""The stages of a sparse network in 8 bits, briefly, on scikit-learn's digits."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, quantized

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.slow]


def test_stages(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = quantized.Settings(networks=("lenet-5",), seeds=1, steps=20, out=str(tmp_path))
    quantized.main(settings)
    printed = capsys.readouterr().out
    assert "packed, int8" in printed and "left dense: conv1: 8-bit weights are for matr" in printed
    final = json.loads((tmp_path / "lenet-5/1/final.json").read_text())
    sizes = [final[name]["bytes"] for name in ("folded", "packed, float32", "packed, int8")]
    assert sizes[1] < sizes[2] < 0.1 * sizes[0]  # int8 leaves the convolutions dense
    assert final["trained"]["accuracy"] == final["folded"]["accuracy"]
    assert abs(final["packed, int8"]["accuracy"] - final["folded"]["accuracy"]) < 0.03
    quantized.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed
