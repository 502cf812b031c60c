"""The experiment with sparse heads runs as a user runs it, briefly, on scikit-learn's digits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, debug_head
from experiments.bench import heads as bench

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_debug_head(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = dataclasses.replace(
        debug_head.QUICK, samples=1000, points=8, epochs=4, out=str(tmp_path)
    )
    debug_head.main(settings)
    printed = capsys.readouterr().out
    assert "live features" in printed and "sparse head, 4 weights edited" in printed
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first["dense"] > 0.7 and first["at 20"] > first["dense"] - 0.1
    assert first["optimality"] <= 0.01
    called = [row[2] for row in second["sparse head"]]
    assert called[-1] < called[0]
    assert (tmp_path / "paths.png").stat().st_size > 10_000
    assert "class 3" in (tmp_path / "head1.html").read_text()
    debug_head.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_the_benchmark_measures_our_path(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *given: None)  # of the test process
    bench.main(bench.Settings(rows=300, width=20, points=3))
    printed = capsys.readouterr().out
    assert "jsparse, second call" in printed and "digits" in printed


def test_the_violation_is_zero_where_nothing_pulls() -> None:
    x = np.random.default_rng(0).standard_normal((60, 3))
    labels = np.arange(60) % 2
    slope = np.abs(x.T @ (np.eye(2)[labels] - 0.5)).max() / 60
    none, even = np.zeros((3, 2)), np.zeros(2)
    assert bench.judged(x, labels, none, even, slope / bench.MIX)[0] == pytest.approx(0, abs=1e-9)
    assert bench.judged(x, labels, none, even, slope)[0] == pytest.approx(1 - bench.MIX)
    assert bench.judged(x, labels, none, np.array([0.0, 1.0]), slope)[0] > 0.1
