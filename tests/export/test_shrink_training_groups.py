"""Shrinking while training under rules over coupled units: the run is the one that holds them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._coupled import CoupledUnits
from jsparse._events import share_norms_in_place
from jsparse._paths import named
from jsparse._slots import coupled_units, sparse_parts
from jsparse._surgery import copied
from jsparse.export import Cut, Record, rebuild_training
from jsparse.export._shrinking import training
from jsparse.export._shrinking.cut import divided
from tests.support.coupled import X, coupled
from tests.support.sampled import one_in
from tests.support.stacks import takes_masked

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
DEAD = {"threshold": 2.0, "s": 4.0, "logits": -4.0, "mask": 0.0}


@nnx.jit
def step(model: nnx.Module, optimizer: js.Optimizer, x: Array) -> Array:
    def loss(model: nnx.Module) -> tuple[Array, Array]:
        task = ((model(x) - x[:, :3]) ** 2).mean()
        return task + js.cost(model), task

    over = nnx.DiffState(0, optimizer.wrt)
    grads, task = nnx.grad(loss, argnums=over, has_aux=True)(model)
    optimizer.update(model, grads)
    return task


def inputs(n: int) -> Array:
    return jax.random.normal(jax.random.key(n), X.shape)


def close(group: CoupledUnits, units: Iterable[int]) -> None:
    """Bring units to where their rule closes them."""
    (name,) = DEAD.keys() & set(group.state_names)
    variable = getattr(group, name)
    variable[...] = variable[...].at[jnp.asarray(units, int)].set(DEAD[name])


def units_of(model: Any) -> tuple[CoupledUnits, CoupledUnits]:
    """Those of the stream, and those inside the block."""
    return model.a.kernel.units0, model.norm.scale.units0


def held_back(whole: nnx.Module, small: nnx.Module, cuts: Mapping[str, Cut]) -> dict[str, Any]:
    """Which parameters of the whole model move on, and what the others are.

    They are what they were where rules measure units by them, and 0 under other rules: a gate that
    is closed in eval mode may be sampled open.
    """
    (rule, *_) = (part.rule for part in coupled_units(whole).values())
    scale = float(getattr(rule, "measures", False))
    left = {f"{path}/": np.array(g.rule.role.left[0]) for path, g in coupled_units(small).items()}
    found = {}
    for path, leaf in named(nnx.state(whole, nnx.Any(nnx.Param, js.Mask))).items():
        stays, stem = np.ones(leaf.shape, bool), path.removesuffix("/weight")
        if stem in cuts:
            stays = cuts[stem].zeroed(stays)
        for group, there in left.items():
            if path.startswith(group) and leaf.shape == there.shape:
                stays = there
        found[path] = (stays, scale * np.asarray(leaf))
    return found


def hold_back(whole: nnx.Module, held: Mapping[str, Any]) -> None:
    state = nnx.state(whole, nnx.Any(nnx.Param, js.Mask))
    new = [jnp.where(held[path][0], leaf, held[path][1]) for path, leaf in named(state).items()]
    nnx.update(whole, jax.tree.unflatten(jax.tree.structure(state), new))
    share_norms_in_place(whole)


def adam(model: nnx.Module) -> js.Optimizer:
    return js.Optimizer(model, optax.adam(1e-2))


def averaging(model: nnx.Module) -> js.Optimizer:
    return js.Optimizer(model, optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2))


def goal(model: nnx.Module) -> js.Optimizer:
    control = js.TargetDensity(density=0.5, steps=60, every=2)
    return js.Optimizer(model, optax.adam(1e-2), controls=(control,))


def exchanging(model: nnx.Module) -> js.Optimizer:
    tx = js.revise(
        optax.adam(1e-2),
        (".*", js.SET(unit=js.Group(), every=2, last=2)),
        roles=js.roles(model),
    )
    return js.Optimizer(model, tx, wrt=nnx.Any(nnx.Param, js.Mask))


SOFT = js.SoftThreshold(s_init=-2.0, unit=js.Group(), scope=js.Each())
CASES = {
    "thresholds under a goal": (js.Threshold(alpha=1e-2, unit=js.Group()), goal),
    "gates": (js.HardConcrete(lam=1e-3, unit=js.Group()), adam),
    "soft thresholds, several steps": (SOFT, averaging),
    "masks, revisions that are over": (js.Held(), exchanging),
}


@pytest.mark.parametrize("name", one_in(4, CASES))
def test_the_run_is_the_one_in_which_what_went_is_held(name: str) -> None:
    rule, optimized = CASES[name]
    model = coupled(rule)
    optimizer = optimized(model)
    for n in range(3):
        step(model, optimizer, inputs(n))
    small, smaller, records = model, optimizer, Record()
    whole, whole_optimizer = model, optimizer
    for turn, (stream, inner) in enumerate((([1, 4], [0, 5, 6]), ([2], []))):
        was, were = units_of(small)
        left = np.flatnonzero(was.rule.role.left[0]) if turn else np.arange(8)
        close(was, stream)
        close(were, inner)
        close(units_of(whole)[0], left[stream])
        if not turn:
            whole, whole_optimizer = copied(model), nnx.clone(optimizer)
        small, smaller, record = js.shrink_training(small, smaller, inputs(9))
        assert record.cuts["b/kernel"].left == ((6, 9), (5, 9))[turn]
        records = records.then(record)
        told = Record.from_dict(json.loads(json.dumps(records.to_dict())))
        assert nnx.graphdef(rebuild_training(coupled(rule), told)) == nnx.graphdef(small)
        held = held_back(whole, small, records.cuts)
        for n in range(3):
            loss = step(small, smaller, inputs(10 + n))
            expected = step(whole, whole_optimizer, inputs(10 + n))
            hold_back(whole, held)
            np.testing.assert_allclose(loss, expected, rtol=2e-4)
    assert int(smaller.step[...]) == int(whole_optimizer.step[...]) == 9
    weights = {path: part.weight[...] for path, part in sparse_parts(whole).items()}
    for path, part in sparse_parts(small).items():
        if path == "b/bias":
            continue  # before a normalization: its gradient is rounding, which Adam scales up
        expected = records.cuts[path].of(np.asarray(weights[path]))
        np.testing.assert_allclose(part.weight[...], expected, rtol=2e-3, atol=1e-5)
    small.eval()
    np.testing.assert_allclose(js.fold(small)(X), small(X), rtol=1e-5, atol=1e-6)


class Flat(nnx.Module):
    """A convolution, flattened for a linear layer: each filter is read at four places."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 6, (2, 2), strides=2, rngs=rngs)
        self.out = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.relu(self.conv(x.reshape(-1, 4, 4, 1)))
        return self.out(h.reshape(len(h), -1))


def test_revisions_are_told_where_units_are_after_the_cut() -> None:
    x = jax.random.normal(jax.random.key(0), (5, 16))
    model = Flat(nnx.Rngs(0))
    model = js.couple(model, js.groups(model, x), (".*", js.Held()))
    close(model.conv.bias.units0, [0, 3])
    tx = exchanging(model).tx
    optimizer = js.Optimizer(model, tx, wrt=nnx.Any(nnx.Param, js.Mask))
    small, smaller, _ = js.shrink_training(model, optimizer, x)
    assert small.conv.kernel.shape == (2, 2, 1, 4) and small.out.kernel.shape == (16, 3)
    (span,) = small.out.kernel.rule.spans
    assert span.units == (0, 1, 2, 3) * 4 and span.width == 4
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
    masks = np.array([[1.0], [0.0], [1.0], [1.0]] * 4) * np.ones((16, 3))
    small.conv.bias.units0.mask[...] = jnp.array([1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(small.out.kernel.read_mask(), masks)
    for _ in range(2):  # the second step exchanges units
        step(small, smaller, x)
    assert float(small.conv.bias.units0.mask[...].sum()) == 3.0
    several = js.Optimizer(model, optax.MultiSteps(tx, 2), wrt=nnx.Any(nnx.Param, js.Mask))
    with pytest.raises(ValueError, match=r"length 4 .* revise\(optax.MultiSteps\(inner"):
        js.shrink_training(model, several, x)


@takes_masked
def test_moments_of_some_weights_only() -> None:
    model = coupled(js.Threshold(alpha=1e-2, unit=js.Group()))
    label = lambda tree: jax.tree.map(lambda leaf: "adam" if leaf.ndim > 1 else "sgd", tree)
    tx = optax.partition({"adam": optax.adam(1e-2), "sgd": optax.sgd(0.1, momentum=0.9)}, label)
    optimizer = js.Optimizer(model, tx)
    step(model, optimizer, inputs(0))
    close(units_of(model)[0], [1, 4])
    small, smaller, _ = js.shrink_training(model, optimizer, inputs(9))
    shapes = lambda optimizer, end: [
        leaf.shape for path, leaf in named(nnx.state(optimizer)).items() if path.endswith(end)
    ]
    assert shapes(smaller, "mu/a/kernel/weight") == [(4, 6)]
    assert shapes(smaller, "trace/a/bias/weight") == [(6,)]
    step(small, smaller, inputs(1))


def test_units_are_not_divided() -> None:
    model = coupled(js.Held())
    stream = {"a/kernel": {1: (0, 2)}, "a/bias": {0: (0, 2)}, "c/kernel": {1: (0, 2)}}
    stream |= {"c/bias": {0: (0, 2)}, "b/kernel": {0: (0, 2)}, "out/kernel": {0: (0, 2)}}
    parts = sparse_parts(model)
    pairs = lambda keep: [(part, keep.get(path, {})) for path, part in parts.items()]
    name = model.a.kernel.units0.name
    assert divided(pairs(stream)) == set() == divided(pairs({}))
    for keep in ({"out/kernel": {}}, {"b/kernel": {0: (0, 1, 2)}}):
        assert divided(pairs(stream | keep)) == {name}


def test_a_group_whose_units_would_be_divided_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = coupled(js.Threshold(alpha=1e-2, unit=js.Group()))
    stream, inner = units_of(model)
    close(stream, [1, 4])
    close(inner, [0, 5, 6])
    found = iter([{stream.name}])
    monkeypatch.setattr(training, "divided", lambda pairs: next(found, divided(pairs)))
    small, _, record = js.shrink_training(model, adam(model), inputs(9))
    left = [int(group.weight.size) for group in units_of(small)]
    assert left == [stream.weight.size, inner.weight.size - 3]
    assert f"a part of the units of {stream.name} would go" in record.stayed["a/kernel"]
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_shrunk_is_refused() -> None:
    model = coupled(js.Top(density=0.5, unit=js.Group()))
    with pytest.raises(ValueError, match=r"a/bias: under coupled Top a unit may come .*\.hold"):
        js.shrink_training(model, adam(model), X)
    model = coupled(js.Held())
    tx = js.revise(
        optax.adam(1e-2),
        (".*", js.Gradual(density=0.5, last=4, unit=js.Group())),
        roles=js.roles(model),
    )
    gradual = js.Optimizer(model, tx, wrt=nnx.Any(nnx.Param, js.Mask))
    with pytest.raises(ValueError, match=r"Gradual of '.\*' still.*shrink after step 4"):
        js.shrink_training(model, gradual, X)
