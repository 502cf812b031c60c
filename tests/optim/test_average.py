"""Averages of sparse models: against formulas, links over time, every kind of rule, mismatches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse._variables import stored
from tests.support.coupled import coupled

RULES = {
    "threshold": js.Threshold(alpha=0.1),
    "soft": js.SoftThreshold(s_init=-2.0),
    "power": js.Powerpropagation(density=0.4),
    "gates": js.HardConcrete(lam=0.1),
    "top": js.Top(density=0.3, scope=js.WholeModel()),
    "held": js.Held(),
    "keep": js.Keep(),
}


class Net(nnx.Module):
    """A layer for each rule, and everything else that a model may hold."""

    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        for name in (*RULES, "dense"):
            setattr(self, name, nnx.Linear(5, 4, rngs=rngs))
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.steps, self.key = nnx.Variable(jnp.array(seed)), nnx.Variable(jax.random.key(seed))
        self.words, self.empty = nnx.Variable({"a": jnp.full(2, seed * 1.0)}), nnx.Variable(None)


def net(seed: int) -> Net:
    return js.sparsify(Net(seed), *((f"{name}/kernel", rule) for name, rule in RULES.items()))


def kernels(model: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(model, name).kernel[...]) for name in (*RULES, "dense")}


def test_what_the_models_read_is_averaged_under_every_rule() -> None:
    model, target = net(1), js.hold(net(2))
    model.norm.mean[...], before = jnp.full(4, 8.0), nnx.state(model)
    move = nnx.jit(js.average, static_argnames="keep")
    new = move(target, model, jnp.array(0.25), keep=None)
    fold = nnx.jit(js.fold)
    old, read = kernels(fold(target)), kernels(fold(model))
    for name, kernel in kernels(new).items():
        np.testing.assert_allclose(kernel, 0.75 * old[name] + 0.25 * read[name], rtol=2e-6)
    np.testing.assert_array_equal(new.norm.mean[...], np.full(4, 2.0))
    np.testing.assert_array_equal(stored(new.words)["a"], np.full(2, 1.75))
    assert int(new.steps[...]) == 1 and stored(new.empty) is None
    assert new.key[...] == target.key[...]
    own, streams = (jax.tree.leaves(nnx.state(one.drop)) for one in (target, new))
    assert len(own) == 2 and all(a == b for a, b in zip(own, streams, strict=True))
    same = move(target, model, 1.0, keep="mask")
    for name, kernel in kernels(same).items():
        np.testing.assert_allclose(kernel, read[name], rtol=1e-6)
        np.testing.assert_array_equal(kernel == 0, read[name] == 0)
    for name, mask in js.masks(same).items():
        np.testing.assert_array_equal(mask, read[name.partition("/")[0]] != 0)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before, nnx.state(model)))


@pytest.mark.parametrize("keep", ["mask", "count", None])
def test_a_target_never_holds_more_links_than_asked(keep: Any) -> None:
    """Over 40 updates in a scan, with masks that change, against NumPy; two stacked layers."""
    keys, shape = jax.random.split(jax.random.key(0)), (40, 2, 6, 5)
    weights = jax.random.normal(keys[0], shape)
    density = jnp.array([0.2, 0.6]).reshape(1, 2, 1, 1)
    masks = (jax.random.uniform(keys[1], shape) < density).astype(jnp.float32)
    masks = jnp.repeat(masks[::5], 5, axis=0)  # a new one every fifth step

    @nnx.vmap
    def stack(key: Any) -> nnx.Linear:
        return nnx.Linear(6, 5, rngs=nnx.Rngs(key))

    model = js.sparsify(stack(keys), ("kernel", js.Held(role=js.Role(stack=1))))
    parts, start = nnx.split(js.hold(model, {"kernel": masks[0]}))

    def step(state: Any, given: Any) -> Any:
        now = nnx.clone(model)
        now.kernel.weight[...], now.kernel.mask[...] = given
        target = nnx.split(js.average(nnx.merge(parts, state), now, 0.3, keep=keep))[1]
        return target, (target["kernel"]["mask"][...], target["kernel"]["weight"][...])

    _, (links, values) = jax.lax.scan(step, start, (weights, masks))
    value = np.asarray(model.kernel[...] * masks[0])
    held = np.asarray(masks[0])
    for n in range(40):
        asked = np.asarray(masks[n])
        value = np.float32(0.7) * value + np.float32(0.3) * np.asarray(weights[n]) * asked
        held = asked if keep == "mask" else np.maximum(held, asked)
        for layer in range(2 if keep == "count" else 0):
            size = np.where(held[layer] > 0, np.abs(value[layer]), -1)
            least = np.sort(size.ravel())[-int(asked[layer].sum())]
            held[layer] = size >= least
        value = value * held
        np.testing.assert_array_equal(links[n], held)
        np.testing.assert_allclose(values[n], value, rtol=1e-5, atol=1e-6)
        if keep:
            np.testing.assert_array_equal(links[n].sum((1, 2)), asked.sum((1, 2)))


def test_a_plain_model_is_averaged_as_optax_does() -> None:
    model, target = (nnx.Linear(5, 4, rngs=nnx.Rngs(n)) for n in range(2))
    params = lambda one: nnx.state(one, nnx.Param)
    rates = jnp.array([0.0, 0.1, 1.0])
    new = jax.vmap(lambda rate: params(js.average(target, model, rate, keep="count")))(rates)
    for n, rate in enumerate(rates):
        want = optax.incremental_update(params(model), params(target), rate)
        for one, other in zip(jax.tree.leaves(new), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(one[n], other, rtol=1e-6)


def test_seeds_under_vmap_are_as_alone() -> None:
    """One target has its model's links and needs no choice, the other has to choose."""
    model = js.prune.magnitude(lone(js.Held()), density=0.5)
    other = js.hold(model, {"kernel": 1 - js.masks(model)["kernel"]})
    split: list[Any] = [nnx.split(one) for one in (model, other)]
    parts, states = zip(*split, strict=True)
    whole = lambda state: js.average(nnx.merge(parts[0], state), model, 0.4, keep="count")
    move = lambda state: nnx.split(whole(state))[1]
    both: Any = jax.vmap(move)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    for n, state in enumerate(states):
        for one, alone in zip(jax.tree.leaves(both), jax.tree.leaves(move(state)), strict=True):
            np.testing.assert_allclose(one[n], alone, rtol=1e-6)
    assert (both["kernel"]["mask"][...].sum((1, 2)) == 10).all()


def test_a_bfloat16_model_has_a_float32_target() -> None:
    target = js.hold(js.sparsify(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), ("kernel", js.Held())))
    narrow = nnx.Linear(5, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(1))
    new = js.average(target, js.sparsify(narrow, ("kernel", js.Held())), 1e-3)
    assert new.kernel.dtype == jnp.float32
    assert (new.kernel[...] != target.kernel[...]).all()


def lone(rule: js.Rule | None = None, out: int = 4) -> nnx.Linear:
    model = nnx.Linear(5, out, rngs=nnx.Rngs(0))
    return js.sparsify(model, ("kernel", rule)) if rule else model


def tied(shared: bool) -> nnx.Module:
    first, second = (nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2))
    second.kernel = first.kernel if shared else second.kernel
    return nnx.Sequential(first, second)


MISMATCHES = {
    "paths": (
        lambda: (lone(), tied(False)),
        "'bias' is only in the target; make the target from the model",
    ),
    "shapes": (
        lambda: (lone(), lone(out=3)),
        r"'bias' has shape \(4,\) in the target and \(3,\) in the model",
    ),
    "rule": (
        lambda: (lone(js.Threshold()), lone(js.Threshold())),
        "'kernel' is Threshold in the target",
    ),
    "dense target": (
        lambda: (lone(), lone(js.Held())),
        "a dense weight in the target and Held in the model",
    ),
    "dense model": (
        lambda: (lone(js.Held()), lone()),
        "Held in the target and a dense weight in the model",
    ),
    "shared": (lambda: (tied(True), tied(False)), "one weight in the target and two in the model"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_what_does_not_fit_is_refused(case: str) -> None:
    make, words = MISMATCHES[case]
    target, model = make()
    with pytest.raises(ValueError, match=words):
        js.average(target, model, 0.1)


def test_a_rate_is_one_number() -> None:
    with pytest.raises(ValueError, match=r"rate must be a number in \[0, 1\]; got an array"):
        jax.jit(lambda rate: js.average(lone(), lone(), rate).kernel[...])(jnp.ones(2))


def test_coupled_units_are_averaged_whole_or_not_at_all() -> None:
    model = coupled(js.Top(density=0.5, unit=js.Group()))
    target = js.hold(model)
    model.out.kernel.weight[...] *= 9 * jnp.linspace(1, 0, 8)[:, None]  # others are the largest now
    model = js.advance(model)
    masks = js.masks(model)
    moved = js.average(target, model, 0.5)
    for path, mask in js.masks(moved).items():
        np.testing.assert_array_equal(mask, masks[path])
    either = js.masks(js.average(target, model, 0.5, keep=None))
    for path, mask in js.masks(target).items():
        np.testing.assert_array_equal(either[path], np.maximum(mask, masks[path]))
    assert any((either[path] != masks[path]).any() for path in masks)
    with pytest.raises(ValueError, match='coupled Top in the model, and keep="count" chooses sing'):
        js.average(target, model, 0.5, keep="count")
