"""Search within a budget: what it returns, what it does not lose, what it refuses."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse import prune
from jsparse.prune import costs
from jsparse.prune._search.layers import layers_of
from jsparse.prune._search.methods import Outcome

pytestmark = pytest.mark.standard_dtypes  # optax mixes dtypes
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 6))


class Net(nnx.Module):
    """Three layers of different worth: the last one's weights are the largest."""

    def __init__(self) -> None:
        for n, (i, o) in enumerate(((6, 32), (32, 16), (16, 4))):
            setattr(self, f"fc{n}", nnx.Linear(i, o, use_bias=o == 4, rngs=nnx.Rngs(i)))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in (self.fc0, self.fc1, self.fc2):
            x = jnp.tanh(layer(x))
        return x


DENSE = js.sparsify(Net(), (".*/kernel", js.Held()))
TARGET = Net()(X)


def score(model: Net) -> jax.Array:
    return -((model(X) - TARGET) ** 2).mean()


def wide_layers(model: nnx.Module) -> jax.Array:
    """A cost without a derivative: the weights, and 100 for each layer that uses over 8 columns."""
    masks = js.masks(model).values()
    wide = sum((jnp.any(mask > 0, axis=0).sum() > 8).astype(jnp.float32) for mask in masks)
    return 100 * wide + sum(mask.sum() for mask in masks)


METHODS = {
    "random": prune.Random(population=8),
    "cross-entropy": prune.CrossEntropy(population=8),
    "lagrangian": prune.Lagrangian(population=8),
}
COSTS: dict[str, tuple[Callable, float]] = {
    "flops": (costs.flops((8, 6)), 1500.0),
    "bytes": (costs.bytes(), 900.0),
    "tiles": (costs.tiles(4, 4), 30.0),
    "no derivative": (wide_layers, 180.0),
}


def run(method: Any = METHODS["random"], cost: Callable = costs.parameters, budget: Any = 120,
        **options: Any) -> prune.Found:  # fmt: skip
    given = {"method": method, "evaluations": 60, "key": KEY} | options
    return prune.search(DENSE, score, cost, budget, **given)


def check(found: prune.Found, cost: Callable, budget: float) -> None:
    assert found.cost == pytest.approx(float(cost(found.model)), rel=1e-6) and found.cost <= budget
    assert found.score == pytest.approx(float(score(found.model)), abs=1e-6)
    tried = found.tried
    controls = [tried.by.index(name) for name in ("uniform", "global", "erk")]
    assert (tried.cost[controls] <= budget).all()
    assert found.score >= tried.score[controls].max()
    kept = prune.keep_highest(
        DENSE, prune.magnitudes(DENSE), 1.0, prune.by_layer(lambda shapes, _: found.densities)
    )
    for path, mask in js.masks(kept).items():
        np.testing.assert_array_equal(mask, js.masks(found.model)[path])
    assert len(tried.score) == 60 and tried.by[0] == "dense"
    front = tried.front()
    assert (np.diff(tried.cost[front]) > 0).all() and (np.diff(tried.score[front]) > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_each_method_meets_the_budget_and_uses_it_up(name: str) -> None:
    found = run(METHODS[name])
    check(found, costs.parameters, 120)
    own = found.tried.cost[[by == type(METHODS[name]).__name__.lower() for by in found.tried.by]]
    assert len(own) == 56 and (own[-24:] <= 120).all() and np.median(own[-24:]) >= 118
    again = run(METHODS[name])
    np.testing.assert_array_equal(found.tried.densities, again.tried.densities)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("flops", "bytes"))) for n in COSTS]
)
def test_any_function_can_be_the_cost(name: str) -> None:
    cost, budget = COSTS[name]
    check(run(cost=cost, budget=budget), cost, budget)


def test_calling_in_python_gives_what_tracing_gives() -> None:
    found = run(traced=False, evaluations=16)
    assert len(found.tried.score) == 16 and found.tried.by[1:4] == ("uniform", "global", "erk")
    assert found.cost == int(costs.parameters(found.model)) <= 120
    assert found.score == pytest.approx(float(jax.jit(lambda: score(found.model))()), abs=1e-6)
    assert found.score == found.tried.score[found.tried.cost <= 120].max()


def test_what_was_dropped_before_the_search_stays_dropped() -> None:
    mask = (jax.random.uniform(KEY, (32, 16)) < 0.5).astype(jnp.float32)
    start = js.hold(DENSE, {"fc1/kernel": mask})
    given = {"method": METHODS["random"], "unit": js.Block((2, 2)), "evaluations": 16, "key": KEY}
    found = prune.search(start, score, costs.parameters, 120, **given)
    assert (js.masks(found.model)["fc1/kernel"] <= mask).all()
    assert found.cost == int(costs.parameters(found.model)) <= 120
    assert found.score == pytest.approx(float(score(found.model)), abs=1e-6)
    assert found.tried.cost[0] == int(costs.parameters(start))


def test_a_search_that_was_killed_evaluates_nothing_twice(tmp_path: Path) -> None:
    whole, calls = run(traced=False, evaluations=16), []

    def counted(model: nnx.Module) -> jax.Array:
        calls.append(0)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return score(model)

    given: dict[str, Any] = {"method": METHODS["random"], "evaluations": 16, "key": KEY}
    given |= {"traced": False, "keep": prune.Folder(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        prune.search(DENSE, counted, costs.parameters, 120, **given)
    with (tmp_path / "tried.jsonl").open("ab") as file:
        file.write(b'{"kept": [1, 2')  # a line that the kill left half written
    found = prune.search(DENSE, counted, costs.parameters, 120, **given)
    assert len(calls) == 8 + 16 - 7 and found.densities == whole.densities
    np.testing.assert_array_equal(found.tried.score, whole.tried.score)
    assert prune.search(DENSE, counted, costs.parameters, 120, **given).score == found.score
    assert len(calls) == 17
    with pytest.raises(ValueError, match=r"other settings: budget is 120\.0 there and 110\.0 now"):
        prune.search(DENSE, counted, costs.parameters, 110, **given)
    lines = (tmp_path / "tried.jsonl").read_text().splitlines(keepends=True)
    for row, message in {
        "{}": "the field kept is missing",
        '{"kept": [1, 2], "score": 0.5}': "the field times is missing",
        '{"kept": [1, 2], "times": 0, "score": null}': "score is None, expected int | float",
        '{"kept": [1, 2], "cost": "a"}': "cost is 'a', expected int | float",
    }.items():
        (tmp_path / "tried.jsonl").write_text("".join([*lines[:5], f"{row}\n", *lines[5:]]))
        with pytest.raises(ValueError, match=rf"line 6: {re.escape(message)}; delete this line"):
            prune.search(DENSE, counted, costs.parameters, 120, **given)


def failing(after: int, how: Callable[[], Any]) -> Callable:
    calls: list[int] = []

    def function(model: nnx.Module) -> Any:
        calls.append(0)
        return score(model) if len(calls) <= after else how()

    return function


def broken() -> None:
    raise OSError("the simulator is gone")


FAULTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "NaN": ({"score": failing(9, lambda: jnp.nan), "traced": False}, 9,
            r"score must return a finite number; got nan: return the worst"),
    "cost is NaN": ({"cost": lambda m: jnp.nan}, 0, "got nan: return a number above the budget"),
    "raises": ({"score": failing(9, broken), "traced": False}, 9,
               r"score raised OSError: the simulator is gone"),
    "a vector": ({"score": lambda model: model(X)}, 0, r"score raised TypeError: it must return "
                 r"one number; got an array float32\[8, 4\]"),
    "Python on traces": ({"score": lambda model: float(score(model))}, 0, "traced=False"),
    "nothing meets it": ({"budget": 6.5}, 0, r"budget 6\.5: the smallest cost seen, with one unit "
                         r"in each layer, is 7, and that of the model as given 772"),
    "cost rises": ({"cost": lambda m: 1e4 - costs.parameters(m).astype(jnp.float32)}, 0,
                   r"cost must fall as units are removed, but rises from 9228 \(density 1\) "
                   r"to 9612 \(density 0\.5\)"),
    "latency rises": ({"cost": lambda m: 1e4 - float(costs.parameters(m)), "traced": False}, 0,
                      r"measure the form that gets faster as units are removed, such as costs\."),
    "negative": ({"cost": lambda m: -1.0}, 0, r"cost must return a number of 0 or more; got -1\.0"),
    "recovers nothing": ({"recover": lambda model, key: None}, 0,
                         r"recover raised TypeError: what recover returns"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_and_nothing_is_lost(name: str) -> None:
    options, scored, words = FAULTS[name]
    given = {"model": DENSE, "score": score, "cost": costs.parameters, "budget": 120} | options
    with pytest.raises(prune.SearchStopped, match=words) as caught:
        prune.search(**given, method=METHODS["random"], evaluations=60, key=KEY)
    tried = caught.value.tried
    assert len(tried.score) == scored == len(tried.densities)
    assert f"has the {scored} candidates scored so far" in str(caught.value)


class Counted(nnx.Module):
    """Two layers, and how often they were recovered."""

    def __init__(self) -> None:
        self.a, self.b = (nnx.Linear(n, 8, use_bias=False, rngs=nnx.Rngs(n)) for n in (16, 12))
        self.times = nnx.Variable(jnp.zeros(()))


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_recovery_keeps_the_masks_and_the_best_are_recovered_for_longer(traced: bool) -> None:
    model = js.sparsify(Counted(), (".*/kernel", js.Held()))
    model.a.kernel.mask[...] = jnp.ones((16, 8)).at[:, 0].set(0)

    def recover(model: Counted, key: jax.Array) -> Counted:
        model.times[...] += 1 + 0 * jax.random.normal(key)
        model.a.kernel.mask[...] = jnp.ones((16, 8))  # a repair that brings weights back
        return model

    def score(model: Counted) -> jax.Array:
        return (model.a.kernel[...] ** 2).sum() + 100 * model.times[...]

    given = {"method": prune.Random(population=8), "evaluations": 40, "key": KEY}
    found = prune.search(
        model, score, costs.parameters, 50, recover=recover, traced=traced, **given
    )
    times, final = found.tried.score // 100, np.array(found.tried.by) == "final"
    assert len(final) == 40 and set(times[~final]) == {1}
    assert times[final].tolist() == [2] * 8 + [4] * 4 + [8] * 2
    mask = js.masks(found.model)["a/kernel"]
    assert mask[:, 0].sum() == 0 and int(costs.parameters(found.model)) == found.cost <= 50
    assert found.score == pytest.approx(float(score(found.model)), rel=1e-6) and times[-1] == 8
    assert model.times[...] == 0 and js.masks(model)["a/kernel"].sum() == 112


def test_recovery_does_not_change_the_mode() -> None:
    layers = nnx.Linear(6, 16, rngs=nnx.Rngs(0)), nnx.BatchNorm(16, rngs=nnx.Rngs(1))
    model = js.sparsify(nnx.Sequential(*layers), ("layers/0/kernel", js.Held()))
    model.eval()

    def recover(model: nnx.Module, key: jax.Array) -> nnx.Module:
        model.train()
        model(3 * X)
        return model

    def score(model: nnx.Module) -> jax.Array:
        return -((model(X) - model.layers[1].use_running_average) ** 2).mean()

    given = {"method": prune.Random(population=8), "evaluations": 16, "recover": recover}
    one, other = (
        prune.search(model, score, costs.parameters, 80, traced=traced, key=KEY, **given)
        for traced in (True, False)
    )
    assert other.tried.score[0] == pytest.approx(one.tried.score[0], rel=1e-5)  # the dense model
    assert other.score == pytest.approx(float(score(other.model)), rel=1e-5)
    assert one.model.layers[1].use_running_average and other.model.layers[1].use_running_average


def test_units_and_stacks_have_densities_of_their_own() -> None:
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key: jax.Array) -> nnx.Linear:
        return nnx.Linear(6, 8, rngs=nnx.Rngs(key))

    held = js.Held(role=js.Role(stack=1))
    model = js.sparsify(make(jax.random.split(KEY, 2)), ("kernel", held))
    total = lambda model: (model.kernel[...] ** 2).sum()
    weights = lambda model: js.masks(model)["kernel"].sum()
    found = prune.search(
        model, total, weights, 30, unit=js.Filter(), method=METHODS["random"], evaluations=24,
        key=KEY,
    )  # fmt: skip
    mask = np.asarray(js.masks(found.model)["kernel"])
    assert list(found.densities) == ["kernel[0]", "kernel[1]"] and mask.sum() == 30
    assert set(mask.sum(axis=1).ravel()) == {0, 6}  # whole columns
    for place, density in enumerate(found.densities.values()):
        size = np.abs(np.asarray(model.kernel.weight[...])[place]).sum(axis=0)
        kept = mask[place].any(axis=0)
        assert kept.mean() == density and size[kept].min() > size[~kept].max()


def test_scores_that_say_nothing_are_told() -> None:
    with pytest.warns(UserWarning, match=r"have only 1 different scores.*pass recover="):
        prune.search(
            DENSE, lambda model: 0.1, costs.parameters, 120, method=METHODS["random"],
            evaluations=60, key=KEY,
        )  # fmt: skip


def test_a_budget_that_the_model_meets_gives_the_model() -> None:
    found = run(budget=1e6)
    assert set(found.densities.values()) == {1.0} and len(found.tried.score) == 1


def test_a_budget_may_be_a_share_of_what_a_cost_gives() -> None:
    share = 0.2 * costs.parameters(DENSE)
    assert run(budget=share).densities == run(budget=float(share)).densities
    with pytest.raises(ValueError, match=r"budget must be a number above 0; got an array"):
        run(budget=share[None])


def test_the_unit_of_the_score_does_not_matter() -> None:
    layers = layers_of(DENSE, prune.magnitudes, js.Weight())
    scores = np.random.default_rng(0).random(8)

    def proposed(unit: float) -> np.ndarray:
        method = METHODS["lagrangian"].propose(layers, KEY)
        return method.send(Outcome(next(method), unit * scores, np.zeros(8)))

    wanted = proposed(1.0)
    for unit in (2.0**-60, 2.0**500):  # a small error, and beyond float32
        np.testing.assert_array_equal(proposed(unit), wanted)


@dataclasses.dataclass(frozen=True)
class Wrong(prune.Random):
    """Proposes one layer too few."""

    def propose(self, layers: Any, key: jax.Array) -> Any:
        while True:
            yield np.full((32, 2), 0.5)


def test_a_method_that_forgets_a_layer_is_refused() -> None:
    with pytest.raises(prune.SearchStopped, match=r"shape \(32, 2\); it must be \(32, 3\)"):
        run(Wrong())
