"""The study of searches, briefly, on scikit-learn's digits."""

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, search_budget

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_a_dense_network_that_got_twice_as_fast_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    seconds = iter([1.0, 1.0, 1.0])  # of the dense network, then of all others
    latency = lambda x, form: lambda model: next(seconds, 0.1)
    monkeypatch.setattr(search_budget.prune.costs, "latency", latency)
    settings = dataclasses.replace(search_budget.QUICK, samples=1400, out=str(tmp_path))
    task = search_budget.Task("lenet-300-100", settings)
    with pytest.raises(ValueError, match=r"took 1 s and then 0\.1 s.*with nothing else running"):
        search_budget.search(task, task.make(1), "latency", 0.5, "random", 1, tmp_path / "it")
    assert not (tmp_path / "it").exists()


@pytest.mark.slow
def test_all_arms_meet_the_budget_and_a_second_run_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = dataclasses.replace(
        search_budget.QUICK, costs=("parameters",), budgets=(0.1,), evaluations=40,
        recover=2, samples=1400, epochs=3, fine_tune=1, out=str(tmp_path),
    )  # fmt: skip
    search_budget.main(settings)
    printed = capsys.readouterr().out
    assert "PPO-Lagrangian" in printed and "ResNet-18" in printed
    rows = json.loads((tmp_path / "final.json").read_text())["rows"]
    (row,) = rows
    assert max(row["cost"]) <= 0.1 and len(row["arms"]) == len(row["accuracy"]) == 6
    assert max(row["score"]) == max(row["score"][3:])  # a search is no worse than its controls
    assert (tmp_path / "lenet-300-100_parameters_0.1_1" / "random.html").exists()
    search_budget.main(settings)
    assert "PPO-Lagrangian" in capsys.readouterr().out
    assert json.loads((tmp_path / "final.json").read_text())["rows"] == rows
