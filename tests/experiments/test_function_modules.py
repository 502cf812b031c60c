"""The study of modules that read earlier results, briefly, on scikit-learn's digits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, function_modules

pytestmark = pytest.mark.standard_dtypes


def test_the_control_has_as_many_parameters() -> None:
    arms = function_modules.arms(function_modules.QUICK)
    counts = {name: function_modules.parameters(make) for name, make in arms.items()}
    (wider,) = (count for name, count in counts.items() if name.startswith("wider"))
    assert counts["plain"] < wider <= counts["top 2"] < 1.01 * wider
    assert counts["top 2"] == counts["all read"] and counts["plain"] == counts["two passes"]


def test_images_are_turned_and_hidden() -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    images[:, 12:16] = 200  # a horizontal bar
    made = function_modules.shifted(images)
    assert list(made) == ["upright", "15°", "30°", "45°", "occluded"]
    assert {one.shape for one in made.values()} == {images.shape}
    np.testing.assert_array_equal(made["upright"], images)
    tilted = made["45°"][0] > 100
    assert tilted[6, 6] != tilted[6, 21] and tilted[14, 14]  # along one diagonal
    assert (made["occluded"] <= images).all() and images.max() == 200


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    verdict = function_modules.verdict
    assert verdict([0.9, 0.91, 0.92], [0.8, 0.81, 0.82]).endswith("better")
    assert verdict([0.8, 0.81, 0.82], [0.9, 0.91, 0.92]).endswith("worse")
    assert verdict([0.9, 0.8, 0.85], [0.8, 0.9, 0.85]).endswith("even")
    assert "too few" in verdict([0.9, 0.9], [0.8, 0.8])


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_pictures_are_drawn(seeds: int, tmp_path: Path) -> None:
    arm = {"accuracy": {"upright": [0.9] * seeds, "15°": [0.8] * seeds}}
    function_modules.draw_shifts({"plain": arm, "top 2": arm}, tmp_path / "shifts.png")
    function_modules.draw_reading([[], [1.0], [0.2, 0.8]], tmp_path / "reading.png")
    assert all((tmp_path / f"{name}.png").is_file() for name in ("shifts", "reading"))


@pytest.mark.slow
def test_the_study_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = dataclasses.replace(
        function_modules.QUICK, width=8, seeds=1, epochs=1, tested=100, out=str(tmp_path)
    )
    function_modules.main(settings)
    printed = capsys.readouterr().out
    final = json.loads((tmp_path / "top 2/final.json").read_text())
    assert [len(row) for row in final["read"]] == [0, 1, 2, 3, 4, 5]
    assert all(abs(sum(row) - 1) < 1e-4 for row in final["read"][1:])
    sparse = json.loads((tmp_path / "top 2, sparse/final.json").read_text())
    assert sparse["density"][0] == pytest.approx(0.2, abs=0.01)
    assert (tmp_path / "reading.png").is_file() and "Differences" in printed
    function_modules.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed
