"""Agents that learn from stored data: scales, objectives, pruning at birth, and the whole study."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import offline_prune
from experiments.rl import gym, networks
from experiments.rl.networks import Actor, Critic
from experiments.rl.offline import Births, distance, scale_of
from experiments.rl.replay import Batch
from experiments.rl.td3 import Td3, near_data
from tests.support.line import Line

pytestmark = pytest.mark.standard_dtypes
SETTINGS = dataclasses.replace(
    offline_prune.QUICK,
    env="line", quality="replay", transitions=100, steps=200, random=50, evaluate=100,
    algorithms=("BC",), methods=("Erdos-Renyi", "magnitude", "SET"), densities=(0.5,),
    updates_each=200, judged=1, td3=Td3(width=8, batch=4, every=50, decay=0.0),
)  # fmt: skip


def batch(observed: int, actions: int) -> Batch:
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    return Batch(draw(20, observed), draw(20, actions), draw(20), draw(20, observed), np.ones(20))


def test_an_actor_of_standardised_observations_acts_on_those_that_come() -> None:
    actor, given = Actor(3, 2, 8, nnx.Rngs(0)), batch(3, 2)
    given = given._replace(observation=given.observation * np.array([5, 1, 0], "f") + 2)
    scale = scale_of(given.observation)
    standard = scale.standard(given).observation
    assert standard.dtype == np.float32
    np.testing.assert_allclose(standard.std(axis=0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-5)
    layers = scale.raw(jax.device_get(actor.net.layers()))
    got = networks.act(layers, given.observation)
    np.testing.assert_allclose(got, actor(standard), rtol=1e-4, atol=1e-5)


def test_the_objective_near_the_data_weighs_values_by_their_size() -> None:
    given, critic = batch(3, 2), Critic(3, 2, 8, nnx.Rngs(1))
    action = given.action + 0.5
    value = np.asarray(critic.first(given.observation, action))
    want = 0.25 - 2.5 * value.mean() / np.abs(value).mean()
    loss = lambda action: near_data(2.5)(critic, given, action)
    assert float(loss(action)) == pytest.approx(want, rel=1e-4)
    of_value = jax.grad(lambda action: critic.first(given.observation, action).mean())(action)
    slope = jax.grad(loss)(action) - 2 * 0.5 / action.size  # the size itself is not climbed
    np.testing.assert_allclose(slope, -2.5 * of_value / np.abs(value).mean(), rtol=1e-3, atol=1e-6)


def test_scores_are_between_a_random_policy_and_an_expert() -> None:
    settings = offline_prune.Settings(env="Hopper-v5")
    assert offline_prune.normalised(-20.272305, settings) == 0
    assert offline_prune.normalised(3234.3, settings) == 100


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"densities": (0.0,)}, "fractions in"), ({"updates_each": 0}, "--updates_each got 0")],
)
def test_bad_settings(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SETTINGS, **changed)


@pytest.mark.slow
def test_methods_prune_to_a_density_or_collapse() -> None:
    given = Batch(*map(jnp.asarray, batch(17, 6)))
    actor = Births(Actor(17, 6, 64, nnx.Rngs(0)), distance, given, 0)
    critic = Births(Critic(17, 6, 64, nnx.Rngs(1)), distance, given, 0)
    for births, method in ((actor, "SNIP"), (actor, "GraSP"), (critic, "SynFlow")):
        made = offline_prune.pruned((births,), method, 0.1)
        assert made
        counts = list(networks.weights(made[0]).values())
        kept, size = (sum(pair[n] for pair in counts) for n in range(2))
        assert kept == pytest.approx(0.1 * size, abs=3)
    assert offline_prune.pruned((actor,), "magnitude", 0.02) is None


@pytest.mark.slow
def test_the_study_runs_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gym, "make", lambda name: Line())
    settings = dataclasses.replace(SETTINGS, out=str(tmp_path))
    offline_prune.main(settings)
    printed = capsys.readouterr().out
    offline_prune.main(dataclasses.replace(settings, algorithms=("TD3+BC",), methods=("SNIP",)))
    assert "TD3+BC, 1 seed, D4RL score" in capsys.readouterr().out
    assert (tmp_path / "data" / "line-replay-100.npz").is_file()
    finals = {
        f.parent.parent.name: json.loads(f.read_text()) for f in tmp_path.glob("BC/*/*/final.json")
    }
    assert set(finals) == {"dense", "Erdos-Renyi, 50 %", "magnitude, 50 %", "SET, 50 %"}
    assert set(finals["dense"]["layers"].values()) == {1}
    assert "BC, 1 seed, D4RL score" in printed and (tmp_path / "density.png").is_file()
    monkeypatch.setattr(gym, "make", None)
    offline_prune.main(settings)
    assert capsys.readouterr().out == printed
