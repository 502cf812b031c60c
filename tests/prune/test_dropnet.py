"""Units that fall: exact numbers, dead for good, and the scores against their formulas."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.prune import (
    APoZ,
    Maximum,
    Minimum,
    RandomUnits,
    activations,
    drop_units,
    dropnet,
    each_round,
)
from jsparse.prune._dropnet import unit_shapes
from tests.support.sampled import one_in

X = jax.random.normal(jax.random.key(0), (6, 5, 5, 2))


class Net(nnx.Module):
    """A convolution, a dense layer and an output layer, with biases that are not 0."""

    def __init__(self, rngs: nnx.Rngs):
        some = jax.nn.initializers.normal(1.0)
        self.conv = nnx.Conv(2, 10, (3, 3), bias_init=some, rngs=rngs)
        self.fc = nnx.Linear(10, 20, bias_init=some, rngs=rngs)
        self.out = nnx.Linear(20, 3, bias_init=some, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.conv(x)).mean(axis=(1, 2))
        return self.out(nnx.relu(self.fc(x)))


PATTERN = "(conv|fc)/(kernel|bias)"
read = activations(nnx.relu, "conv", "fc")


def net(seed: int = 0) -> nnx.Module:
    return js.sparsify(Net(nnx.Rngs(seed)), (PATTERN, js.Held()))


def train(model: nnx.Module, round: js.prune.Round) -> nnx.Module:
    """Moves every weight and bias, masked ones too, as momentum and decay may."""
    for n, part in enumerate(js.prune.held_parts(model).values()):
        key = jax.random.key(10 * round.number + n)
        part.weight[...] = part.weight[...] + jax.random.normal(key, part.weight.shape)
    return model


def alive(model: nnx.Module) -> dict[str, np.ndarray]:
    """Which units are left, by the masks of the biases."""
    masks = js.masks(model)
    return {path: np.asarray(masks[f"{path}/bias"]) > 0 for path in ("conv", "fc")}


SCORES: Mapping[str, Any] = {
    "minimum": Minimum(read, [X]),
    "maximum": Maximum(read, [X]),
    "APoZ": APoZ(read, [X]),
    "random": RandomUnits(3),
}


@pytest.mark.parametrize("choose", [js.prune.globally, js.prune.by_layer()])
@pytest.mark.parametrize("score", one_in(2, SCORES))
def test_so_many_units_are_left_and_whole_ones(score: str, choose: Any) -> None:
    asked = each_round(0.8, 2)
    found = list(dropnet(net(), train, SCORES[score], asked, choose=choose))
    left = [alive(model) for _, model in found]
    for density, units in zip([1.0, *asked], left, strict=True):
        counts = [int(one.sum()) for one in units.values()]
        if choose is js.prune.globally:
            assert sum(counts) == round(density * 30)
        else:
            assert counts == [round(density * 10), round(density * 20)]
    for early, late in itertools.pairwise(left):
        assert all((late[path] <= early[path]).all() for path in late)
    for (_, model), units in zip(found, left, strict=True):
        for path in units:
            mask = np.asarray(js.masks(model)[f"{path}/kernel"])
            assert (mask == units[path]).all()  # all incoming weights of a unit, or none


def test_a_dropped_unit_is_dead_and_its_bias_does_not_revive_it() -> None:
    *_, (_, model) = dropnet(net(), train, Minimum(read, [X]), (0.5,))
    model = train(model, js.prune.Round(9, 0.5, 0))  # bias and weights go on being trained
    activations = read(model, X)
    for path, units in alive(model).items():
        values = np.asarray(activations[f"{path}/kernel"])
        assert (values[..., ~units] == 0).all() and not units.all()
        assert (values[..., units] != 0).any()


def test_dropping_equals_a_mask_on_the_activations() -> None:
    """What the authors' code does."""
    model = net()
    small = drop_units(model, SCORES["minimum"](model, unit_shapes(model)), 0.5)
    left = alive(small)
    a = np.asarray(nnx.relu(model.conv(X))) * left["conv"]
    a = np.asarray(nnx.relu(model.fc(jnp.asarray(a.mean(axis=(1, 2)))))) * left["fc"]
    np.testing.assert_allclose(small(X), model.out(jnp.asarray(a)), rtol=1e-5, atol=1e-5)


def test_a_small_network_of_the_units_left_is_the_same() -> None:
    *_, (_, model) = dropnet(net(), train, Minimum(read, [X]), (0.5,))
    keep, plain = alive(model), js.fold(model)
    fc = np.asarray(plain.fc.kernel[...])[keep["conv"]][:, keep["fc"]]
    a = np.asarray(nnx.relu(plain.conv(X)).mean(axis=(1, 2)))[:, keep["conv"]]
    a = np.maximum(a @ fc + np.asarray(plain.fc.bias[...])[keep["fc"]], 0)
    out = a @ np.asarray(plain.out.kernel[...])[keep["fc"]] + np.asarray(plain.out.bias[...])
    np.testing.assert_allclose(model(X), out, rtol=1e-4, atol=1e-5)


def test_scores_are_means_over_samples_and_places_of_all_batches() -> None:
    model = net()
    conv = np.asarray(nnx.relu(model.conv(X)))
    fc = np.asarray(nnx.relu(model.fc(conv.mean(axis=(1, 2)))))
    batches = [X[:4], X[4:]]  # of unequal size: each sample counts once
    shapes = unit_shapes(model)
    want = {"conv/kernel": conv.mean((0, 1, 2)), "fc/kernel": fc.mean(0)}
    for kind, sign in ((Minimum, 1), (Maximum, -1)):
        found = kind(read, batches)(model, shapes)
        for path in want:
            np.testing.assert_allclose(found[path], sign * want[path], rtol=1e-5)
    found = APoZ(read, batches)(model, shapes)
    np.testing.assert_allclose(found["conv/kernel"], (conv != 0).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["fc/kernel"], (fc != 0).mean(0), rtol=1e-5)


def test_negative_activations_count_by_size() -> None:
    score = Minimum(lambda model, x: {"fc/kernel": jnp.array([[-3.0, 1.0], [1.0, -1.0]])}, [X])
    assert score(net(), {"fc/kernel": (2,)})["fc/kernel"].tolist() == [2.0, 1.0]


def test_weights_are_rewound_by_default() -> None:
    given = []

    def noting(model: nnx.Module, round: js.prune.Round) -> nnx.Module:
        given.append({path: np.asarray(p.weight[...]) for path, p in parts(model).items()})
        return train(model, round)

    parts = js.prune.held_parts
    list(dropnet(net(), noting, RandomUnits(0), (0.5, 0.3)))
    for one in given:
        assert all(np.array_equal(one[path], given[0][path]) for path in one)


def test_a_kill_changes_nothing(tmp_path: Any) -> None:
    keep = js.prune.Folder(tmp_path)
    method = lambda: dropnet(net(), train, Minimum(read, [X]), (0.7, 0.4), keep=keep)
    first = method()
    next(first), next(first)  # and no more
    again = [js.masks(model) for _, model in method()]
    want = [js.masks(m) for _, m in dropnet(net(), train, Minimum(read, [X]), (0.7, 0.4))]
    assert all(np.array_equal(a[p], w[p]) for a, w in zip(again, want, strict=True) for p in w)
    with pytest.raises(ValueError, match="score is"):
        dropnet(net(), train, Maximum(read, [X]), (0.7, 0.4), keep=keep)


class Normed(nnx.Module):
    """A norm between the weights and the nonlinearity."""

    def __init__(self, rngs: nnx.Rngs):
        self.fc = nnx.Linear(5, 8, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, bias_init=jax.nn.initializers.ones, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def hidden(self, x: Array) -> Array:
        return nnx.relu(self.norm(self.fc(x)))


@pytest.mark.standard_dtypes
def test_what_a_norm_adds_falls_along() -> None:
    x = jax.random.normal(jax.random.key(1), (6, 5))
    model = js.sparsify(Normed(nnx.Rngs(0)), ("fc/kernel|norm/.*", js.Held()))
    along = {"fc/kernel": ("norm/scale", "norm/bias")}
    score = Minimum(lambda model, x: {"fc/kernel": model.hidden(x)}, [x])
    small = drop_units(model, score(model, unit_shapes(model, along)), 0.5, along=along)
    mean = small.hidden(x).mean(0)
    assert (mean == 0).sum() == 4 and (np.asarray(js.masks(small)["norm/bias"]) > 0).sum() == 4
    with pytest.raises(ValueError, match="norm/bias does not belong to any units"):
        drop_units(model, {}, 0.5)
    model = js.sparsify(model, ("out/bias", js.Held()))
    with pytest.raises(ValueError, match=r"out/bias has units \(2,\), but fc/kernel has \(8,\)"):
        drop_units(model, {}, 0.5, along={"fc/kernel": (*along["fc/kernel"], "out/bias")})


def test_heads_are_units_of_two_axes() -> None:
    layer = nnx.LinearGeneral(6, (2, 4), rngs=nnx.Rngs(0))
    model = js.sparsify(nnx.Sequential(layer), (".*/(kernel|bias)", js.Held()))
    scores = {"layers/0/kernel": jnp.arange(8.0).reshape(2, 4)}
    masks = js.masks(drop_units(model, scores, 0.5))
    assert masks["layers/0/bias"].tolist() == [[0] * 4, [1] * 4]
    assert masks["layers/0/kernel"][3].tolist() == [[0] * 4, [1] * 4]


def only_kernels() -> nnx.Module:
    return js.sparsify(Net(nnx.Rngs(0)), ("(conv|fc)/kernel", js.Held()))


def with_head() -> nnx.Module:
    return js.sparsify(Net(nnx.Rngs(0)), ("fc/(kernel|bias)|out/bias", js.Held()))


def flat(model: nnx.Module) -> dict[str, Array]:
    return {path: jnp.arange(float(s[0])) for path, s in unit_shapes(model).items()}


class Twice(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.fc = nnx.Linear(5, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc(nnx.relu(self.fc(x)))


REFUSED = {
    "bias": (
        lambda: dropnet(only_kernels(), train, RandomUnits(0), (0.5,)),
        r"conv/bias would reactivate dropped units.*kernel\|bias",
    ),
    "bias alone": (
        lambda: dropnet(with_head(), train, RandomUnits(0), (0.5,)),
        "out/bias does not belong to any units",
    ),
    "along": (
        lambda: dropnet(net(), train, RandomUnits(0), (0.5,), along={"nothing": ()}),
        "nothing does not belong to any units",
    ),
    "collapse": (
        lambda: drop_units(net(), {"conv/kernel": jnp.zeros(10), "fc/kernel": jnp.ones(20)}, 0.5),
        "conv/kernel would lose all weights",
    ),
    "scores": (
        lambda: drop_units(net(), {"conv/kernel": jnp.ones(10)}, 0.5),
        "fc/kernel has units",
    ),
    "nan": (
        lambda: drop_units(net(), {"conv/kernel": jnp.full(10, jnp.nan)}, 0.5),
        "conv/kernel: scores are NaN",
    ),
    "no batches": (lambda: Minimum(read, [])(net(), {"fc/kernel": (20,)}), "no batches"),
    "absent": (
        lambda: Minimum(activations(nnx.relu, "fc"), [X])(net(), {"conv/kernel": (10,)}),
        "conv/kernel has no activations",
    ),
    "shape": (
        lambda: Minimum(read, [X])(net(), {"fc/kernel": (21,)}),
        r"fc/kernel: the activations have shape \(6, 20\)",
    ),
    "no layer": (lambda: activations(nnx.relu, "fc9")(net(), X), "'fc9' is not a layer"),
    "twice": (
        lambda: activations(nnx.relu, "fc")(Twice(nnx.Rngs(0)), jnp.ones((2, 5))),
        "called 2 times",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_reading_activations_compiles_and_leaves_the_model_as_it_is() -> None:
    model = net()
    plain, compiled = read(model, X), nnx.jit(read)(model, X)
    assert plain.keys() == compiled.keys()
    for path in plain:
        np.testing.assert_allclose(plain[path], compiled[path], rtol=1e-5, atol=1e-6)
    assert isinstance(model.fc, nnx.Linear)
