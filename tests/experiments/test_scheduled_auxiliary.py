"""Retrace against its sum, the car against its equations, and a scheduler against a hand count."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import scheduled_auxiliary as experiment
from experiments.rl import sac_x
from experiments.rl.environments.mountain_car import Car, MountainCar
from experiments.rl.retrace import retrace
from experiments.rl.scheduler import followed, shares

pytestmark = pytest.mark.standard_dtypes


def test_retrace_is_its_sum() -> None:
    """Five steps by hand: each target is Q plus the errors of all later steps, by their trust."""
    reward, taken = np.array([0.0, 1, 0, 2, 1]), np.array([0.5, 1.0, -0.5, 2.0, 0.3])
    value, gamma = np.array([9.0, 0.4, 0.8, -0.2, 1.5, 0.7]), 0.9
    trust = 0.95 * np.minimum(1, np.array([3.0, 0.5, 2.0, 0.1, 1.0]))
    for last in (5, 3):  # the episode goes on after the piece, or ends after three steps
        keep = gamma * (np.arange(1, 6) != last)
        wanted = []
        for start in range(5):
            total, weight = taken[start], 1.0
            for j in range(start, 5):
                total += weight * (reward[j] + keep[j] * value[j + 1] - taken[j])
                if j < 4:
                    weight *= keep[j] * trust[j + 1]
            wanted.append(total)
        given = (jnp.asarray(one, jnp.float32) for one in (reward, keep, value, taken, trust))
        np.testing.assert_allclose(retrace(*given), wanted, rtol=0, atol=1e-6)
    # the last but one by hand: 2 + 0.9 (1.5 + 0.95 (1 + 0.9 * 0.7 - 0.3))
    keep = np.full(5, gamma)
    given = (jnp.asarray(one, jnp.float32) for one in (reward, keep, value, taken, trust))
    assert float(retrace(*given)[3]) == pytest.approx(4.48715, abs=1e-5)


def test_the_car_is_that_of_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    theirs, ours = gymnasium.make("MountainCar-v0").unwrapped, MountainCar()
    step, key = jax.jit(ours.step), jax.random.key(0)
    for start in ((-0.5, 0.0), (-1.15, -0.06), (0.48, 0.05)):
        theirs.reset(seed=0)
        theirs.state, state = start, Car(*map(jnp.float32, start))
        for action in (0, 0, 2, 1, 2, 2):
            (position, velocity), _, wanted, *_ = theirs.step(action)
            state, reward, end = step(state, action, key)
            np.testing.assert_allclose(state, [position, velocity], atol=1e-6)
            assert bool(end) == wanted == float(reward)
            if wanted:
                break


def test_the_scheduler_learns_what_followed_a_choice() -> None:
    nodes = jnp.array([[0, 0], [1, 2], [4, 5]])  # of two histories: 0, 1 and 1, 0, in a binary heap
    own, going = jnp.array([[0, 1], [1, 0], [0, 0]]), jnp.array([[1.0, 1], [1, 1], [1, 0]])
    main = jnp.array([[0.0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]])
    table = followed(jnp.zeros((7, 2)), (nodes, own, going), main, gamma=0.5, rate=0.5)
    wanted = np.zeros((7, 2))
    wanted[0], wanted[1, 1], wanted[2, 0], wanted[4, 0] = [2**-6, 2**-4], 2**-4, 2**-2, 2**-2
    np.testing.assert_allclose(table, wanted, atol=1e-7)
    share = shares((nodes, own, going), 2)  # what is picked after the end is no choice
    np.testing.assert_allclose(share, [3 / 5, 2 / 5], rtol=1e-6)


@pytest.mark.slow
def test_intentions_read_the_trunk_through_their_own_masks() -> None:
    settings = sac_x.SacX(width=8, hold=10, choices=2, updates=2)
    arm = sac_x.Arm(np.eye(4), density=0.3, own=True)
    trainer = sac_x.Trainer(settings, arm, rounds=2)
    learner, picked = trainer.learn(trainer.begin((1, 2)), rounds=2)
    assert trainer.judge(learner, episodes=4).shape == (2,) and picked.shape == (2, 4)
    np.testing.assert_allclose(picked.sum(axis=-1), 1, rtol=1e-5)
    params, masks = jax.tree.map(lambda leaf: leaf[0], (learner.params, learner.masks))
    seen = jax.random.normal(jax.random.key(0), (5, 2))
    log, value = trainer.outputs(trainer.read(params, masks), seen)
    reads, any_reads = trainer.kept(1)
    assert reads < any_reads < 4 * reads  # masks share some weights, and the last layers
    rest = [jax.tree.map(lambda leaf, n=n: leaf[n], masks) for n in range(4)]
    for n in range(4):
        policy, values = nnx.merge(trainer.graph, params, rest[n])(seen)
        alone = jax.nn.log_softmax(policy.reshape(5, 4, 3)[:, n])
        np.testing.assert_allclose(log[:, n], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[:, n], values.reshape(5, 4, 3)[:, n], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Too short to learn: what is printed and kept, and that a second call trains nothing."""
    sac = sac_x.SacX(width=8, hold=10, choices=2, updates=2)
    settings = dataclasses.replace(
        experiment.QUICK, arms=("SAC-Q", "no auxiliaries"), episodes=32, marks=2, judged=4, sac=sac,
        out=str(tmp_path),
    )  # fmt: skip
    experiment.main(settings)
    printed = capsys.readouterr().out
    assert "too few seeds to say (0 of 1 seed): SAC-Q" in printed
    assert "too few seeds to say (1 of 1 seed): no auxiliaries" in printed
    assert (tmp_path / "success.png").stat().st_size > 5_000
    experiment.main(settings)
    assert capsys.readouterr().out == printed
    # one that was killed after its first mark comes to the same
    arm = tmp_path / "SAC-Q"
    (arm / "final.json").unlink()
    for path in (arm / "checkpoints").iterdir():
        if path.name.endswith("2"):
            shutil.rmtree(path)
    experiment.main(settings)
    assert capsys.readouterr().out == printed
