"""Each importance against the formula of its paper, in NumPy."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse import importance

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a, self.norm = nnx.Linear(4, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.b = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.b(nnx.relu(self.norm(self.a(x))))


@pytest.fixture(scope="module")
def net() -> Net:
    net, draw = Net(nnx.Rngs(0)), np.random.default_rng(2)
    fresh = lambda v: jnp.asarray(draw.normal(size=v.shape), jnp.float32)
    nnx.update(net, nnx.map_state(lambda _, v: fresh(v), nnx.state(net, nnx.Param)))
    net.eval()
    return net


@pytest.fixture(scope="module")
def group(net: Net) -> js.export.UnitGroup:
    return js.groups(net, X)["a/kernel:1"]


def loss(model: Net, batch: tuple[Array, Array]) -> Array:
    return ((model(batch[0]) - batch[1]) ** 2).sum(axis=1).mean()


def hidden(net: Net, x: np.ndarray) -> np.ndarray:
    made = x @ np.asarray(net.a.kernel[...], np.float64) + np.asarray(net.a.bias[...])
    scale, shift = np.asarray(net.norm.scale[...]), np.asarray(net.norm.bias[...])
    return np.maximum(made / np.sqrt(1 + 1e-5) * scale + shift, 0)


def sample_gates(net: Net) -> dict[str, np.ndarray]:
    """By weight, the derivative of each sample's loss with respect to a factor of its units.

    Of the weights that read h it is h dL/dh; of those that make it what lies before the bias.
    """
    h, b = hidden(net, X), np.asarray(net.b.kernel[...], np.float64)
    back = 2 * (h @ b + np.asarray(net.b.bias[...]) - Y) @ b.T
    live = back * (h > 0)
    scale = np.asarray(net.norm.scale[...], np.float64) / np.sqrt(1 + 1e-5)
    before = X @ np.asarray(net.a.kernel[...], np.float64)
    made = {"a": live * before * scale, "b": back * h}
    return made | {"scale": live * (before + np.asarray(net.a.bias[...])) * scale}


def norm(p: int) -> Callable:
    def formula(net: Net) -> np.ndarray:
        weights = (net.a.kernel[...], net.norm.scale[...][None], net.b.kernel[...].T)
        return sum((np.abs(np.asarray(w, np.float64)) ** p).sum(axis=0) for w in weights)

    return formula


def lamp(net: Net) -> np.ndarray:
    s = norm(2)(net)
    return np.array([one / s[s >= one].sum() for one in s])


def median(net: Net) -> np.ndarray:
    w = np.asarray(net.a.kernel[...], np.float64).T
    return np.array([sum(np.sqrt(((u - v) ** 2).sum()) for v in w) for u in w])


def taylor(net: Net) -> np.ndarray:
    halves = (slice(0, 3), slice(3, 6))
    return sum(
        np.mean([one[half].mean(axis=0) ** 2 for half in halves], axis=0)
        for one in sample_gates(net).values()
    )


raw = importance.Joined(scale=None)
BATCHES = [(X[:3], Y[:3]), (X[3:6], Y[3:6])]
FORMULAS = {
    "L1": (importance.Norm(1, raw), norm(1)),
    "L2": (importance.Norm(2, raw), norm(2)),
    "LAMP": (importance.LAMP(), lamp),
    "FPGM": (importance.MedianDistance(raw), median),
    "scale": (importance.NormScale(), lambda net: np.abs(np.asarray(net.norm.scale[...]))),
    "Taylor": (importance.Taylor(loss, BATCHES, raw), taylor),
    "Fisher": (
        importance.Fisher(loss, [(X, Y)], raw),
        lambda net: sum((g**2).mean(axis=0) / 2 for g in sample_gates(net).values()),
    ),
    "activation": (
        importance.MeanActivation([X], joined=raw),
        lambda net: np.abs(hidden(net, X)).mean(axis=0),
    ),
    "APoZ": (importance.APoZ([X]), lambda net: 1 - (hidden(net, X) == 0).mean(axis=0)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_scores_are_those_of_the_formula(
    name: str, net: Net, group: js.export.UnitGroup
) -> None:
    score, formula = FORMULAS[name]
    (found,) = score(net, [group])
    np.testing.assert_allclose(found, formula(net), rtol=1e-4)


def test_random_scores_follow_the_seed(net: Net, group: js.export.UnitGroup) -> None:
    first, again, other = (importance.Random(seed)(net, [group])[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_coupled_weights_are_joined_as_asked(net: Net, group: js.export.UnitGroup) -> None:
    each = [importance.Joined(reduce=by, scale=None) for by in (np.sum, np.mean, np.max)]
    total, mean, most = (importance.Norm(2, joined)(net, [group])[0] for joined in each)
    np.testing.assert_allclose(total / 3, mean)  # two kernels and the scale of the norm
    assert (most <= total).all() and (most >= mean).all()
    (scaled,) = importance.Norm(2)(net, [group])
    assert scaled.mean() == pytest.approx(1.0)


def test_a_group_without_such_a_weight_is_never_removed() -> None:
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 3, rngs=rngs))
    group = js.groups(net, X)["layers/0/kernel:1"]
    (score,) = importance.NormScale()(net, [group])
    assert np.isposinf(score).all()
    (score,) = importance.LAMP()(net, [dataclasses.replace(group, members=())])
    assert np.isposinf(score).all()


def test_layers_in_a_loop_are_refused() -> None:
    class Looped(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: Array) -> Array:
            return nnx.jit(lambda layer, x: layer(nnx.relu(layer(x))))(self.a, x)

    model = Looped()
    group = js.export.UnitGroup(
        "a/kernel:0",
        4,
        (js.export.UnitAxis("a/kernel", 0, np.arange(4), js.export.Use.READS),),
        16,
        "",
        "",
    )
    with pytest.raises(ValueError, match="a/kernel runs inside a loop"):
        importance.MeanActivation([X])(model, [group])
