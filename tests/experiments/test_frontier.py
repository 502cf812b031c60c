"""A frontier in one program: its runs are those trained alone, on any number of devices."""

import dataclasses
import json
import sys
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

from experiments import common, datasets, frontier

pytestmark = pytest.mark.standard_dtypes
SEEDS, ALPHAS = [1, 2, 1, 2, 3], [1e-3, 1e-3, 1e-2, 1e-2, 1e-2]


def trained(network: str, over, seeds, alphas, batch: int) -> tuple[np.ndarray, list[dict]]:
    """Losses [runs, 10] and the masks of each run, after two epochs of five steps."""
    images = datasets.digits()
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


@pytest.fixture(scope="module")
def together() -> tuple[np.ndarray, list[dict]]:
    with jax.numpy_dtype_promotion("standard"):
        return trained("lenet-300-100", common.side_by_side, SEEDS, ALPHAS, 64)


def test_each_run_of_a_program_is_the_one_trained_alone(together) -> None:
    alone = trained("lenet-300-100", common.side_by_side, SEEDS[2:3], ALPHAS[2:3], 64)
    losses, masks = together
    same((losses[2:3], masks[2:3]), alone)
    kept = [float(mask["fc1/kernel"].mean()) for mask in masks]
    assert max(kept[2:]) < 0.5 < min(kept[:2]) < 1  # the higher alpha
    assert not np.array_equal(masks[2]["fc1/kernel"], masks[3]["fc1/kernel"])  # another seed


def on(devices: int, monkeypatch: pytest.MonkeyPatch) -> jax.Device:
    here = jax.local_devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: here)
    return here[0]


@pytest.mark.slow
def test_devices_share_the_runs(together, monkeypatch: pytest.MonkeyPatch) -> None:
    first = on(2, monkeypatch)  # an uneven share: 3 and 2
    over = common.over_devices(common.side_by_side)
    shared = trained("lenet-300-100", over, SEEDS, ALPHAS, 64)
    same(shared, together)
    assert all(mask.sharding.device_set == {first} for mask in shared[1][0].values())


@pytest.mark.slow
def test_devices_share_convolutions_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    together = trained("lenet-5", common.in_turn, SEEDS, ALPHAS, 8)
    on(2, monkeypatch)
    same(trained("lenet-5", common.over_devices(common.in_turn), SEEDS, ALPHAS, 8), together)
    alone = trained("lenet-5", common.in_turn, SEEDS[4:], ALPHAS[4:], 8)
    same((together[0][4:], together[1][4:]), alone)


def plain(rngs: nnx.Rngs) -> nnx.Module:
    inner = [nnx.Linear(784, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 10, rngs=rngs)]
    return nnx.Sequential(lambda x: x.reshape(len(x), -1), *inner)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> frontier.Settings:
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    monkeypatch.setitem(frontier.NETWORKS, "mlp", plain)
    monkeypatch.setattr(frontier, "STEPS", 2)
    monkeypatch.setattr(frontier, "ROUNDS", 1)
    return dataclasses.replace(
        frontier.QUICK,
        network="mlp",
        alphas=(5e-4, 5e-3),
        learning_rate=0.1,
        epochs=2,
        dense=False,
        out=str(tmp_path / "whole"),
    )


@pytest.mark.slow
def test_a_stopped_frontier_ends_as_one_that_was_not(
    settings: frontier.Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    frontier.main(settings)  # four runs on eight devices
    printed = capsys.readouterr().out
    assert "4 runs in one program on 4 devices" in printed and "times one run" in printed
    final = json.loads((tmp_path / "whole/final.json").read_text())
    low, high = (final["found"][name] for name in ("0.0005", "0.005"))
    assert 0 < max(high["density"]) < min(low["density"]) < 1
    assert np.shape(low["accuracy"]) == np.shape(low["density"]) == (2,)
    assert min(final["seconds"].values()) > 0
    assert (tmp_path / "whole/frontier.png").stat().st_size > 10_000
    assert "alpha 0.0005" in (tmp_path / "whole/compare.html").read_text()
    frontier.main(settings)  # complete: prints again, trains and measures nothing
    assert capsys.readouterr().out == printed

    log = common.Run.log

    def stop(run: common.Run, step: int, **numbers) -> None:
        if step == 2:
            raise KeyboardInterrupt
        log(run, step, **numbers)

    monkeypatch.setattr(frontier, "seconds", lambda *given: final["seconds"])
    monkeypatch.setattr(sys.modules[common.study.__module__], "describe", lambda *given: None)
    settings = dataclasses.replace(settings, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common.Run, "log", stop)
        frontier.main(settings)
    assert not (tmp_path / "stopped/final.json").exists()
    frontier.main(settings)
    captured = capsys.readouterr()
    assert "sparse: continues after step 1" in captured.err
    assert captured.out.replace(str(tmp_path / "stopped"), str(tmp_path / "whole")) == printed


@pytest.mark.parametrize(
    "wrong",
    [
        {"alphas": ()},
        {"alphas": (1e-4, 1.00000001e-4)},  # one name for the results of both
        {"alphas": (1e-4, float("nan"))},
        {"alphas": (float("inf"),)},
        {"learning_rate": float("nan")},
        {"learning_rate": 0.0},
    ],
    ids=str,
)
def test_settings_without_a_frontier_are_refused(wrong: dict) -> None:
    name = next(iter(wrong)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--{name} got .*; give"):
        dataclasses.replace(frontier.QUICK, **wrong)


def test_a_negative_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="--samples got -5; give 1 or more"):
        datasets.first_samples(datasets.digits(), -5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_picture(settings: frontier.Settings, tmp_path: Path, seeds: int) -> None:
    marks = {"5e-4": 0.9, "5e-3": 0.8, "dense": 0.92}
    found = {
        f"{float(name):g}" if name != "dense" else name: {
            "accuracy": [accuracy + 0.01 * n for n in range(seeds)],
            "density": [accuracy**30 + 0.001 * n for n in range(seeds)],
        }
        for name, accuracy in marks.items()
    }
    frontier.plot(found, dataclasses.replace(settings, seeds=seeds, dense=True), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_mlp_has_three_inner_layers() -> None:
    model = nnx.eval_shape(lambda: frontier.mlp(nnx.Rngs(0)))
    kernels = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model)) if len(leaf.shape) == 2]
    assert kernels == [(784, 512), (512, 512), (512, 512), (512, 10)]
    images = jax.ShapeDtypeStruct((2, 28, 28), jnp.float32)
    assert nnx.eval_shape(lambda x: frontier.mlp(nnx.Rngs(0))(x), images).shape == (2, 10)


@pytest.mark.parametrize(
    "error", [ValueError, OSError, ImportError, js.CorruptCheckpoint, common.Diverged]
)
def test_what_an_experiment_refuses_is_one_line(error, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(settings: frontier.Settings) -> None:
        raise error("why")

    monkeypatch.setattr(sys, "argv", ["frontier", "--quick"])
    with pytest.raises(SystemExit, match=r"^error: why$"):
        common.start(main, frontier.Settings, "text", frontier.QUICK)
