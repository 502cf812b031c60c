"""The experiments in rounds run as a user runs them, briefly, on scikit-learn's digits."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jsparse as js

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import common, dropnet, lottery

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("digits_for_mnist")]


@pytest.mark.slow
def test_lottery(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = lottery.Settings(
        seeds=2, epochs=2, batch=50, samples=300, kept=0.5, rounds=1, out=str(tmp_path)
    )
    lottery.main(settings)
    printed = capsys.readouterr().out
    assert "SILO" in printed and "50 %" in printed
    finals = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/final*")}
    assert len(finals) == 9
    for final in finals.values():
        assert final["densities"] == [1.0, pytest.approx(0.5, abs=1e-4)]
        assert np.shape(final["accuracies"]) == (2, 2)
    same = [finals[name]["accuracies"][0] for name in ("first weights", "SILO", "learning rate")]
    assert same[0] == same[1] == same[2]  # round 0 is that of all that share a learning rate
    assert (tmp_path / "lottery.png").stat().st_size > 10_000
    lottery.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed
    with pytest.raises(ValueError, match=r"kept: 0\.5 there, 0\.6 now"):
        lottery.main(dataclasses.replace(settings, kept=0.6))


@pytest.mark.slow
def test_dropnet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dropnet.Settings(
        models=("A",),
        methods=("minimum", "APoZ"),
        seeds=2,
        epochs=1,
        samples=300,
        kept=0.5,
        rounds=1,
        out=str(tmp_path),
    )
    dropnet.main(settings)
    assert "APoZ, by layer" in capsys.readouterr().out
    final = json.loads((tmp_path / "A, minimum, by layer/final.json").read_text())
    assert final["left"] == [1.0, 0.5] and np.shape(final["accuracies"]) == (2, 2)
    assert (tmp_path / "dropnet.png").stat().st_size > 10_000


def test_each_seed_competes_by_itself() -> None:
    scores = {"seed0/a": jnp.arange(4.0), "seed1/a": jnp.arange(4.0) + 10}
    kept = common.per_seed(js.prune.globally)(scores, 0.5, {"seed0/a": (4,), "seed1/a": (4,)})
    assert all(mask.tolist() == [False, False, True, True] for mask in kept.values())


def test_model_c_is_the_papers() -> None:
    from flax import nnx

    net = dropnet.network("C", 1)(nnx.Rngs(0))
    shapes = [getattr(net, name).kernel.shape for name in (*net.layers, *net.heads)]
    assert shapes == [
        (3, 3, 3, 64),
        (3, 3, 64, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 128),
        (512, 256),
        (256, 10),
    ]
