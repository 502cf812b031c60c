"""What a study shows: tables, progress and pictures."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.common import show
from experiments.common.plots import plot_epochs, plot_first_layer, plot_kernels, plot_layers
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


@needs("tqdm")
def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    epochs = show.Epochs(8, 10, "lenet")
    assert [epochs.show(accuracy=0.5, density=0.025) >= 0 for _ in epochs] == [True, True]
    bar = capsys.readouterr().err
    assert "lenet: 100%" in bar and "10/10" in bar and "density 2.50%" in bar


def assert_png(path: Path) -> None:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 5000


@needs("matplotlib")
@pytest.mark.parametrize("low", [0.5, 0.01, 0.0])
def test_plot_layers(tmp_path, low):
    plot_layers([0, 10, 20], {"a": [1, 0.7, low], "b": [1, 0.6, low]}, tmp_path / "a" / "b.png")
    assert_png(tmp_path / "a" / "b.png")


@needs("matplotlib")
def test_plot_layers_refuses_other_lengths(tmp_path):
    with pytest.raises(ValueError, match=r"fc1 has densities of shape \[1\], the steps are \[2\]"):
        plot_layers([0, 1], {"fc1": [1.0]}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one layer"):
        plot_layers([0, 1], {}, tmp_path / "a.png")


@needs("matplotlib")
@pytest.mark.parametrize("baseline", [(), 0.9, [0.8, 0.9, 0.9], [[0.8, 0.9, 0.9]] * 2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_plot_epochs(tmp_path, seeds, baseline):
    accuracy = np.linspace(0.8, 0.9, 3 * seeds).reshape(seeds, 3)
    density = np.linspace(1.0, 0.0, 3 * seeds).reshape(seeds, 3)
    plot_epochs([1, 2, 3], accuracy, density, tmp_path / "a.png", baseline=baseline)
    assert_png(tmp_path / "a.png")


@needs("matplotlib")
def test_plot_epochs_of_one_epoch_and_wrong_shapes(tmp_path):
    plot_epochs([1], [0.5], [0.5], tmp_path / "a.png")
    assert_png(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"density has shape \[2\], \[seeds, 3\] is needed"):
        plot_epochs([1, 2, 3], [[0.1, 0.2, 0.3]], [0.1, 0.2], tmp_path / "a.png")


@needs("matplotlib")
def test_plot_masks(tmp_path):
    plot_first_layer(jnp.eye(784, 30), tmp_path / "dense.png")
    plot_kernels(jnp.ones((5, 5, 1, 6)), tmp_path / "conv.png")
    assert_png(tmp_path / "dense.png")
    assert_png(tmp_path / "conv.png")
    with pytest.raises(ValueError, match=r"shape \[64, 3\], \[784, units\]"):
        plot_first_layer(jnp.ones((64, 3)), tmp_path / "a.png")
    with pytest.raises(ValueError, match="choose one input channel"):
        plot_kernels(jnp.ones((5, 5, 2, 6)), tmp_path / "a.png")


def test_labels_are_moved_apart_and_keep_their_order():
    from experiments.common.plots import _apart

    places = _apart([0.5, 0.51, 0.0, 1.0, 1.0], 0.1)
    order = np.argsort([0.5, 0.51, 0.0, 1.0, 1.0], kind="stable")
    assert (np.diff(np.array(places)[order]) > 0.0999).all()
    assert min(places) >= 0 and max(places) <= 1
