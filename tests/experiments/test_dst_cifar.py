"""Large networks on CIFAR-10 with learned thresholds, and optimizers at large batches, briefly."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._sparse import Learned

pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import datasets, dst_cifar, large_batch, networks
from experiments.datasets import text
from experiments.datasets.sources import Unavailable

pytestmark = pytest.mark.standard_dtypes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*given):
        raise Unavailable("nothing is downloaded here")

    monkeypatch.setattr(text, "locate", nowhere)
    monkeypatch.setattr(datasets, "cifar10", lambda folder: datasets.color_digits())


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("network", "weights", "thresholds"),
    [
        ("vgg-16", 14_977_728, 4_746),
        ("wrn-16-8", 10_954_160, 4_506),
        ("wrn-28-8", 23_340_464, 8_090),
    ],
)
def test_networks_have_the_papers_weights(network: str, weights: int, thresholds: int) -> None:
    make = dst_cifar.network(dst_cifar.Settings(network=network))
    found = []

    def sparse() -> None:
        model = js.sparsify(make(nnx.Rngs(0)), (".*/kernel", js.Threshold()))
        found.append(sum(mask.size for mask in js.masks(model).values()))
        learned = jax.tree.leaves(nnx.state(model, Learned))
        found.append(sum(math.prod(leaf.shape) for leaf in learned))

    jax.eval_shape(sparse)
    assert found == [weights, thresholds]


def test_vgg_starts_as_the_papers() -> None:
    model = nnx.jit(lambda: networks.VGG16(nnx.Rngs(0), narrow=16))()
    for n in range(1, 14):
        kernel = np.asarray(getattr(model, f"conv{n:02}").kernel[...])
        bound = (9 * kernel.shape[2]) ** -0.5
        assert 0.7 * bound < np.abs(kernel).max() <= bound
        assert (np.asarray(getattr(model, f"norm{n:02}").scale[...]) == 0.5).all()
    assert (np.asarray(model.norm.scale[...]) == 1).all()
    with pytest.raises(ValueError, match="got narrow 65; give a divisor from 1 to 64"):
        networks.VGG16(nnx.Rngs(0), narrow=65)


# ---------------------------------------------------------------- recipe


def test_the_rate_falls_twice_and_then_to_0_if_asked() -> None:
    settings = dst_cifar.Settings(epochs=160)
    rate = dst_cifar.learning_rate(settings, 6400)
    steps = 100 * jnp.array([0, 79, 81, 119, 121, 159])
    np.testing.assert_allclose(rate(steps), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-4)
    tail = dst_cifar.learning_rate(dataclasses.replace(settings, decay=0.25), 6400)
    found = tail(100 * jnp.array([110, 140, 160]))
    np.testing.assert_allclose(found, [0.01, 0.0005, 0.0], rtol=1e-3, atol=1e-9)


def test_images_are_black_around_and_then_normalized() -> None:
    images = jnp.full((200, 32, 32, 3), 255, jnp.uint8)
    black = -np.array([0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    white = black + 1 / np.array([0.2023, 0.1994, 0.2010])
    tested = np.asarray(dst_cifar.INPUTS.test(images))
    trained = np.asarray(jax.jit(dst_cifar.INPUTS.train)(jax.random.key(0), images))
    np.testing.assert_allclose(tested[0, 0, 0], white, rtol=1e-4)
    np.testing.assert_allclose(trained.min(axis=(0, 1, 2)), black, rtol=1e-4)
    np.testing.assert_allclose(trained[:, 16, 16], np.tile(white, (200, 1)), rtol=1e-4)


@pytest.mark.slow
def test_dst_cifar(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(
        dst_cifar.QUICK, alphas=(1e-2, 3e-2), narrow=16, epochs=3, samples=320, out=str(tmp_path)
    )
    dst_cifar.main(settings)
    printed = capsys.readouterr().out
    assert "93.93 ± 0.05" in printed and "93.02 ± 0.37" in printed and "digits" in printed
    final = json.loads((tmp_path / "sparse/final.json").read_text())
    assert final["0.03"]["density"][0] < final["0.01"]["density"][0] < 0.98
    assert len(final["0.01"]["layers"]) == 15
    assert "conv01/kernel" in (tmp_path / "sparse/page.html").read_text()
    assert (tmp_path / "sparse/first_steps.png").stat().st_size > 10_000
    dst_cifar.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed


# ---------------------------------------------------------------- large batches


SMALL = dataclasses.replace(
    large_batch.QUICK,
    tasks=("text",),
    networks=("top",),
    ways=("LAMB",),
    batches=(4, 8),
    stretches=160,
    width=16,
    context=8,
    tested=100,
    part=8,
)


@pytest.mark.slow
def test_large_batch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(SMALL, out=str(tmp_path))
    large_batch.main(settings)
    printed = capsys.readouterr().out
    assert (
        "Python's own source" in printed and "(one seed) at 20.0%" in printed and "LAMB" in printed
    )
    finals = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/*/final.json")}
    assert set(finals) == {"top, LAMB, 4, 1", "top, LAMB, 8, 1"}
    for final in finals.values():
        assert final["density"] == pytest.approx(0.2, abs=1e-3)
        assert 2 < float(final["mark"]) < 6  # nats of some hundred characters
    assert (tmp_path / "large_batch_text.png").stat().st_size > 5_000
    large_batch.main(settings)
    assert printed.endswith(capsys.readouterr().out)


@pytest.mark.slow
def test_large_batch_images(tmp_path: Path) -> None:
    """In a process whose convolutions are compiled with all optimizations, for the time's sake.

    Every second pixel of the digits, which have 8x8 of their own.
    """
    program = f"""
import dataclasses
from experiments import datasets, large_batch, networks

digits = datasets.color_digits()
half = {{side: getattr(digits, side)[:, ::2, ::2] for side in ("train_x", "test_x")}}
datasets.cifar10 = lambda folder: dataclasses.replace(digits, **half)
settings = dataclasses.replace(
    large_batch.QUICK, tasks=("images",), networks=("thresholds",), ways=("LARS",),
    batches=(64,), part=64, samples=640, tested=100, epochs=20, out={str(tmp_path)!r},
)
large_batch.main(settings)
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=ROOT)
    (final,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/*/final.json"))
    assert float(final["mark"]) > 30


def test_a_batch_in_parts_gives_the_gradient_of_the_whole() -> None:
    course = large_batch.text(SMALL)
    model = large_batch.made(SMALL, "thresholds", course, 1)
    x, y = course.draw(jax.random.key(0), 8)
    _, whole = large_batch.gradients(model, x, y)
    halves = [large_batch.gradients(model, x[at], y[at])[1] for at in (slice(4), slice(4, 8))]
    for got, want in zip(
        *(jax.tree.leaves(t) for t in (large_batch.mean(halves), whole)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)


def test_thresholds_and_biases_take_the_same_steps_of_adam() -> None:
    """Also where the weights are for another optimizer."""
    course = large_batch.text(SMALL)
    model = large_batch.made(SMALL, "thresholds", course, 1)
    settings = dataclasses.replace(SMALL, ways=("Nesterov SGD",), rates=(0.2,), stretches=512)
    optimizer = large_batch.optimizer_of(settings, model, "dense", "Nesterov SGD", 4, course)
    head = np.asarray(model.head.bias[...])
    ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    for _ in range(2):
        large_batch.move(model, optimizer, ones)
    moved = np.abs(head - np.asarray(model.head.bias[...]))
    thresholds = model.blocks.layers[0].wide.kernel.threshold[...]
    assert moved.min() > 0 and np.ptp(moved) < 1e-6
    np.testing.assert_allclose(np.abs(thresholds), moved[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dst_cifar.Settings(falls=(0.5, 1.0)), "--falls are parts of the run"),
        (lambda: dst_cifar.Settings(network="wrn-16-8", narrow=3), "--narrow is 1, 2, 4 or 8"),
        (lambda: large_batch.Settings(batches=(1500,)), "at most --part 1024 or a multiple"),
        (lambda: large_batch.Settings(tested=99), "--tested got 99; give a multiple of 10"),
        (lambda: large_batch.Settings(density=1.0), "--density is a fraction"),
        (lambda: large_batch.Settings(seeds=0), "--seeds got 0"),
        (lambda: large_batch.Settings(rates=(0.1,)), "for 4 --ways; give one above 0 for each"),
    ],
)
def test_bad_settings(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
