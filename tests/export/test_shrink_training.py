"""Shrinking while training: the run goes on as the masked one in which what went is held."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._paths import path_of
from jsparse._surgery import copied
from jsparse.export import Record, rebuild, rebuild_training, shrink_training
from jsparse.optim._optimizer import arrays_of
from tests.support import zoo
from tests.support.sampled import one_in

pytest.importorskip("tyro")
from experiments import datasets
from experiments import shrink_training as experiment
from experiments.shrink_training import Held

pytestmark = pytest.mark.standard_dtypes  # stock layers and optax mix types


class Residual(nnx.Module):
    """Two blocks on one stream; a unit inside a block may go, the stream stays."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.a = nnx.Conv(4, 6, (3, 3), use_bias=False, rngs=rngs)
        self.an = nnx.BatchNorm(6, rngs=rngs)
        self.b = nnx.Conv(6, 4, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.bn(self.b(nnx.relu(self.an(self.a(x))))))
        return self.head(x.mean(axis=(1, 2)))


class Dense(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 8, rngs=rngs)
        self.b = nnx.Linear(8, 7, rngs=rngs)
        self.c = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))


class Conv(nnx.Module):
    """A convolution without padding, whose reader takes up constants, and one with."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.an = nnx.BatchNorm(5, rngs=rngs)
        self.b = nnx.Conv(5, 6, (3, 3), padding="VALID", rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.an(self.a(x))), (2, 2), (2, 2))
        return self.head(nnx.relu(self.b(x)).mean(axis=(1, 2)))


def images(key: int) -> Array:
    return jax.random.normal(jax.random.key(key), (6, 8, 8, 3))


def vectors(key: int) -> Array:
    return jax.random.normal(jax.random.key(key), (6, 6))


def close(model: nnx.Module, name: str, units: Any) -> None:
    """Bring the threshold, gate or mask of units to where they are dead."""
    part = getattr(model, name).kernel
    for state, value in (("threshold", 2.0), ("logits", -4.0), ("mask", 0.0)):
        if state in part.state_names:
            variable = getattr(part, state)
            variable[...] = variable[...].at[..., np.asarray(units)].set(value)


def sizes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    pairs = jax.tree_util.tree_leaves_with_path(nnx.state(model))
    return {path_of(keys): np.shape(leaf) for keys, leaf in pairs}


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array) -> Array:
    def loss(model: nnx.Module) -> tuple[Array, Array]:
        y = jnp.arange(len(x)) % 3
        task = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
        return task + js.cost(model), task

    grads, task = nnx.grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return task


BY_UNIT = {"unit": js.Filter(), "scope": js.Each()}
CASES: dict[str, tuple[Callable, Callable, js.Rule, Callable, dict, dict]] = {
    "dense, thresholds by unit, adam": (
        Dense,
        vectors,
        js.Threshold(alpha=1e-2, **BY_UNIT),
        lambda model: optax.inject_hyperparams(optax.adam)(1e-2),
        {"a": [1, 4, 5], "b": [0, 2]},
        {"b": [1]},
    ),
    "convolutions, thresholds by output, several steps": (
        Conv,
        images,
        js.Threshold(alpha=1e-2),
        lambda model: optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
        {"a": [0, 3], "b": [5]},
        {},
    ),
    "residual, random gates, routed": (
        Residual,
        images,
        js.HardConcrete(lam=1e-3, unit=js.Filter()),
        lambda model: js.route(model, optax.adam(1e-2), optax.sgd(0.1)),
        {"a": [2, 3]},
        {"a": [0]},
    ),
}


@pytest.mark.parametrize("name", one_in(3, CASES))
def test_the_run_is_the_masked_one_in_which_what_went_is_held(name: str) -> None:
    make, inputs, rule, tx, first, then = CASES[name]
    pattern = "(a|b)/kernel" if make is not Residual else "a/kernel"
    model = js.sparsify(make(nnx.Rngs(0)), (pattern, rule))
    optimizer = js.Optimizer(model, tx(model))
    for one in first:
        close(model, one, first[one])
    for n in range(2):
        step(model, optimizer, inputs(n))
    whole, whole_optimizer, held, records = model, optimizer, None, Record()
    small, smaller = model, optimizer
    for event, dead in enumerate((first, then)):
        if event:
            for one, units in dead.items():
                close(small, one, units)
                left = np.flatnonzero(getattr(small, one).kernel.rule.role.left[-1])
                close(whole, one, left[units])
        before, was = sizes(small), small
        small, smaller, record = shrink_training(small, smaller, inputs(9))
        assert sizes(was) == before  # left as it is
        if event == 0:
            whole, whole_optimizer = copied(model), nnx.clone(optimizer)
            for one, units in dead.items():
                expected = getattr(model, one).out_features - len(units)
                assert getattr(small, one).out_features == expected
            again = rebuild(make(nnx.Rngs(1)), Record.from_dict(record.to_dict()))
            assert sizes(again) == sizes(js.fold(small))
            fresh = js.sparsify(make(nnx.Rngs(1)), (pattern, rule))
            assert nnx.graphdef(rebuild_training(fresh, record)) == nnx.graphdef(small)
            assert sizes(rebuild_training(fresh, record)) == sizes(small)
        records = records.then(record)
        assert sizes(rebuild(make(nnx.Rngs(1)), records)) == sizes(js.fold(small))
        held = Held(whole, small, records.cuts)
        for n in range(3):
            loss = step(small, smaller, inputs(10 + n))
            expected = step(whole, whole_optimizer, inputs(10 + n))
            held.again()
            np.testing.assert_allclose(loss, expected, rtol=2e-4)
    assert int(smaller.step[...]) == int(whole_optimizer.step[...]) == 8


def held_mlp() -> tuple[nnx.Module, js.Optimizer]:
    """With masks that stay, under a revision that is over."""
    model = js.sparsify(Dense(nnx.Rngs(0)), (".*/kernel", js.Held()))
    for one, units in (("a", [1, 4]), ("b", [0])):
        close(model, one, units)
    tx = js.revise(optax.adam(1e-2), (".*", js.RigL(last=1, every=1)))
    return model, js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))


def test_under_held_masks_it_is_the_masked_run_itself() -> None:
    model = js.sparsify(Dense(nnx.Rngs(0)), (".*/kernel", js.Held()))
    for one, units in (("a", [1, 4]), ("b", [0])):
        close(model, one, units)
    optimizer = js.Optimizer(model, optax.adam(1e-2))
    small, smaller, _ = shrink_training(model, optimizer, vectors(0))
    assert small.a.kernel.mask.shape == (6, 6) and small.b.kernel.weight.shape == (6, 6)
    for n in range(3):  # biases of dead units start at 0 and receive nothing
        expected = step(model, optimizer, vectors(n))
        np.testing.assert_allclose(step(small, smaller, vectors(n)), expected, rtol=1e-5)


def test_state_of_revisions_and_of_layer_wise_optimizers_is_cut_too() -> None:
    model, optimizer = held_mlp()
    small, smaller, _ = shrink_training(model, optimizer, vectors(0))
    assert small.b.kernel.mask.shape == (6, 6)
    shapes = {leaf.shape for leaf in jax.tree.leaves(nnx.state(smaller))}
    assert (6, 8) not in shapes and (6, 6) in shapes
    grads = nnx.grad(
        lambda model: model(vectors(1)).sum(), argnums=nnx.DiffState(0, (nnx.Param, js.Mask))
    )(small)
    smaller.update(small, grads)
    assert int(small.b.kernel.mask[...].sum()) == 36
    lamb = js.Optimizer(model, js.lamb(model, 1e-2))
    _, smaller, _ = shrink_training(model, lamb, vectors(0))
    assert (6, 8) not in {leaf.shape for leaf in jax.tree.leaves(nnx.state(smaller))}


class Statistics(nnx.Module):
    """A layer named as a part of Adam's state, with one inside that is named as one outside."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 6, rngs=rngs)
        self.mu = Dense(rngs)

    def __call__(self, x: Array) -> Array:
        return self.mu(nnx.relu(self.a(x)))


def test_layers_named_as_parts_of_the_state_are_told_apart() -> None:
    model = js.sparsify(Statistics(nnx.Rngs(0)), (".*/?kernel", js.Held()))
    close(model, "a", [1, 4])
    close(model.mu, "a", [0, 3])
    adam = optax.scale_by_adam()
    started = lambda params: adam.init(params)._replace(mu=params)
    optimizer = js.Optimizer(model, optax.GradientTransformation(started, adam.update))
    small, smaller, _ = shrink_training(model, optimizer, vectors(0))
    moments = arrays_of(smaller.opt_state).mu
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.leaves(moments),
        jax.tree.leaves(nnx.state(small, nnx.Param)),
    )


def test_what_cannot_be_done_is_refused() -> None:
    model = js.sparsify(Dense(nnx.Rngs(0)), (".*/kernel", js.Held()))
    optimizer = js.Optimizer(model, optax.adam(1e-2))
    same, same_optimizer, record = shrink_training(model, optimizer, vectors(0))
    assert same is model and same_optimizer is optimizer and not record.cuts  # nothing to remove
    with pytest.raises(TypeError, match="no example inputs"):
        shrink_training(model, optimizer)
    with pytest.raises(TypeError, match="got GradientTransformation"):
        shrink_training(model, optax.adam(1e-2), vectors(0))
    other = js.Optimizer(zoo.MLP(nnx.Rngs(0)), optax.adam(1e-2))
    with pytest.raises(ValueError, match="the optimizer that trains this model"):
        shrink_training(model, other, vectors(0))
    top = js.sparsify(Dense(nnx.Rngs(0)), ("a/kernel", js.Top(density=0.5, unit=js.Filter())))
    with pytest.raises(ValueError, match="a/kernel: under Top a unit may come back"):
        shrink_training(top, js.Optimizer(top, optax.adam(1e-2)), vectors(0))
    close(model, "a", [1])
    with pytest.raises(TypeError, match="ModelAndOptimizer holds the full-size model"):
        shrink_training(model, nnx.ModelAndOptimizer(model, optax.adam(1e-2)), vectors(0))
    tx = js.revise(optax.adam(1e-2), ("b/kernel", js.Gradual(density=0.5, last=4)))
    gradual = js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))
    with pytest.raises(ValueError, match=r"Gradual of 'b/kernel' still.*shrink after step 4"):
        shrink_training(model, gradual, vectors(0))
    factored = js.Optimizer(model, optax.adafactor(1e-2, min_dim_size_to_factor=4))
    with pytest.raises(ValueError, match="in other shapes than theirs"):
        shrink_training(model, factored, vectors(0))


def test_a_layer_is_reset_when_the_whole_one_would_be() -> None:
    rule = js.Threshold(alpha=0.0, reset=0.2, **BY_UNIT)
    model = js.sparsify(Dense(nnx.Rngs(0)), ("[ab]/kernel", rule))
    close(model, "a", range(6))  # of b, 2 of 8 inputs and 4 of 7 units are left: 14 %, or 57 %
    close(model, "b", range(3))
    small, _, _ = shrink_training(model, js.Optimizer(model, optax.sgd(0.0)), vectors(0))
    small.b.kernel.threshold[...] = jnp.full((1, 4), 1e-3)
    np.testing.assert_array_equal(js.advance(small).b.kernel.threshold[...], np.float32(1e-3))


def test_blocks_and_stacked_layers_keep_their_size() -> None:
    rule = js.Threshold(alpha=1e-2, unit=js.Block((2, 4)), scope=js.Each())
    model = js.sparsify(Dense(nnx.Rngs(0)), ("a/kernel", rule))
    model.a.kernel.threshold[...] = model.a.kernel.threshold[...].at[:, 0].set(2.0)
    optimizer = js.Optimizer(model, optax.sgd(0.1))
    small, _, record = shrink_training(model, optimizer, vectors(0))
    assert small is model and not record.cuts


def test_sizes_are_those_of_the_whole() -> None:
    model = js.sparsify(Dense(nnx.Rngs(0)), ("[ab]/kernel", js.Threshold(alpha=1e-2, **BY_UNIT)))
    close(model, "a", [1, 4, 5])
    control = js.TargetDensity(density=0.5, steps=10, every=1)
    optimizer = js.Optimizer(model, optax.sgd(0.0), controls=(control,))
    small, smaller, _ = shrink_training(model, optimizer, vectors(0))
    step(small, smaller, vectors(0))
    part = small.b.kernel
    assert part.rule.role.left[0].count(True) == 5 and len(part.rule.role.left[0]) == 8
    assert part.state["gone"].shape == (1, 7)
    np.testing.assert_allclose(  # the norms of units that stay are whole
        js.masks(small)["b/kernel"], js.masks(model)["b/kernel"][jnp.array([0, 2, 3, 6, 7])]
    )


@pytest.mark.slow
def test_the_experiment_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Digits, with thresholds fast enough to close units in a few steps."""
    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
    settings = experiment.Settings(
        network="mlp", batch=100, epochs=2, every=15, turn=5, threshold_rate=0.3, double=True,
        out=str(tmp_path),
    )  # fmt: skip
    experiment.main(settings)
    final = json.loads((tmp_path / "final.json").read_text())
    assert final["shrunk"]["parameters"] < final["masked"]["parameters"]
    assert final["apart"] < 1e-12
    assert final["shrunk"]["accuracy"] == final["masked"]["accuracy"]
    printed = capsys.readouterr().out
    experiment.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed and "of them shrinking" in printed
    assert not jax.config.jax_enable_x64
