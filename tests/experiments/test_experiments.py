"""Each experiment runs as a user runs it, briefly, on scikit-learn's digits."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
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

from experiments import common, datasets, dst_lstm, dst_mnist, gibbs_cifar, networks, structured
from experiments.bench import blocks as bench_blocks
from experiments.bench import runtimes, trained
from experiments.common.train import train

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("digits_for_mnist")]


def test_dst_mnist(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dst_mnist.Settings(alphas=(5e-3, 1e-2), seeds=2, epochs=3, out=str(tmp_path))
    dst_mnist.main(dataclasses.replace(settings, dense=False))
    with pytest.raises(ValueError, match=r"learning_rate: 0.01 there, 0.02 now"):
        dst_mnist.main(dataclasses.replace(settings, learning_rate=0.02))
    assert not (tmp_path / "dense").exists()  # refused before anything is trained
    capsys.readouterr()
    dst_mnist.main(settings)  # the dense network, added later
    printed, progress = capsys.readouterr()
    assert "dense: LeNet300 (266,610 parameters, dense) on digits" in progress
    assert "2 runs at once, epochs 1 to 3 of 22 steps" in progress
    assert "97.69 ± 0.14" in printed and "alpha 0.005" in printed and "digits" in printed
    final = json.loads((tmp_path / "sparse/final.json").read_text())
    low, high = final["0.005"], final["0.01"]
    assert np.shape(low["accuracy"]) == np.shape(low["density"]) == (2,)
    assert max(high["density"]) < min(low["density"]) < 0.95  # a higher alpha is sparser
    assert min(json.loads((tmp_path / "dense/final.json").read_text())["0"]["accuracy"]) > 0.5
    names = {path.name for path in (tmp_path / "sparse").iterdir()}
    assert {"page.html", "first_steps.png", "model.json", "masks.npz"} <= names
    assert (
        f"page: {tmp_path / 'sparse/page.html'}\ncompared: {tmp_path / 'compare.html'}" in printed
    )
    page = (tmp_path / "sparse/page.html").read_text()
    assert "alpha 0.005" in page and "fc1/kernel" in page and "shrunk" in page
    dst_mnist.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed
    images = datasets.mnist("")
    dense, sparse = trained.pair(settings, images)  # of the first seed and alpha
    assert trained.accuracy(sparse, images) == pytest.approx(100 * low["accuracy"][0])
    kernels = [w for path, w in runtimes.weights(sparse).items() if path.endswith("kernel")]
    kept = sum(map(np.count_nonzero, kernels)) / sum(w.size for w in kernels)
    assert kept == pytest.approx(low["density"][0]) and trained.accuracy(dense, images) > 50


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seeds": 0}, "--seeds got 0; give 1 or more"),
        ({"epochs": 0}, "--epochs got 0"),
        ({"density": 0.0}, "--density is a fraction"),
        ({"decay": 2.0}, "--decay is a fraction"),
        ({"alphas": (1e-3, 1e-3)}, "each once"),
        ({"alphas": ()}, "give one or more"),
        ({"alphas": (1e-3, 1e-2), "density": 0.1}, "one alpha above 0"),
        ({"batch": 10_000}, "at most the 1437 training samples"),
    ],
)
def test_bad_settings(changed: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        dst_mnist.main(dst_mnist.Settings(out=str(tmp_path), **changed))


@pytest.mark.slow
def test_lenet5_ends_at_a_given_density(tmp_path: Path) -> None:
    dst_mnist.main(
        dst_mnist.Settings(
            network="lenet-5",
            density=0.5,
            alphas=(5e-3,),
            seeds=1,
            epochs=6,
            dense=False,
            decay=0.3,
            out=str(tmp_path),
        )
    )
    final = json.loads((tmp_path / "sparse/final.json").read_text())["0.005"]
    assert final["density"][0] == pytest.approx(0.5, rel=0.1)


@pytest.mark.slow
def test_dst_lstm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dst_lstm.UNITS, "lstm-a", 16)
    dst_lstm.main(
        dst_lstm.Settings(alphas=(1e-2,), seeds=1, epochs=2, dense=False, out=str(tmp_path))
    )
    final = json.loads((tmp_path / "sparse/final.json").read_text())["0.01"]
    assert 0 < final["density"][0] < 1
    assert len(final["layers"]) == 4  # input and recurrent kernels of two cells; not the classifier


def test_a_lost_run_stops_with_step_and_densities(tmp_path: Path) -> None:
    settings = dst_mnist.Settings(
        seeds=1, epochs=2, learning_rate=1e6, dense=False, out=str(tmp_path)
    )
    with pytest.raises(common.Diverged, match=r"at step \d+; densities: fc1/kernel [\d.]+%"):
        dst_mnist.main(settings)
    assert not (tmp_path / "sparse/final.json").exists()


def test_weights_lost_in_the_last_step_of_an_epoch_are_not_saved(tmp_path: Path) -> None:
    overflow = optax.stateless(lambda updates, _: jax.tree.map(lambda g: g * jnp.inf, updates))
    images = datasets.first_samples(datasets.digits(), 64)
    sweep = common.Sweep(networks.LeNet300, overflow, 64, common.side_by_side)
    run = common.open_run(tmp_path, dst_mnist.Settings())
    with pytest.raises(common.Diverged, match=r"a weight of run 1 is nan at step 0; .*0 is kept"):
        train(run, sweep, images, start=lambda: sweep.start([1, 2], [0.0, 0.0]), epochs=2)
    assert run.checkpoints.steps() == [0]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "experiments.dst_mnist",
        "--seeds",
        "1",
        "--epochs",
        "6",
        "--alphas",
        "5e-3",
        "--no-dense",
    ]
    # an address that refuses at once: no download, so the digits
    environment = os.environ | {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    environment.pop("JSPARSE_DATA", None)
    # what one run compiled serves the other two
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run(folder: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    killed = run("killed")
    for _ in range(1200):
        if len(list((tmp_path / "killed/sparse/checkpoints").glob("step_*"))) > 1:
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert run("killed").wait() == run("whole").wait() == 0
    one, two = (
        json.loads((tmp_path / f / "sparse/final.json").read_text()) for f in ("killed", "whole")
    )
    assert one == two


def test_products_with_blocks_are_timed(capsys: pytest.CaptureFixture) -> None:
    """And checked against the dense product, which would raise."""
    small = {"sizes": (64,), "blocks": (16,), "batch": 8, "rounds": 1, "dtype": "float32"}
    bench_blocks.main(bench_blocks.Settings(densities=(0.25, 0.01), **small))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if row[:1] == ["16"]] == [["16", "25.0%"], ["16", "6.2%"]]
    with pytest.raises(ValueError, match="multiple of --blocks 16"):
        bench_blocks.Settings(**small | {"sizes": (40,)})


def test_run_lstm_is_the_stock_cell_over_time() -> None:
    cell = js.OptimizedLSTMCell(5, 7, rule=js.Threshold(), rngs=nnx.Rngs(0))
    cell.dense_h.kernel.threshold[...] = jnp.full(28, 0.2)
    x = jax.random.normal(jax.random.key(1), (3, 6, 5))

    def loss(cell, ours):
        out = networks.run_lstm(cell, x) if ours else nnx.RNN(cell)(x).swapaxes(0, 1)
        return jnp.sin(out).sum()

    for a, b in zip(
        *(jax.tree.leaves(nnx.grad(loss)(cell, o)) for o in (True, False)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_runs_side_by_side_and_in_turn_agree() -> None:
    images = datasets.digits()
    x, y = jnp.asarray(images.train_x[:256]), jnp.asarray(images.train_y[:256])

    def make(rngs):
        return js.sparsify(networks.LeNet300(rngs), (".*/kernel", js.Threshold()))

    losses = []
    for over in (common.side_by_side, common.in_turn):
        sweep = common.Sweep(make, optax.sgd(0.01), 64, over)
        _, trace = sweep.epoch(sweep.start([1, 2], [1e-3, 1e-2]), x, y)
        losses.append(trace.loss)
        assert trace.density.shape == (2, 4, 3)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert (losses[0][0] != losses[0][1]).all()


class Mode(nnx.Module):
    """Says class 1 in eval mode, class 0 in train mode."""

    def __init__(self, rngs):
        self.bias = nnx.Param(jnp.zeros((1, 2)))
        self.deterministic = False

    def __call__(self, x):
        return 9.0 * jax.nn.one_hot(jnp.full(len(x), int(self.deterministic)), 2) + self.bias[...]


def test_the_model_is_in_train_mode_for_the_loss_and_in_eval_mode_for_accuracy() -> None:
    sweep = common.Sweep(Mode, optax.sgd(0.0), 4, common.side_by_side)
    x, y = jnp.zeros((8, 2), jnp.uint8), jnp.ones(8, int)
    runs, trace = sweep.epoch(sweep.start([1], [0.0]), x, y)
    np.testing.assert_allclose(trace.loss, 9, atol=1e-3)
    assert sweep.accuracy(runs, x, y) == [1.0] and sweep.model(runs, 0).deterministic


@pytest.mark.parametrize("over", [common.side_by_side, common.in_turn])
def test_each_step_prepares_its_images_with_a_new_key_of_the_run(over) -> None:
    noise = lambda key, images: jax.random.normal(key, images.shape)
    inputs = common.Inputs(train=noise, test=lambda images: jnp.ones(images.shape))
    make = lambda rngs: nnx.Linear(3, 2, rngs=rngs)
    x, y = jnp.zeros((8, 3), jnp.uint8), jnp.zeros(8, int)  # the loss depends on the noise alone

    def two_epochs(seeds):
        """Losses [runs, steps]; the second epoch in a new sweep, from a copy of the state."""
        losses = []
        runs = common.Sweep(make, optax.sgd(0.0), 4, over).start(seeds, [0.0] * len(seeds))
        for _ in range(2):
            sweep = common.Sweep(make, optax.sgd(0.0), 4, over, inputs=inputs)
            runs, trace = sweep.epoch(jax.tree.map(jnp.copy, runs), x, y)
            losses.append(trace.loss)
        return np.concatenate(losses, axis=1)

    losses = two_epochs([1, 2])
    assert len(np.unique(losses)) == 8
    np.testing.assert_allclose(two_epochs([2])[0], losses[1], rtol=1e-6)


@pytest.mark.slow
def test_gibbs_cifar_quick(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(
        gibbs_cifar.QUICK,
        structures=("filter",),
        epochs=2,
        samples=1280,
        density=0.25,
        out=str(tmp_path),
    )
    gibbs_cifar.main(settings)
    printed = capsys.readouterr().out
    assert all(f"filter, {name}" in printed for name in ("Gibbs", "magnitude", "random"))
    finals = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/final.json")}
    assert len(finals) == 4 and finals["dense"]["accuracy"][0] > 0.5
    for name in finals.keys() - {"dense"}:
        assert finals[name]["density"] == [0.25]
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert "dense" in (tmp_path / "compare.html").read_text()
    gibbs_cifar.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_structured_quick(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured, "UNITS", {"channels": js.Channel()})
    settings = dataclasses.replace(
        structured.QUICK,
        methods=("magnitude", "L0"),
        densities=(0.25,),
        prices=(1e-2,),
        epochs=2,
        samples=1280,
        out=str(tmp_path),
    )
    structured.main(settings)
    printed = capsys.readouterr().out
    assert "L0, channels, 0.01" in printed and "magnitude, N of 8, 0.25" in printed
    finals = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/final.json")}
    assert finals["magnitude, channels, 0.25"]["density"] == [0.25]
    assert finals["magnitude, channels, 0.25"]["channels"][0] < 0.7
    assert finals["magnitude, N of 8, 0.25"]["channels"][0] == 1.0
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000
    assert "dense" in (tmp_path / "compare.html").read_text()


def test_random_masks_keep_their_density() -> None:
    model = js.sparsify(networks.SmallConvNet(nnx.Rngs(0)), (gibbs_cifar.SPARSE, js.Held()))
    random = gibbs_cifar.with_random_masks(model, js.Kernel(), 0.1, jax.random.key(0))
    assert js.summary(random).density == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gibbs_cifar.Settings(density=1.0), "--density is a fraction"),
        (lambda: gibbs_cifar.Settings(stretch=0), "--stretch and --samples are 1 or more"),
        (lambda: structured.Settings(densities=(0.3,)), "multiples of 1/8"),
        (lambda: structured.Settings(prices=(0.0,)), "--prices are above 0"),
    ],
)
def test_bad_settings_of_comparisons(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
