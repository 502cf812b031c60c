"""The car's tables, its optima within bounds, and what an agent that samples it counts."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import battery_car as experiment
from experiments.rl.environments import battery, chain

pytestmark = pytest.mark.standard_dtypes


def test_the_car_moves_as_it_is_said_to() -> None:
    """Each state and action against the rules in words, and no probability elsewhere."""
    made, at = battery.chain(), battery.number
    np.testing.assert_allclose(made.moves.sum(axis=2), 1)
    for cell, energy, action in itertools.product(range(6), range(13), range(3)):
        wanted = np.zeros(78)
        if energy == 0 and (action != battery.CHARGE or cell):
            wanted[at(cell, 0)], paid = 0.7, 0.0
            wanted[at(0, 0)] += 0.3
        elif action == battery.CHARGE:
            gained, paid = (1 - energy / 12 if cell == 0 else 0.0), 0.0
            wanted[at(cell, energy)] = 1 - gained
            wanted[at(cell, min(energy + 1, 12))] += gained
        else:
            far, used = (2, 3) if action == battery.FAST and energy > 2 else (1, 1)
            paid = far / 2
            wanted[at((cell + far) % 6, energy - used)] = 0.8
            wanted[at((cell + far) % 6, max(energy - used - 1, 0))] += 0.2
        np.testing.assert_allclose(made.moves[at(cell, energy), action], wanted, atol=1e-12)
        assert made.reward[at(cell, energy), action] == paid


def test_the_optimum_within_bounds_on_levels() -> None:
    """Bounds are kept, prices are slopes, and the free optimum is that of value iteration."""
    made, levels = battery.chain(), battery.levels()[: experiment.LOW]
    free, _ = experiment.best(levels, np.full(experiment.LOW, np.inf))
    value = chain.greedy(made, jnp.float32(made.reward), jnp.zeros(78), 1000)[1]
    assert free == pytest.approx(float(value @ made.start), rel=1e-4)
    for top in experiment.TOPS:
        limit = experiment.ceiling(top)
        reward, share = experiment.best(levels, limit)
        assert share.sum() == pytest.approx(1)
        assert (share[: experiment.LOW] <= limit * (1 + 1e-9)).all() and reward < free
        assert experiment.over(share, top) == pytest.approx(1)
    bound = limit / (1 - made.discount)
    prices = chain.optimum(made, bound, np.zeros(experiment.LOW), levels)[2]
    wider = limit.copy()
    wider[-1] += 1e-5
    slope = (experiment.best(levels, wider)[0] - reward) / 1e-5 * (1 - made.discount)
    assert prices[-1] == pytest.approx(slope, rel=1e-3) and prices[-1] > 0


def test_no_weight_of_the_value_cost_does_for_all_ceilings_even_exactly() -> None:
    """The linear program within weight * E[lowness] <= 1: too far over, or paid too little."""
    optima = {
        top: experiment.best(battery.levels()[: experiment.LOW], experiment.ceiling(top))[0]
        for top in experiment.TOPS
    }
    for weight in experiment.WEIGHTS:
        reward, share = experiment.best(experiment.lowness(), np.array([1 / weight]))
        cost = (experiment.lowness()[0, :13] * share).sum()
        assert cost <= 1 / weight * (1 + 1e-9)
        does = [
            experiment.over(share, top) <= experiment.OVER
            and reward >= experiment.ENOUGH * optima[top]
            for top in experiment.TOPS
        ]
        assert not all(does)


def test_what_is_sampled_has_the_exact_densities() -> None:
    """Steps of a random policy: how often each level is met, and what an episode earns."""
    made, count = battery.chain(), 500
    place = jax.tree.map(lambda leaf: leaf[0], experiment.world(battery.levels(), 1))
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 78).astype(np.float32)
    rho = np.asarray(chain.density(jax.tree.map(jnp.float32, made), jnp.asarray(policy)))
    assert rho.sum() == pytest.approx(1 / (1 - battery.DISCOUNT), rel=1e-4)

    def step(at: tuple, key: jax.Array) -> tuple[tuple, None]:
        state, going, counts, earned = at
        act, move = jax.random.split(key)
        action = jax.random.categorical(act, jnp.log(policy)[state])
        after, reward, end = jax.vmap(place.step)(state, action, jax.random.split(move, count))
        costs = jax.vmap(place.costs)(state, action)
        earned = earned + going * reward
        return (after, going * (1.0 - end), counts + (going[:, None] * costs), earned), None

    keys = jax.random.split(jax.random.key(1), 300)
    state = jax.vmap(place.reset)(jax.random.split(jax.random.key(2), count))
    start = state, jnp.ones(count), jnp.zeros((count, 13)), jnp.zeros(count)
    _, _, counts, earned = jax.jit(lambda at: jax.lax.scan(step, at, keys)[0])(start)
    wanted, spread = battery.levels() @ rho, np.std(counts, axis=0) / np.sqrt(count)
    assert (np.abs(np.mean(counts, axis=0) - wanted) <= 5 * spread + 1e-3).all()
    exact = (rho[:, None] * policy * made.reward).sum()
    assert float(earned.mean()) == pytest.approx(exact, abs=5 * float(earned.std()) / count**0.5)


@pytest.mark.slow
def test_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Too short to keep bounds: what is printed and kept, and that a killed run goes on."""
    few = dataclasses.replace(experiment.QUICK.ppo, copies=8, steps=8)
    settings = dataclasses.replace(experiment.QUICK, iterations=60, ppo=few, out=str(tmp_path))
    experiment.main(settings)
    final = tmp_path / "densities" / "final.json"
    whole = final.read_text()
    final.unlink()  # as killed after iteration 50
    printed = capsys.readouterr().out
    experiment.main(settings)
    assert final.read_text() == whole
    assert capsys.readouterr().out == printed
    assert "too few seeds to say" in printed and "value cost, weight 400" in printed
    page = (tmp_path / "densities, 95 sparse" / "page.html").read_text()
    assert 'alt="densities"' in page and "95 % sparse</td>" in page
