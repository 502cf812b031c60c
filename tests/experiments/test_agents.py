"""Agents: what they remember, how they step an environment, sparse TD3 and its runs."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

import jsparse
from experiments import common, dynamic_td3
from experiments.rl import gym, networks
from experiments.rl.networks import Actor, Critic, Kind
from experiments.rl.online import OnlineSettings, learn
from experiments.rl.replay import Replay
from experiments.rl.td3 import Td3, Trainer
from tests.support.line import Line

pytestmark = pytest.mark.standard_dtypes
SMALL = Td3(width=8, batch=4, every=100)
KINDS = dynamic_td3.kinds("HalfCheetah", alpha=1e-5)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(SMALL, Kind(), 1, 1, last=10**6)


def test_a_replay_keeps_the_last_transitions() -> None:
    replay = Replay(3, 2, 1)
    for n in range(5):
        replay.add(np.full(2, n), np.full(1, -n), n, np.full(2, n + 1), 1.0)
    batch = replay.sample(np.random.default_rng(0), 50, 2)
    assert batch.observation.shape == (50, 2, 2) and batch.reward.shape == (50, 2)
    assert set(batch.reward.ravel()) == {2, 3, 4} and replay.filled == 3
    np.testing.assert_array_equal(batch.following[..., 0], batch.reward + 1)
    np.testing.assert_array_equal(batch.action[..., 0], -batch.reward)


def test_only_the_end_of_a_task_ends_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    still = [(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))]
    steps = list(gym.Walk(Line(), 0).steps(40, still, noise=0.0))
    assert [step.going for step in steps] == [1.0] * 40  # over by time alone, twice
    assert [n for n, step in enumerate(steps) if not np.isnan(step.total)] == [19, 39]
    assert steps[19].total == pytest.approx(sum(step.reward for step in steps[:20]))
    np.testing.assert_array_equal(steps[18].following, steps[19].observation)
    right = [(np.zeros((1, 1), np.float32), np.full(1, 9, np.float32))]
    steps = list(gym.Walk(Line(), 0).steps(10, right, noise=0.0))
    lost = [n for n, step in enumerate(steps) if not step.going]
    assert lost and steps[lost[0]].following[0] > 1 > abs(steps[lost[0] + 1].observation[0])
    assert steps[0].action[0] == pytest.approx(1)  # in [-1, 1], and 2 for the environment


def test_half_cheetah_has_the_weights_of_the_paper() -> None:
    rngs = nnx.Rngs(0)
    made = {"actor": Actor(17, 6, 256, rngs), "critic": Critic(17, 6, 256, rngs)}
    sparse: dict[str, Any] = {}
    counts: dict[str, tuple[int, int]] = {}
    for name, network in made.items():
        sparse[name] = KINDS["DS"].start(network, jax.random.key(1))
        counts |= {f"{name}/{path}": pair for path, pair in networks.weights(sparse[name]).items()}
    kept, size = (sum(pair[n] for pair in counts.values()) for n in range(2))
    assert size == 214_784
    density = {path: kept / size for path, (kept, size) in counts.items()}
    assert density["actor/net/fc1/kernel"] == pytest.approx(0.44, abs=0.005)
    assert density["critic/q2/fc1/kernel"] == pytest.approx(0.33, abs=0.005)
    assert density["actor/net/fc2/kernel"] == density["critic/q1/fc2/kernel"] == 0.5
    assert density["actor/net/fc3/kernel"] == density["critic/q1/fc3/kernel"] == 1
    assert 1 - kept / size == pytest.approx(0.51, abs=0.01)
    x = np.random.default_rng(0).normal(size=(5, 17)).astype(np.float32)
    actor = sparse["actor"]
    layers = jax.device_get(actor.net.layers())  # acting in NumPy is the model
    np.testing.assert_allclose(networks.act(layers, x), actor(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(networks.act(layers, x[0]), actor(x)[0], rtol=1e-4, atol=1e-5)
    dense = [networks.weights(network) for network in made.values()]
    paper = dynamic_td3.Settings(steps=1_000_000, random=25_000)
    share = paper.updates / paper.steps  # the published figure counts all steps
    assert dynamic_td3.flops(*dense, paper) / share == pytest.approx(1.07e14, rel=0.01)


@pytest.mark.slow
def test_targets_stay_within_their_links() -> None:
    """Over 300 updates, in which masks move at 2, 102 and 202."""
    kind = Kind(networks.drawn(0.5), KINDS["DS"].moved)
    trainer = Trainer(SMALL, kind, 3, 2, last=10**6)
    state, random = trainer.start(0, *trainer.networks(0)), np.random.default_rng(0)
    replay = Replay(100, 3, 2)
    for _ in range(100):
        row = (
            random.normal(size=3),
            random.uniform(-1, 1, 2),
            random.normal(),
            random.normal(size=3),
        )
        replay.add(*row, 1.0)
    masks = [links(trainer.agent(state).critic)]
    for n in range(150):
        batches = replay.sample(random, 1, 2, SMALL.batch)
        state, losses, layers = trainer.train(state, batches, jax.random.key(n))
        agent = trainer.agent(state)
        assert np.isfinite(losses).all()
        for name in ("actor", "critic"):
            online, target = links(getattr(agent, name)), links(getattr(agent, f"{name}_target"))
            assert online.keys() == target.keys() and online
            for path, mask in online.items():
                assert target[path].sum() <= mask.sum()
        masks.append(links(agent.critic))
    assert not np.asarray(layers[1][0])[~links(agent.actor)["net/fc2/kernel"]].any()
    moved = [n for n in range(150) if changed(masks[n], masks[n + 1])]
    assert moved == [0, 50, 100]
    assert len({one["q1/fc2/kernel"].sum() for one in masks}) == 1


def links(network: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(mask) > 0 for path, mask in jsparse.masks(network).items()}


def changed(before: dict, after: dict) -> bool:
    return any((before[path] != after[path]).any() for path in before)


SETTINGS = OnlineSettings(steps=300, random=50, evaluate=100, episodes=1, seeds=1)


def test_a_killed_run_continues_as_if_nothing_had_happened(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gym, "make", lambda name: Line())
    opened = lambda name: common.open_run(tmp_path / name, SETTINGS)
    whole = opened("whole")
    learn(whole, trainer, "line", SETTINGS, seed=3)
    killed, save = opened("killed"), common.Run.save

    def stop(self: common.Run, step: int, tree: Any) -> None:
        save(self, step, tree)
        if step == 200:
            raise KeyboardInterrupt

    monkeypatch.setattr(common.Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        learn(killed, trainer, "line", SETTINGS, seed=3)
    monkeypatch.setattr(common.Run, "save", save)
    learn(killed, trainer, "line", SETTINGS, seed=3)
    scores = [[(row["step"], row["score"]) for row in run.rows()] for run in (whole, killed)]
    assert scores[0] == scores[1] and [step for step, _ in scores[0]] == [100, 200, 300]


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gym, "make", lambda name: Line())
    monkeypatch.setattr(Line, "reward", float("nan"))
    run = common.open_run(tmp_path / "run", SETTINGS)
    with pytest.raises(common.Diverged, match=r"the loss is nan at step 50; densities: net/fc1"):
        learn(run, trainer, "line", SETTINGS, seed=1)


def test_what_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for name, extra in {"HalfCheetah-v5": "rl", "ALE/Pong-v5": "atari"}.items():
        with pytest.raises(ImportError, match=rf"{name} is not installed: .*jsparse\[{extra}\]"):
            gym.make(name)


def test_environments_are_those_of_gymnasium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings there
    made = gym.make("HalfCheetah-v5")
    assert gym.sizes(made) == (17, 6)
    (step,) = gym.Walk(made, 0).steps(1, None, 0.1)
    pose = step.observation[:8] - made.unwrapped.init_qpos[1:]
    assert not np.isclose(step.action[:, None], 10 * pose, rtol=1e-3).any()  # other numbers
    assert step.following.shape == (17,) and step.going == 1
    with pytest.raises(ValueError, match=r"gymnasium has no HalfCheeta-v5: .*`HalfCheetah`"):
        gym.make("HalfCheeta-v5")
    with pytest.raises(ValueError, match=r"CartPole-v1 has .* choose one where both are vectors"):
        gym.make("CartPole-v1")


def test_a_table_a_sign_and_two_pictures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dynamic_td3.Settings(steps=10_000, random=5000, seeds=2, out=str(tmp_path))
    run = {"links": 50, "weights": 100, "flops": 1e9}
    found = {
        "dense": [run | {"scores": [1.0, 2.0]}, run | {"scores": [3.0, 4.0]}],
        "DS": [run | {"scores": [2.0, 3.0]}, run | {"scores": [2.0, 2.0]}],
    }
    dynamic_td3.show(found, settings)
    assert "dense, seed by seed: +1, -2; mean -0\n" in capsys.readouterr().out
    assert all(path.is_file() for path in dynamic_td3.draw(found, settings))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 0}, "--steps got 0"),
        ({"evaluate": 70}, "multiples of 50"),
        ({"random": 100_000}, "fewer than the 100000 steps"),
    ],
)
def test_bad_settings(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(dynamic_td3.Settings(), **changed)
