"""What a study shows: tables, progress and pictures."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.common import show
from tests.support.cases import needs


def test_mean_and_deviation():
    assert show.mean_std([1.0, 2.0, 3.0], digits=1) == "2.0 ± 1.0"
    assert show.mean_std([2.0]) == "2.00 (one seed)"
    with pytest.raises(ValueError, match="got no values"):
        show.mean_std([])


def test_table_aligns_and_refuses_ragged_rows():
    lines = show.table(["layer", "kept"], [["a", 1], ["longer", 12345]]).split("\n")
    assert lines == ["layer    kept", "------  -----", "a           1", "longer  12345"]
    with pytest.raises(ValueError, match="row 1 has 1 cells, the header has 2"):
        show.table(["a", "b"], [[1, 2], [1]])


def test_progress_prints_one_line_for_each_epoch_off_a_terminal(capsys):
    epochs = show.Epochs(8, 10, "lenet")
    seconds = [epochs.show(accuracy=jnp.float32(0.5), density=0.025) for _ in epochs]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and min(seconds) >= 0
    assert lines[1].startswith("lenet 10/10  ")
    assert lines[0].startswith("lenet  9/10  accuracy 50.00%  density 2.50%  ")
    assert lines[0].endswith(" s/epoch")


def test_how_long_it_takes_is_said_once_something_is_measured(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 7.0, 9.0])  # the first ten steps are also compiled
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    epochs = show.Epochs(0, 20, "lenet")
    for _ in epochs:
        for done in (10, 20, 30):
            epochs.within(done, 100)
        break
    assert capsys.readouterr().err == "lenet: about 7 min left\n"  # 1980 steps at 0.2 s
    assert [show.duration(s) for s in (4, 200, 9000)] == ["4 s", "3 min", "2.5 h"]


@needs("tqdm")
def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    epochs = show.Epochs(8, 10, "lenet")
    assert [epochs.show(accuracy=0.5, density=0.025) >= 0 for _ in epochs] == [True, True]
    bar = capsys.readouterr().err
    assert "lenet: 100%" in bar and "10/10" in bar and "density 2.50%" in bar


@needs("matplotlib")
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("log", ["", "xy"])
def test_curves_of_one_or_more_seeds_are_drawn(tmp_path, seeds, log):
    values = np.linspace(0.8, 0.9, 2 * seeds).reshape(2, seeds)
    names = [f"method {n}" for n in range(9)]  # more than there are colors
    panels = {
        "densities": dict.fromkeys(names, ([2.0, 10.0], values)),
        "alone": {"a": ([5.0], values[:1])},
    }
    show.draw(panels, tmp_path / "a" / "b.png", "left [%]", "accuracy", log=log, level=0.85)
    content = (tmp_path / "a" / "b.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 10_000


@needs("matplotlib")
def test_curves_over_words_are_drawn_and_ragged_ones_refused(tmp_path):
    curve = (["filter", "weight"], [[0.8, 0.9], [0.9, 0.8]])
    show.draw({"": {"Gibbs": curve}}, tmp_path / "a.png", "what falls", "accuracy")
    assert (tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="cannot reshape"):
        show.draw({"": {"Gibbs": (["filter", "weight"], [1.0] * 3)}}, tmp_path / "a.png", "", "")


@needs("matplotlib")
def test_numbers_of_an_axis_have_room_and_are_plain(tmp_path, monkeypatch):
    shown = []

    def keep(figure, path):
        figure.canvas.draw()
        shown.append([tick.get_text() for tick in figure.axes[0].get_xticklabels()])

    monkeypatch.setattr(show, "save", keep)
    show.draw({"": {"a": ([-1.45, -1.37, -1.25], [1.0, 2.0, 3.0])}}, tmp_path, "score", "y")
    show.draw({"": {"a": ([0.05, 20.0], [1.0, 2.0])}}, tmp_path, "features", "y", log="x")
    assert len(shown[0]) <= 8 and {"0.1", "1", "10"} <= set(shown[1])
