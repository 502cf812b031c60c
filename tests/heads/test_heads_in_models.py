"""Heads in models: put in, edited, folded, shrunk, and shown on a page."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse
from jsparse import heads

CLASSES = 3


class Net(nnx.Module):
    """A hidden layer, of which units 0 and 5 are dead, and a classifier without a bias."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.body = nnx.Linear(4, 8, rngs=rngs)
        self.body.kernel[...] = self.body.kernel[...].at[:, jnp.array([0, 5])].set(0.0)
        self.fc = nnx.Linear(8, CLASSES, use_bias=False, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.body(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.features(x))


@pytest.fixture(scope="module")
def made() -> tuple[Net, jax.Array, heads.Point]:
    """A net, inputs and a head for it with few features."""
    net, x = Net(), jax.random.normal(jax.random.key(0), (90, 4))
    labels = np.asarray(net.features(x))[:, 2:5].argmax(axis=1)
    path = heads.elastic_net_path(
        net.features(x), labels, points=4, smallest=0.1, validation=0.0, key=jax.random.key(1)
    )
    return net, x, path.points[2]


def test_a_head_stands_in_a_model_and_the_dead_features_leave(made) -> None:
    net, x, point = made
    model = heads.replace(net, "fc/kernel", point)
    wanted = point.head()(net.features(x))
    np.testing.assert_allclose(model(x), wanted, atol=1e-5)
    assert net.fc.bias is None and not isinstance(net.fc.kernel, jsparse.Sparse)  # a copy
    assert jsparse.summary(model).rows["fc/kernel"].kept == point.kept
    np.testing.assert_allclose(jsparse.fold(model)(x), wanted, atol=1e-5)
    small, _ = jsparse.shrink(jsparse.fold(model), x)
    np.testing.assert_allclose(small(x), wanted, atol=1e-5)
    used = int(point.weight.any(axis=1).sum())
    assert small.body.kernel.shape == (4, used) and used < 6


def test_ablating_changes_one_class_alone(made) -> None:
    net, x, point = made
    model = heads.replace(net, "fc/kernel", point)
    (feature, output), *_ = np.argwhere(point.weight)
    edited = heads.ablate(model, "fc/kernel", [int(feature)], int(output))
    mask = np.array(point.weight != 0)
    mask[feature, output] = False
    np.testing.assert_array_equal(edited.fc.kernel.read_mask(), mask)
    np.testing.assert_array_equal(model.fc.kernel.read_mask(), point.weight != 0)
    others = [n for n in range(CLASSES) if n != output]
    np.testing.assert_array_equal(edited(x)[:, others], model(x)[:, others])
    assert (edited(x) != model(x)).any()
    dense = heads.ablate(net, "fc/kernel", np.array([1, 2]), 0)  # of a head that is not sparse
    zeros = np.argwhere(np.asarray(jsparse.fold(dense).fc.kernel[...]) == 0).tolist()
    assert zeros == [[1, 0], [2, 0]]


def test_a_feature_taken_away_counts_as_its_mean(made) -> None:
    net, x, point = made
    (feature, output), *_ = np.argwhere(point.weight)
    weight = np.where(np.indices(point.weight.shape)[0] == feature, 0, point.weight)
    weight = np.where(np.arange(CLASSES) == output, weight, point.weight)
    wanted = dataclasses.replace(point, weight=weight).head()(net.features(x))
    model = heads.replace(net, "fc/kernel", point)
    edited = heads.ablate(model, "fc/kernel", int(feature), int(output), means=point.mean)
    np.testing.assert_allclose(edited(x), wanted, atol=1e-5)
    dense = heads.ablate(net, "fc/kernel", [1, 2], 0, means=point.mean)  # it had no bias
    np.testing.assert_allclose(dense(x)[:, 1:], net(x)[:, 1:], atol=1e-6)
    lost = point.mean[1:3] @ np.asarray(net.fc.kernel[1:3, 0])
    np.testing.assert_allclose(dense.fc.bias[...], [lost, 0, 0], atol=1e-6)


def test_a_feature_named_twice_is_taken_away_once() -> None:
    class Bias(nnx.Param):
        """Of a kind that an optimizer may leave out."""

    layer = nnx.Linear(4, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer.bias = Bias(layer.bias[...])
    once, twice = (heads.ablate(layer, "kernel", n, 2, means=np.ones(4)) for n in ([1], [1, 1]))
    np.testing.assert_array_equal(once.bias[...], twice.bias[...])
    assert (once.bias.dtype, type(once.bias)) == (jnp.bfloat16, Bias)


def test_a_head_of_another_size_is_refused(made) -> None:
    net, _, point = made
    with pytest.raises(ValueError, match=r"for body/kernel, \[4, 8\]; got \[8, 3\]"):
        heads.replace(net, "body/kernel", point)
    with pytest.raises(ValueError, match="the model has body/kernel, fc/kernel"):
        heads.replace(net, "fc/bias", point)


def test_the_page_shows_what_a_class_reads(made, tmp_path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    net, x, point = made
    images = np.arange(90 * 6 * 5).reshape(90, 6, 5) % 251
    where = heads.page(
        point, net.features(x), images.astype(np.float32), tmp_path / "head.html",
        classes=[1], names=["a<b", "<i>", "c"],
    )  # fmt: skip
    text = where.read_text()
    assert "&lt;i&gt;" in text and "<h2>a&lt;b" not in text and "<i>&" not in text
    assert text.count("data:image/png") == np.count_nonzero(point.weight[:, 1])
    largest = int(np.abs(point.weight[:, 1]).argmax())
    assert text.index(f"<tr><td>{largest}") == text.index("<tr><td>")
    assert f"{point.weight[largest, 1]:+.3f}" in text
    empty = heads.page(made[2], net.features(x), images, tmp_path / "all.html", most=1, beside=2)
    assert "class 2" in empty.read_text() and "accuracy" in empty.read_text()
    other = dataclasses.replace(made[2], regression=True)
    other = heads.page(other, net.features(x), images, tmp_path / "target.html", most=1, beside=2)
    text = other.read_text()
    assert "features per target" in text and "<h2>target 2" in text and "R²" in text
    assert "accuracy" not in text and "class 2" not in text
