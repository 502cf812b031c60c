"""Costs of masked models: equal to what the reports count, traced or not."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.prune import costs
from tests.prune.test_units import Values

X = jnp.ones((2, 6, 6, 3))


class Net(nnx.Module):
    """A convolution, a dense layer without a rule and a head under one."""

    def __init__(self) -> None:
        self.conv = nnx.Conv(3, 10, (3, 3), rngs=nnx.Rngs(0))
        self.plain = nnx.Linear(10, 12, rngs=nnx.Rngs(1))
        self.head = nnx.Linear(12, 20, rngs=nnx.Rngs(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.plain(self.conv(x).mean(axis=(1, 2))))


@cache
def sparse() -> Net:
    return js.sparsify(Net(), ("(conv|head)/kernel", js.Top(density=0.3)))


def padded_tiles(mask: np.ndarray, rows: int, columns: int) -> int:
    tall = [(0, -n % size) for n, size in zip(mask.shape[-2:], (rows, columns), strict=True)]
    whole = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + tall)
    *lead, height, width = whole.shape
    cut = whole.reshape(*lead, height // rows, rows, width // columns, columns)
    return int(cut.any(axis=(-3, -1)).sum())


def test_costs_are_those_of_the_reports_and_can_be_traced() -> None:
    model = sparse()
    counted, summary = js.report.costs(model, X), js.summary(model)
    masks = [np.asarray(mask) for mask in js.masks(model).values()]
    wanted = {
        costs.parameters: summary.kept + summary.dense,
        costs.flops(X): counted.flops,
        costs.flops((2, 6, 6, 3)): counted.flops,
        costs.bytes(): counted.bytes,
        costs.tiles(4, 8): sum(padded_tiles(mask, 4, 8) for mask in masks),
        costs.tiles(64, 64): 9 + 1,
    }
    graph, state = nnx.split(model)
    traced = jax.jit(lambda state: [cost(nnx.merge(graph, state)) for cost in wanted])
    for cost, found, value in zip(wanted, traced(state), wanted.values(), strict=True):
        assert float(cost(model)) == pytest.approx(value, rel=1e-6)
        assert float(found) == pytest.approx(value, rel=1e-6)
    half = costs.bytes(jnp.bfloat16)(model)
    assert float(half) < 0.6 * counted.bytes


def test_a_latency_is_measured_and_never_traced() -> None:
    small = lambda model: js.shrink(js.fold(model), X)[0]
    for x in (X, X.shape):
        assert 0 < costs.latency(x, form=small, calls=2)(sparse()) < 10
    graph, state = nnx.split(sparse())
    with pytest.raises(TypeError, match="traced model cannot be measured; pass traced=False"):
        jax.jit(lambda state: costs.latency(X)(nnx.merge(graph, state)))(state)


class Two(nnx.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        self.a, self.b = nnx.Linear(4, 16, rngs=nnx.Rngs(0)), nnx.Linear(16, 32, rngs=nnx.Rngs(1))
        self.c = nnx.Linear(32, 3, rngs=nnx.Rngs(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))

    def widths(self) -> tuple[int, int]:
        return self.a.kernel.shape[1], self.b.kernel.shape[1]


@pytest.mark.parametrize("cost", [costs.parameters, costs.flops((2, 4)), costs.bytes()])
def test_units_take_costs_of_models(cost: Callable[[Any], jax.Array]) -> None:
    small, _ = js.prune.units(Two(), (2, 4), budget=0.5, cost=cost)
    assert 0.3 < float(cost(small)) / float(cost(Two())) <= 0.5


def test_units_to_a_latency_time_each_smaller_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[int, int]] = []

    def clock(model: Two, x: jax.Array) -> Callable[[int], float]:
        assert model(x).shape == (2, 3)
        timed.append(model.widths())
        return lambda calls: float(sum(model.widths()))

    monkeypatch.setattr("jsparse.prune._costs.clock", clock)
    x = jnp.ones((2, 4))
    small, record = js.prune.units(Two(), x, budget=0.5, cost=costs.latency(x))
    assert js.export.Record.from_dict(record.to_dict()).cost == record.cost == (48.0, 24.0)
    assert js.export.Record().then(record).cost == record.cost
    assert record.then(js.export.Record(cost=(24.0, 9.0))).cost == (48.0, 9.0)
    assert record.then(js.export.Record()).cost == ()
    assert timed[0] == (16, 32) and small.widths() == (8, 16) in timed
    assert len(timed) == len(set(timed)) < 10


@pytest.mark.standard_dtypes  # it divides by integers
def test_every_model_that_is_timed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and values of this attention must be as wide as each other."""
    ran: list[int] = []

    def clock(model: Values, x: jax.Array) -> Callable[[int], float]:
        assert bool(jnp.isfinite(model(x)).all())
        ran.append(int(costs.parameters(model)))
        return lambda calls: float(ran[-1])

    monkeypatch.setattr("jsparse.prune._costs.clock", clock)
    x = jax.random.normal(jax.random.key(0), (1, 4, 3))
    small, _ = js.prune.units(Values(nnx.Rngs(0)), x, budget=0.5, cost=costs.latency(x))
    assert len(ran) > 2 and int(costs.parameters(small)) in ran


@pytest.mark.parametrize("cost", [costs.flops, costs.latency])
def test_a_cost_that_was_not_called_says_so(cost: Any) -> None:
    named = r"got the function cost\. It makes a cost: call it first, as in cost=costs\.flops\(x\)"
    with pytest.raises(ValueError, match=named):
        js.prune.units(Net(), X, budget=0.5, cost=cost)


def test_other_costs_that_were_not_called_and_a_latency_without_inputs_say_so() -> None:
    for name in ("bytes", "tiles"):
        with pytest.raises(TypeError, match=rf"pass {name}\(\), not {name} itself"):
            js.prune.units(Net(), X, budget=0.5, cost=getattr(costs, name))
    with pytest.raises(TypeError, match="inputs must be what a call of the model takes; it fails"):
        costs.latency()(Net())
