"""The comparison of masks runs as a user runs it, briefly, on scikit-learn's digits."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.report import effective

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, mask_similarity

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_masks_are_compared_and_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    names = ("L1", "random units")
    methods = {name: mask_similarity.METHODS[name] for name in names}
    monkeypatch.setattr(mask_similarity, "METHODS", methods)
    monkeypatch.setattr(mask_similarity, "PAIRS", [names])
    settings = dataclasses.replace(
        mask_similarity.QUICK, rounds=2, epochs=1, seeds=2, samples=200, out=str(tmp_path)
    )
    mask_similarity.main(settings)
    printed = capsys.readouterr().out
    assert "dense" in printed and (tmp_path / "similarity.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "masks/final.json").read_text())
    assert np.shape(found["pairs"]["L1 / random units"]) == (2, 2)
    between = np.array(found["between"])
    assert (np.diag(between) == 0).all() and (between == between.T).all()
    # the same masks after the first pruning, as round 0 is the same
    assert found["restarts"]["L1"][0] == [0, 0] and found["restarts"]["L1"][1] != [0, 0]
    rewound = json.loads((tmp_path / "L1, rewind/final.json").read_text())
    assert rewound["density"] == pytest.approx([0.64] * 2, abs=1e-3)
    units = json.loads((tmp_path / "random units, rewind/final.json").read_text())
    assert min(units["empty"]) > 0.3 > max(units["chance"]) and units["used"] < units["density"]

    lost = tmp_path / "L1, rewind"
    for name in ("final.json", "masks_02.npz"):
        (lost / name).unlink()
    shutil.rmtree(lost / "checkpoints/step_0000000002")
    mask_similarity.main(settings)
    assert capsys.readouterr().out == printed


def test_the_network_is_that_of_the_paper() -> None:
    model = mask_similarity.LeNet(nnx.Rngs(0))
    sparse = js.sparsify(model, (".*/kernel", js.Held()))
    assert js.summary(sparse).size == 59_838
    x = jax.ShapeDtypeStruct((2, 28, 28), np.float32)
    assert jax.eval_shape(model, x).shape == (2, 10)
    chain = mask_similarity.CHAINS["lenet"]
    assert effective(js.masks(sparse), js.roles(sparse), chain).total.used == 59_838
