"""The ring's optima by dynamic programming, its returns, and what zeta learns."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import inverse_constraints as experiment
from experiments.rl import inverse
from experiments.rl.environments import ring

pytestmark = pytest.mark.standard_dtypes


def test_the_optima_of_the_ring() -> None:
    coins = ring.paid()
    allowed, forward = ring.best(coins, backward=False)
    assert allowed == 60 == ring.truly(ring.walked(forward, coins), coins)  # five laps
    free, policy = ring.best(coins)
    assert free == 294  # five steps to a coin, then in and out of it
    action = ring.walked(policy, coins)
    cell = np.cumsum(1 - 2 * action) % ring.CELLS
    assert coins[cell].sum() == free
    assert ring.truly(action, coins) == 2  # the first coin, and the first step backward
    assert ring.truly(1 - action, coins) == -1  # the same the other way round


def test_the_true_ring_ends_at_the_first_step_backward() -> None:
    random, coins = np.random.default_rng(0), ring.paid()
    action = (random.random((50, ring.STEPS)) < 0.02).astype(int)
    for own, found in zip(action, ring.truly(action, coins), strict=True):
        total, cell = 0.0, 0
        for one in own:
            if one:
                total -= 1
                break
            cell = (cell + 1) % ring.CELLS
            total += coins[cell]
        assert found == total


def test_zeta_learns_what_the_expert_does_not_do() -> None:
    """Weights by hand; then all that no expert does is forbidden, and the rest is not."""
    first = ring.begin(jax.random.key(1))
    random = np.random.default_rng(0)
    back = jnp.asarray(random.random((20, ring.STEPS)) < 0.5, jnp.int32)
    cell = (jnp.cumsum(1 - 2 * back, axis=1) - 1 + 2 * back) % ring.CELLS
    walks, expert = ring.judged(cell, back), experiment.expert()
    moved = first._replace(b2=jnp.float32(0.1), b1=first.b1 + 0.01)
    weight, near = inverse.weighted(moved, first, walks)
    zeta, before = (
        np.asarray(jax.nn.sigmoid(one.logit(walks)), np.float64) for one in (moved, first)
    )
    product = np.prod((zeta + inverse.EPS) / (before + inverse.EPS), axis=1)
    np.testing.assert_allclose(weight, product / product.mean(), rtol=2e-3)
    log, share = np.log(product), product / product.mean()
    bounds = -log.mean() <= inverse.FORWARD, (share * log).mean() - log.mean() <= inverse.BACKWARD
    assert bool(near) == all(bounds)
    objective = partial(inverse.loss, delta=0.5)
    update = jax.jit(partial(inverse.improved, objective, rate=0.01, passes=10))
    allowed = first
    for _ in range(25):
        allowed = update(allowed, expert=expert, walks=walks)
    forward, backward = experiment.mapped(jax.tree.map(lambda leaf: leaf[None], allowed))[0].T
    assert forward.min() > 0.9 and backward.max() < 0.2


def test_a_classifier_is_not_held_back() -> None:
    """It knows no weights: where ICRL would have stopped, it goes on to the odds of its samples."""
    cell, back = jnp.indices((ring.CELLS, ring.ACTIONS)).reshape(2, 1, -1)
    walks = ring.judged(cell, back)  # half of the steps are backward
    update = partial(inverse.improved, expert=experiment.expert(), walks=walks)
    first = ring.begin(jax.random.key(0))
    learned = jax.jit(partial(update, inverse.unlike, rate=0.01, passes=500))(first)
    assert not inverse.weighted(learned, first, walks)[1]
    forward, backward = experiment.mapped(jax.tree.map(lambda leaf: leaf[None], learned))[0].T
    assert forward == pytest.approx(2 / 3, abs=0.03) and backward.max() < 0.03


@pytest.mark.slow
def test_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Too short to learn: what is printed and kept, and that a killed run goes on where it was."""
    few = dataclasses.replace(experiment.Settings().ppo, copies=4, passes=1, batches=2)
    settings = dataclasses.replace(
        experiment.QUICK, arms=("ICRL",), rounds=6, ppo=few, out=str(tmp_path)
    )
    experiment.main(settings)
    whole = json.loads((tmp_path / "ICRL" / "final.json").read_text())
    (tmp_path / "ICRL" / "final.json").unlink()  # as killed in the last round
    capsys.readouterr()
    experiment.main(settings)
    assert json.loads((tmp_path / "ICRL" / "final.json").read_text()) == whole
    printed = capsys.readouterr().out
    assert "Best on the ring: 60 (the expert), 294" in printed
    assert "too few seeds to say (0 of 1 seed): ICRL at least 57" in printed
    assert (tmp_path / "constraint.png").stat().st_size > 5_000
    page = (tmp_path / "ICRL" / "page.html").read_text()
    assert 'alt="constraint"' in page and "true return by sparsity" in page
    experiment.main(settings)
    assert capsys.readouterr().out == printed
