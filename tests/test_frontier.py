"""A frontier in one program: its runs are those trained alone, on any number of devices."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import common, frontier

pytestmark = pytest.mark.standard_dtypes
SEEDS, ALPHAS = [1, 2, 1, 2, 3], [1e-3, 1e-3, 1e-2, 1e-2, 1e-2]


def trained(network: str, over, seeds, alphas, batch: int) -> tuple[np.ndarray, list[dict]]:
    """Losses [runs, 10] and the masks of each run, after two epochs of five steps."""
    images = common.digits()
    x, y = jnp.asarray(images.train_x[: 5 * batch]), jnp.asarray(images.train_y[: 5 * batch])

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return js.sparsify(frontier.NETWORKS[network](rngs), (frontier.KERNELS, js.Threshold()))

    sweep = common.Sweep(make, optax.sgd(0.1, momentum=0.9), batch, over)
    runs = sweep.start(seeds, alphas)
    losses = []
    for _ in range(2):
        runs, trace = sweep.epoch(runs, x, y)
        losses.append(trace.loss)
    masks = [js.masks(sweep.model(runs, n)) for n in range(len(seeds))]
    return np.concatenate(losses, axis=1), masks


def same(one: tuple[np.ndarray, list[dict]], other: tuple[np.ndarray, list[dict]]) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert list(ours) == list(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_each_run_of_a_program_is_the_one_trained_alone() -> None:
    alone = [
        trained("lenet-300-100", common.side_by_side, [seed], [alpha], 64)
        for seed, alpha in zip(SEEDS[1:4], ALPHAS[1:4], strict=True)
    ]
    losses, masks = trained("lenet-300-100", common.side_by_side, SEEDS[1:4], ALPHAS[1:4], 64)
    same((losses, masks), (np.concatenate([one[0] for one in alone]), [one[1][0] for one in alone]))
    kept = [float(mask["fc1/kernel"].mean()) for mask in masks]
    assert kept[1] < 0.5 < kept[0] < 1  # the higher alpha, of another seed
    assert not np.array_equal(masks[1]["fc1/kernel"], masks[2]["fc1/kernel"])


@pytest.mark.parametrize(
    ("network", "over", "devices"),
    [
        ("lenet-300-100", common.side_by_side, 8),  # more than runs
        ("lenet-300-100", common.side_by_side, 2),  # an uneven share: 3 and 2
        ("lenet-5", common.in_turn, 2),
    ],
)
def test_devices_share_the_runs(
    network: str, over, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 8 if network == "lenet-5" else 64
    together = trained(network, over, SEEDS, ALPHAS, batch)
    here = jax.local_devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: here)
    shared = trained(network, common.over_devices(over), SEEDS, ALPHAS, batch)
    same(shared, together)
    assert all(mask.sharding.device_set == {here[0]} for mask in shared[1][0].values())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> frontier.Settings:
    monkeypatch.setattr(common, "mnist", lambda folder: common.digits())
    monkeypatch.setattr(frontier, "STEPS", 2)
    monkeypatch.setattr(frontier, "ROUNDS", 1)
    return dataclasses.replace(
        frontier.QUICK,
        alphas=(5e-3, 2e-2),
        epochs=3,
        learning_rate=0.1,
        out=str(tmp_path / "whole"),
    )


def test_a_stopped_frontier_ends_as_one_that_was_not(
    settings: frontier.Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    frontier.main(settings)
    printed = capsys.readouterr().out
    assert "4 runs in one program on 8 device(s)" in printed and "times one run" in printed
    final = json.loads((tmp_path / "whole/final.json").read_text())
    low, high, dense = (final["found"][name] for name in ("0.005", "0.02", "dense"))
    assert 0 < max(high["density"]) < min(low["density"]) < 1
    assert np.shape(low["accuracy"]) == np.shape(dense["accuracy"]) == (2,)
    assert min(final["seconds"].values()) > 0
    assert (tmp_path / "whole/frontier.png").stat().st_size > 10_000
    assert "frontier" in (tmp_path / "whole/frontier.html").read_text()

    log = common.Run.log

    def stop(run: common.Run, step: int, **numbers) -> None:
        if run.folder.name == "sparse" and step == 2:
            raise KeyboardInterrupt
        log(run, step, **numbers)

    settings = dataclasses.replace(settings, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common.Run, "log", stop)
        frontier.main(settings)
    assert not (tmp_path / "stopped/final.json").exists()
    frontier.main(settings)
    assert "sparse: goes on after step 1" in capsys.readouterr().err
    assert json.loads((tmp_path / "stopped/final.json").read_text())["found"] == final["found"]

    frontier.main(settings)  # complete: prints again, trains and measures nothing
    again = capsys.readouterr().out.replace("stopped", "whole")
    assert again.rpartition("\n\n")[0] == printed.rpartition("\n\n")[0]


def test_without_the_dense_network_and_with_one_seed(
    settings: frontier.Settings, tmp_path: Path
) -> None:
    found = {
        "0.005": {"accuracy": [0.9], "density": [0.5]},
        "0.02": {"accuracy": [0.8], "density": [0.03]},
    }
    one = dataclasses.replace(settings, seeds=1, dense=False)
    frontier.plot(found, one, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_the_mlp_has_three_inner_layers() -> None:
    model = nnx.eval_shape(lambda: frontier.mlp(nnx.Rngs(0)))
    kernels = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model)) if len(leaf.shape) == 2]
    assert kernels == [(784, 512), (512, 512), (512, 512), (512, 10)]
    assert frontier.mlp(nnx.Rngs(0))(jnp.zeros((2, 28, 28))).shape == (2, 10)
