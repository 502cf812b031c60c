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
from experiments.rl import gym, iql, networks
from experiments.rl.births import Births
from experiments.rl.networks import Actor, Critic, Kind
from experiments.rl.offline import distance, scale_of
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


def test_an_actor_of_standardized_observations_acts_on_those_that_come() -> None:
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


def implicit(log_deviation: float = 0.3) -> tuple[iql.Normal, Critic, iql.Value]:
    rngs = nnx.Rngs(2)
    actor = iql.Normal(3, 2, 8, rngs)
    actor.log_deviation[...] = jnp.full(2, log_deviation)
    critic, value = Critic(3, 2, 8, rngs), iql.Value(3, 8, rngs)
    error = better(critic, value, batch(3, 2))
    value.value.fc3.bias[...] += np.median(error)  # errors of both signs
    return actor, critic, value


def better(critic: Critic, value: iql.Value, given: Batch) -> np.ndarray:
    q1, q2 = (np.asarray(q) for q in critic(given.observation, given.action))
    return np.minimum(q1, q2) - np.asarray(value(given.observation))


def test_values_regress_by_expectiles() -> None:
    given, (_, critic, value) = batch(3, 2), implicit()
    error = better(critic, value, given)
    assert (error > 0).any() and (error < 0).any()
    want = np.mean([(0.7 if e > 0 else 0.3) * e * e for e in error])
    assert float(iql.value_loss(value, critic, iql.Iql(), given)) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("cap", [100.0, 1.05])
def test_the_actor_weighs_actions_by_their_advantage_up_to_a_cap(cap: float) -> None:
    given, (actor, critic, value) = batch(3, 2), implicit()
    raw = np.exp(3 * better(critic, value, given))
    assert (raw > 1.05).any() and (raw < 1.05).any()
    square = ((given.action - np.asarray(actor(given.observation))) / np.exp(0.3)) ** 2
    log = -(square / 2 + 0.3 + np.log(2 * np.pi) / 2).sum(axis=1)
    loss = lambda actor, value: iql.actor_loss(actor, value, critic, iql.Iql(cap=cap), given)
    want = -(np.minimum(raw, cap) * log).mean()
    assert float(loss(actor, value)) == pytest.approx(want, rel=1e-4)
    climbed = jax.tree.leaves(nnx.grad(loss, argnums=1)(actor, value))
    assert all((leaf == 0).all() for leaf in climbed)


def test_an_update_of_implicit_q_learning() -> None:
    settings, given = Td3(width=8, batch=20, decay=0.0), batch(3, 2)
    given = given._replace(going=np.r_[np.zeros(10), np.ones(10)].astype("f"))
    learner = iql.learner(settings, iql.Iql(), Kind(), 3, 2, last=1)
    actor, critic, value = learner.networks(4)
    before = jax.tree.map(np.asarray, nnx.state(critic, nnx.Param))
    state, other = (learner.start(4, actor, critic, value) for _ in range(2))
    agent = learner.agent(other)
    losses = float(iql.value_loss(agent.value, agent.critic, iql.Iql(), given))
    agent.value_optimizer.update(
        agent.value, nnx.grad(iql.value_loss)(agent.value, agent.critic, iql.Iql(), given)
    )
    losses += float(iql.actor_loss(agent.actor, agent.value, agent.critic, iql.Iql(), given))
    target = given.reward + 0.99 * given.going * np.asarray(agent.value(given.following))
    both = (np.asarray(q) for q in agent.critic(given.observation, given.action))
    losses += sum(((q - target) ** 2).mean() for q in both)

    twice = Batch(*(np.asarray(column, "f")[None, None] for column in given))
    state, found, layers = learner.train(state, twice, jax.random.key(0))
    np.testing.assert_allclose(found, [losses], rtol=1e-4)
    made = learner.agent(state)
    np.testing.assert_array_equal(layers[0][0], made.actor.net.fc1.kernel[...])
    after, moved = (nnx.state(one, nnx.Param) for one in (made.critic, made.critic_target))
    mix = jax.tree.map(lambda old, new: 0.995 * old + 0.005 * new, before, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), moved, mix)


def test_returns_span_a_thousand() -> None:
    place = np.array([0, 1, 5, 6, 2, 3, 8], "f")[:, None]
    reward = np.array([1, 1, 2, 3, 4, 3, 50], "f")  # episodes of 2, 5 and 7, and one that was cut
    rows = Batch(place, place, reward, place + 1, np.ones(7, "f"))
    assert iql.reward_scale(rows) == pytest.approx(200)
    assert iql.reward_scale(rows._replace(reward=np.ones(7, "f"))) == 1
    assert iql.reward_scale(Batch(*(column[:3] for column in rows))) == 1


def test_scores_are_between_a_random_policy_and_an_expert() -> None:
    settings = offline_prune.Settings(env="Hopper-v5")
    assert offline_prune.normalized(-20.272305, settings) == 0
    assert offline_prune.normalized(3234.3, settings) == 100


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"densities": (0.0,)}, "fractions in"), ({"updates_each": 0}, "--updates_each got 0")],
)
def test_bad_settings(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SETTINGS, **changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"expectile": 1.0}, r"in \(0, 1\), got 1"), ({"beta": -1.0}, "beta is 0 or more")],
)
def test_bad_settings_of_implicit_q_learning(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        iql.Iql(**changed)


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


def test_random_masks_are_compared_with_an_agent_that_has_learned() -> None:
    settings = offline_prune.Settings()  # a score is 124 units of HalfCheetah's return
    runs = lambda dense, near: {"dense": [{"score": dense}], "random, 5 %": [{"score": near}]}
    text = lambda *scores: offline_prune.on_random_masks(runs(*scores), settings)
    assert "reach 91% of the dense score: close" in text(6000.0, 5430.0)
    assert "reach 50% of the dense score: not close" in text(6000.0, 2860.0)
    assert "too little" in text(-200.0, 300.0) and "too little" in text(6000.0, None)


@pytest.mark.slow
def test_the_study_runs_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gym, "make", lambda name: Line())
    settings = dataclasses.replace(SETTINGS, out=str(tmp_path))
    offline_prune.main(settings)
    printed = capsys.readouterr().out
    others = dataclasses.replace(settings, algorithms=("TD3+BC", "IQL"), methods=("SNIP", "SET"))
    offline_prune.main(others)
    printed_then = capsys.readouterr().out
    assert all(f"{name}, 1 seed, D4RL score" in printed_then for name in others.algorithms)
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
