"""The ranking of a small zoo, on scikit-learn's digits, and the published rows' arithmetic."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, transfer_score
from experiments.common.authors import authors_logme

pytestmark = pytest.mark.standard_dtypes
SETTINGS = dataclasses.replace(
    transfer_score.QUICK,
    widths=(20,), source_epochs=(20,), densities=(1.0, 0.05), source_samples=200,
    target_samples=100, epochs=40,
)  # fmt: skip
CIFAR = {  # fine-tuned accuracy [%] and LogME of the authors' library
    "GoogLeNet": (96.2, 0.293), "InceptionV3": (97.5, 0.349), "ResNet50": (96.8, 0.388),
    "ResNet101": (97.7, 0.463), "ResNet152": (97.9, 0.469), "DenseNet121": (97.2, 0.302),
    "DenseNet169": (97.4, 0.343), "DenseNet201": (97.4, 0.369), "MobileNetV2": (95.7, 0.291),
    "MNasNet": (96.8, 0.304),
}  # fmt: skip


@pytest.mark.slow
def test_the_zoo_is_scored_and_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = dataclasses.replace(SETTINGS, out=str(tmp_path))
    transfer_score.main(settings)
    printed = capsys.readouterr().out
    (file,) = tmp_path.glob("*/final.json")
    rows = json.loads(file.read_text())["rows"]
    assert list(rows) == ["width 20, 100 %", "width 20, 5 %"]
    dense, sparse = rows.values()
    assert sparse["density"] == pytest.approx(0.05, abs=0.01) and dense["density"] == 1
    assert 0.5 < dense["accuracy"][0] <= 1
    assert sparse["LogME"] != dense["LogME"]
    assert min(one["seconds"] for one in rows.values()) > 0
    assert "times as long" in printed and (tmp_path / "transfer.png").is_file()
    transfer_score.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


def test_the_published_rows_have_the_published_tau() -> None:
    rows = {n: {"accuracy": [a], "LogME": score} for n, (a, score) in CIFAR.items()}
    found = transfer_score.agreement(rows)
    assert list(found) == ["LogME"]
    assert found["LogME"][1] == pytest.approx(0.7846, abs=5e-5)
    assert found["LogME"][1] == pytest.approx(transfer_score.PUBLISHED["CIFAR-10"][0], abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"densities": (0.0,)}, "--densities are fractions"),
        ({"widths": (20, 30)}, "go together"),
        ({"target_samples": 10}, "--target-samples got 10; give 50 or more"),
    ],
)
def test_bad_settings(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SETTINGS, **changed)


def test_the_authors_code_is_run_from_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a checkout"):
        authors_logme(str(tmp_path))
    lines = ["from numba import njit", "@njit", "def part(y): return y.sum()"]
    lines += ["class LogME:", "    def fit(self, f, y): return part(y) + f.sum()"]
    (tmp_path / "LogME.py").write_text("\n".join(lines))
    assert authors_logme(str(tmp_path))(np.ones((2, 2)), np.ones(2)) == 6
