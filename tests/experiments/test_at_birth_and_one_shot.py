"""The experiments at birth and in one shot run as a user runs them, briefly."""

import dataclasses
import json
from pathlib import Path

import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import at_birth, datasets, networks, one_shot
from experiments.datasets import text
from experiments.datasets.sources import Unavailable

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_at_birth(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = dataclasses.replace(
        at_birth.QUICK,
        densities=(0.2, 0.01),
        methods=("magnitude", "SNIP"),
        batches=2,
        seeds=2,
        epochs=2,
        samples=400,
        out=str(tmp_path),
    )
    at_birth.main(settings)
    printed = capsys.readouterr().out
    assert "2 of 2 lose a layer" in printed and "dense" in printed
    finals = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/final.json")}
    assert finals["SNIP"]["density"] == [pytest.approx([d] * 2, abs=1e-5) for d in (0.2, 0.01)]
    assert finals["magnitude"]["density"][1] == [0.0, 0.0]  # nothing is left: a layer would fall
    one, other = finals["SNIP"]["accuracy"][0]
    assert one != other and min(one, other) > 0.3
    assert (tmp_path / "at_birth.png").stat().st_size > 10_000
    assert "dense" in (tmp_path / "compare.html").read_text()
    at_birth.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_each_seed_has_masks_of_its_own() -> None:
    images = datasets.digits()
    settings = dataclasses.replace(at_birth.QUICK, seeds=2, batches=1, densities=(0.1,))
    pruner = at_birth.Pruner(settings, images, datasets.standardize(images.train_x))
    model = js.sparsify(networks.LeNet300(nnx.Rngs(0)), (".*/kernel", js.Held()))
    for method in ("random", "SNIP"):  # SNIP sees other images
        first, second = (js.masks(pruner.begin(method, model, run)) for run in (0, 1))
        assert any((first[path] != second[path]).any() for path in first)


@pytest.mark.slow
def test_one_shot(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*given):
        raise Unavailable("nothing is downloaded here")

    monkeypatch.setattr(text, "locate", nowhere)
    way = ("Wanda", "2:4")
    some = {way: one_shot.ways(0.5)[way]}
    monkeypatch.setattr(one_shot, "ways", lambda density: some)
    settings = one_shot.Settings(
        width=16, blocks=1, heads=2, context=16, calibration=8, seeds=1, steps=100, batch=8,
        out=str(tmp_path),
    )  # fmt: skip
    one_shot.main(settings)
    printed = capsys.readouterr().out
    assert "Python's own source" in printed and "perplexity" in printed
    final = json.loads((tmp_path / "final.json").read_text())
    assert set(final) == {"dense", "Wanda, 2:4"}
    assert 5 < final["dense"][0] < 60  # of some hundred characters
    assert (tmp_path / "one_shot.png").stat().st_size > 5_000
    one_shot.main(settings)
    assert printed.endswith(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: at_birth.Settings(densities=(1.0,)), "--densities are fractions"),
        (lambda: one_shot.Settings(width=60, heads=4), "multiple of 4 times the 4 heads"),
        (lambda: one_shot.Settings(density=0.0), "--density is a fraction"),
        (lambda: one_shot.Settings(steps=0), "--steps got 0"),
    ],
)
def test_bad_settings(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
