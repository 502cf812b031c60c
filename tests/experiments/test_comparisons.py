"""The experiments that put many methods beside each other, briefly, on scikit-learn's digits."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import compare, set_rigl

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("digits_for_mnist")]


def finals(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/final.json")}


@pytest.mark.slow
def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(
        compare.QUICK,
        methods=("gradual", "lottery"),
        densities=(0.1,),
        epochs=2,
        out=str(tmp_path),
    )
    compare.main(settings)
    printed = capsys.readouterr().out
    assert "in rounds" in printed and "L0" not in printed
    found = finals(tmp_path)
    for method in settings.methods:
        for density in settings.densities:
            assert found[f"{method}, {density}"]["density"] == pytest.approx(
                [density] * 2, rel=1e-3
            )
    assert found["dense"]["density"] == [1.0, 1.0]
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    assert "dense" in (tmp_path / "compare.html").read_text()
    compare.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


def test_what_comes_after_another_has_its_models() -> None:
    """A ticket has the start of its run with the masks of what that trained."""
    settings = dataclasses.replace(compare.QUICK, densities=(0.5, 0.1))
    batch = jnp.zeros((2, 28, 28)), jnp.zeros(2, int)
    entries = compare.Entries(settings, 10, [batch])
    made = compare.contestants(entries, settings)
    new, trained = (entries.held(nnx.Rngs(seed)) for seed in (0, 1))
    ticket = made["lottery, 0.5"].begin(new, trained, 1)
    tuned = made["fine-tuned, 0.5"].begin(new, trained, 1)
    np.testing.assert_array_equal(ticket.fc1.kernel.weight[...], new.fc1.kernel.weight[...])
    np.testing.assert_array_equal(tuned.fc1.kernel.weight[...], trained.fc1.kernel.weight[...])
    masks, others = js.masks(ticket), js.masks(tuned)
    assert all((masks[path] == others[path]).all() for path in masks)
    assert made["lottery, 0.1"].after == "lottery, 0.5" and made["magnitude, 0.1"].after == "dense"


def test_every_method_of_the_table_is_made() -> None:
    settings = dataclasses.replace(compare.QUICK, densities=(0.1,))
    entries = compare.Entries(settings, 100, [(jnp.zeros((2, 28, 28)), jnp.zeros(2, int))])
    made = {name.split(", ")[0] for name in compare.contestants(entries, settings)}
    assert made == {"dense", *(name for names in compare.FAMILIES.values() for name in names)}


@pytest.mark.slow
def test_set_rigl(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = set_rigl.contestants
    some = ("dense", "RigL, ERK, 0.1")
    monkeypatch.setattr(
        set_rigl, "contestants", lambda *given: {name: every(*given)[name] for name in some}
    )
    settings = dataclasses.replace(
        set_rigl.QUICK, densities=(0.1,), epochs=2, seeds=1, every=3, out=str(tmp_path)
    )
    set_rigl.main(settings)
    assert "RigL, ERK, 0.1" in capsys.readouterr().out
    for name, numbers in finals(tmp_path).items():
        assert numbers["density"] == pytest.approx([1.0 if name == "dense" else 0.1], rel=1e-3)
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000
    assert "dense" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: compare.Settings(densities=(0.1, 0.2)), "from high to low"),
        (lambda: compare.main(compare.Settings(methods=("RigLL",))), "--methods got 'RigLL'"),
        (lambda: set_rigl.Settings(densities=(1.5,)), "--densities are fractions"),
    ],
)
def test_bad_settings(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
