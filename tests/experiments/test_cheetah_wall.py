"""The wall of HalfCheetah: who is told of it, steps from outside JAX, and a short run."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

import jsparse
from experiments import cheetah_wall as experiment
from experiments import common
from experiments.rl import cheetah, networks, policies, ppo
from experiments.rl.rollout import Steps

pytestmark = pytest.mark.standard_dtypes


@pytest.mark.slow
def test_steps_from_outside_teach_as_those_of_the_compiled_loop() -> None:
    """A bandit in NumPy, whose second arm pays 1 and costs 1: taken as often as is allowed."""
    bound = jsparse.optim.Multiplier(0.3, integral=0.2)
    settings = ppo.Ppo(copies=64, steps=4, batches=2, learning_rate=5e-3, entropy=0.01)
    network = lambda rngs: networks.Trunk(1, 2, 2, 8, rngs)
    own = ppo.Trainer(settings, policies.Choice(2), network, networks.Kind(), 1, (bound,))
    learner, seen = own.begin([1], cheetah.Elsewhere()), np.ones((1, 64, 1), np.float32)
    over, costs = np.ones((4, 64), np.float32), []
    for keys in jax.random.split(jax.random.key(0), (300, 4)):
        rows = [[np.asarray(x)[0] for x in own.act(learner, seen, key)] for key in keys]
        action, log, value = map(np.stack, zip(*rows, strict=True))
        gain = np.stack([action, action], axis=-1).astype(np.float32)  # what it pays and costs
        walk = Steps(np.ones((4, 64, 1), np.float32), action, log, value, gain, 1 - over)
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (walk, value[0], gain[..., 0]))
        learner, report = own.learn_from(learner, *given)
        costs.append(float(report.costs[0, 0]))
        assert float(report.score[0]) == pytest.approx(costs[-1], abs=1e-6)
    assert np.mean(costs[-150:]) == pytest.approx(0.3, abs=0.05)
    assert float(learner.bounds[0].value[0]) > 0


def test_the_wall_is_one_of_the_true_world_alone() -> None:
    """Rewards are speed less effort; beyond -3 the true episode ends with nothing."""
    pytest.importorskip("mujoco")
    true, nominal = (cheetah.Cheetahs(2, 1, ends=ends) for ends in (True, False))
    assert true.observation.shape == (2, cheetah.OBSERVED)
    np.testing.assert_array_equal(true.observation, nominal.observation)
    action = np.full((2, cheetah.ACTIONS), 2.0)  # clipped to 1
    for bodies in (true, nominal):
        for body, place in zip(bodies.bodies, (-3.5, 0.0), strict=True):
            own = body.unwrapped
            own.set_state(np.r_[place, own.data.qpos[1:]], own.data.qvel)
        before = [body.unwrapped.data.qpos[0] for body in bodies.bodies]
        reward, over, beyond, total = bodies.step(action)
        np.testing.assert_array_equal(beyond, [1, 0])
        np.testing.assert_array_equal(over, [bodies.ends, 0])
        after = [body.unwrapped.data.qpos[0] for body in bodies.bodies]
        speed = np.abs(np.subtract(after, before)) / bodies.bodies[0].unwrapped.dt
        assert reward[1] == pytest.approx(speed[1] - 0.1 * cheetah.ACTIONS, rel=1e-5)
        if bodies.ends:
            assert reward[0] == 0 and abs(after[0]) < 0.2  # at the start again
        else:
            assert reward[0] == pytest.approx(speed[0] - 0.1 * cheetah.ACTIONS, rel=1e-5)
            assert bodies.observation[0, 0] == pytest.approx(after[0], rel=1e-6)
        np.testing.assert_array_equal(total, reward)
        again, _, _, total = bodies.step(action)
        np.testing.assert_allclose(total, again + (1 - over) * reward)
        bodies.reset(2)  # an episode that was cut short counts no more
        reward, _, _, total = bodies.step(action)
        np.testing.assert_array_equal(total, reward)
    none = np.zeros((3, 2))
    walk = cheetah.Walk(none, none, none, none, np.tile([1.0, 2.0], (3, 1)), none, none, none)
    walk.beyond[1, 0] = 1
    np.testing.assert_array_equal(cheetah.truly(walk), [1, 6])  # of one step and of three


def test_without_mujoco_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    settings = dataclasses.replace(experiment.QUICK, out=str(tmp_path))
    with pytest.raises(ImportError, match=r"not installed: pip install 'jsparse\[rl\]'"):
        experiment.main(settings)


@pytest.mark.slow
def test_the_wall_is_learned_about(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Too short to obey: what is printed, drawn and kept."""
    pytest.importorskip("mujoco")
    settings = experiment.Settings(
        expert=500, steps=2300, often=1, copies=2, length=64, out=str(tmp_path)
    )
    experiment.main(settings)
    printed = capsys.readouterr().out
    assert "ICRL after 4,256; published after 4,000,000" in printed and "3800" in printed
    assert 'alt="constraint"' in (tmp_path / "page.html").read_text()
    experiment.main(settings)
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_an_expert_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    wall = cheetah.Wall(expert=384, steps=384, often=1, copies=2, length=64)
    run = common.open_run(tmp_path, wall)
    monkeypatch.setattr(cheetah, "KEPT", 2)
    improved, calls = cheetah.improved, []

    def until(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return improved(*given)

    monkeypatch.setattr(cheetah, "improved", until)
    with pytest.raises(KeyboardInterrupt):
        cheetah.experts(run, wall, 1)
    walk = cheetah.experts(run, wall, 1)
    assert len(calls) == 3 + 1  # two of three were kept
    assert walk.reward.shape == (cheetah.LENGTH, 2)
