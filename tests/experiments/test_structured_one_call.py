"""The experiment about pruning in one call: every way ends within the budget."""

import dataclasses
import json
from pathlib import Path

import pytest
from flax import nnx

import jsparse as js
from experiments import networks
from experiments import structured_one_call as experiment

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_every_way_ends_within_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "TESTED", 50)
    settings = dataclasses.replace(
        experiment.QUICK, networks=("lstm",), width=16, steps=3, samples=200, rounds=2, timed=2,
        batch=8, out=str(tmp_path),
    )  # fmt: skip
    experiment.main(settings)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["dense", *experiment.WAYS]
    assert all(row["operations"] <= row["budget"] for row in rows)
    assert "group lasso" in capsys.readouterr().out


@pytest.mark.slow
def test_its_densenet_and_vit_are_pruned() -> None:
    for model in (
        networks.DenseNet(nnx.Rngs(0), layers=1, growth=4),
        networks.ViT(nnx.Rngs(0), 16, 8, blocks=1),
    ):
        small, record = js.prune.units(model, (1, 8, 8, 3), density=0.5)
        assert all(" -> " in text for text in record.widths.values())
        assert set(record.stayed) <= {"places"}  # attention is over all patches
        assert small.head.kernel.shape[0] < model.head.kernel.shape[0]


def test_budgets_are_fractions() -> None:
    with pytest.raises(ValueError, match="--budgets are fractions"):
        experiment.Settings(budgets=(1.5,))
