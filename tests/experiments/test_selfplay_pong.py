"""Pong against plain Python, targets and probes by hand, opponents, and the whole experiment."""

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
pytest.importorskip("sklearn")

import jsparse
from experiments import selfplay_pong
from experiments.rl import atari, dqn, schooling, selfplay
from experiments.rl.environments import pong
from experiments.rl.networks import Kind, drawn
from experiments.rl.sights import probe

pytestmark = pytest.mark.standard_dtypes
STEP = jax.jit(jax.vmap(lambda court, moves: pong.step(court, moves, jax.random.key(0))))
SMALL = dqn.Dqn(width=8, copies=4, batch=8, capacity=40, every=3)


def plain(court: dict[str, Any], moves: list[float]) -> tuple[float, bool]:
    """The rules once more: changes the court; the left player's reward, and whether it is over."""
    for side in (0, 1):
        court["paddles"][side] = min(0.9, max(0.1, court["paddles"][side] + 0.03 * moves[side]))
    court["age"] += 1
    x, y = court["x"] + court["vx"], court["y"] + court["vy"]
    if y < 0 or y > 1:
        y, court["vy"] = -y if y < 0 else 2 - y, -court["vy"]
    reward = 0.0
    for side, beyond in ((0, -x), (1, x - 1)):
        if beyond < 0:
            continue
        offset = (y - court["paddles"][side]) / 0.1
        if abs(offset) > 1:
            reward = (-1.0, 1.0)[side]
            continue
        x = (beyond, 1 - beyond)[side]
        court["vx"] = (1, -1)[side] * min(0.06, 1.05 * abs(court["vx"]))
        court["vy"] = 0.04 * offset
    court["x"], court["y"] = x, y
    return reward, bool(reward) or court["age"] >= 300


def test_pong_follows_its_rules() -> None:
    """Thirty points, step by step; on some courts one side or both follow the ball."""
    courts = jax.vmap(pong.reset)(jax.random.split(jax.random.key(0), 30))
    random, alive, seen, hits = np.random.default_rng(0), np.ones(30, bool), [], 0
    for _ in range(300):
        before = jax.device_get(courts)
        moves = random.uniform(-1, 1, (30, 2)).astype(np.float32)
        skilled = np.clip((before.ball[:, 1:] - before.paddles) / 0.03, -1, 1)
        moves[::3], moves[1::3, 0] = skilled[::3], skilled[1::3, 0]
        courts, rewards, ends = jax.device_get(STEP(courts, moves))
        for n in np.flatnonzero(alive):
            (x, y), (vx, vy) = before.ball[n].tolist(), before.velocity[n].tolist()
            paddles, age = before.paddles[n].tolist(), int(before.age[n])
            twin = {"x": x, "y": y, "vx": vx, "vy": vy, "paddles": paddles, "age": age}
            reward, over = plain(twin, moves[n].tolist())
            assert (rewards[n], ends[n]) == (reward, over)
            found = [*courts.ball[n], *courts.velocity[n], *courts.paddles[n], courts.age[n]]
            expected = [*(twin[name] for name in ("x", "y", "vx", "vy")), *paddles, age + 1]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            seen += [reward] if over else []
        hits += int((alive & (before.velocity[:, 0] * courts.velocity[:, 0] < 0)).sum())
        alive &= ~ends
    assert {-1.0, 0.0, 1.0} == set(seen) and not alive.any() and hits > 100


def test_the_right_player_sees_the_court_mirrored() -> None:
    court = pong.reset(jax.random.key(1))
    moves, key = jnp.array([1.0, -0.5]), jax.random.key(0)
    one, other = pong.step(court, moves, key)[0], pong.mirrored(court)
    turned = pong.step(other, moves[::-1], key)[0]
    for a, b in zip(pong.mirrored(one), turned, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(pong.observe(pong.mirrored(other)), pong.observe(court), atol=1e-6)


def test_frames_show_ball_and_paddles_of_two_moments() -> None:
    then, now = (0.26, 0.99, 0.5, 0.9), (0.5, 0.02, 0.1, 0.5)
    shown = np.asarray(pong.frames(jnp.array(then + now)))
    assert shown.shape == (2, 24, 24) and set(np.unique(shown)) == {0, 1}
    for frame, (x, y, left, right) in zip(shown, (then, now), strict=True):
        assert np.argwhere(frame[:, 1:-1]).tolist() == [[int((1 - y) * 24), int(x * 24) - 1]]
        for column, paddle in ((0, left), (-1, right)):
            rows = np.flatnonzero(frame[:, column])
            assert len(rows) in (4, 5)
            assert 1 - (rows.mean() + 0.5) / 24 == pytest.approx(paddle, abs=0.03)


def test_where_the_ball_lands() -> None:
    """A ball that nobody hits crosses the line there, whatever walls it meets."""
    court = pong.reset(jax.random.key(3))._replace(
        ball=jnp.array([0.9, 0.2]), velocity=jnp.array([-0.03, -0.04])
    )
    y, up = 0.2, -0.04
    for _ in range(30):  # 0.9 / 0.03
        y += up
        if not 0 <= y <= 1:
            y, up = (-y if y < 0 else 2 - y), -up
    assert float(pong.landing(court)) == pytest.approx(y, abs=1e-5)


def test_the_target_of_double_dqn_by_hand() -> None:
    online = jnp.array([[0.0, 2.0, 1.0], [3.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    target = jnp.array([[5.0, 0.5, 7.0], [-1.0, 8.0, 8.0], [1.0, 1.0, 4.0]])
    reward, going = jnp.array([1.0, 0.0, -1.0]), jnp.array([1.0, 1.0, 0.0])
    # the online network chooses 1, 0 and 2; the target network values them 0.5, -1 and 4
    found = dqn.goals(reward, going, online, target, 0.9)
    np.testing.assert_allclose(found, [1 + 0.9 * 0.5, 0.9 * -1, -1], rtol=1e-6)


def test_a_memory_keeps_the_last_rows() -> None:
    none = jnp.zeros(6)
    memory = dqn.Memory(jnp.zeros((6, 1)), none, none, jnp.zeros((6, 1)), none)
    for count in range(4):
        new = jnp.array([2.0 * count, 2.0 * count + 1])
        row = dqn.Memory(new[:, None], new, new, -new[:, None], new)
        memory, filled = dqn.remember(memory, row, jnp.int32(count))
        assert filled == min(2 * count + 2, 6)
    assert sorted(memory.reward.tolist()) == [2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(memory.following[:, 0], -memory.reward)


def test_probes_are_ridge_regressions() -> None:
    random = np.random.default_rng(0)
    x = random.normal(3, 2, (200, 5))
    x[:, 4] = 1  # a dead unit
    y = x[:, :2] @ [1.0, -2.0] + random.normal(0, 1, 200)
    held, penalty = np.arange(200) % 4 == 0, 0.05
    fit = ~held
    z = (x - x[fit].mean(0)) / np.where(x[fit].std(0) > 0, x[fit].std(0), 1)
    a, center = z[fit], y[fit].mean()
    w = np.linalg.solve(a.T @ a + penalty * len(a) * np.eye(5), a.T @ (y[fit] - center))
    off = y[held] - center - z[held] @ w
    expected = 1 - (off**2).sum() / ((y[held] - y[held].mean()) ** 2).sum()
    found = probe(x, {"y": y, "noise": random.normal(size=200)}, held, penalty)
    assert found["y"] == pytest.approx(expected, abs=1e-9) and found["noise"] < 0.1
    with pytest.raises(ValueError, match="give some to each side"):
        probe(x, {"y": y}, np.zeros(200, bool), penalty)


def test_opponents_are_drawn_among_those_asked_for() -> None:
    foes = jax.tree.map(lambda leaf: leaf[0], schooling.blank("numbers", 1, 4, 8))
    draw = lambda low, high: (
        jax.vmap(selfplay.Match(foes, jnp.int32(low), jnp.int32(high), "numbers").reset)(
            jax.random.split(jax.random.key(0), 100)
        ).foe
    )
    assert set(draw(0, 1).tolist()) == {0} and set(draw(2, 4).tolist()) == {2, 3}


def test_exploiters_first_win() -> None:
    curve = np.array([[[-1.0, 0.2]], [[0.0, -0.5]], [[0.1, -0.5]]])
    assert selfplay_pong.first_above(curve, [5, 10, 15]) == [15, 5]
    assert selfplay_pong.first_above(-np.ones((2, 1, 1)), [5, 10]) == [np.inf]


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity got 3; give room for a step of all 4 copies"):
        dqn.Dqn(copies=4, capacity=3)
    with pytest.raises(ValueError, match="batch got 0"):
        dqn.Dqn(batch=0)
    with pytest.raises(ValueError, match="--frames got 79; give at least 5 for each of the 16"):
        selfplay_pong.Settings(frames=79)
    with pytest.raises(ValueError, match="--generations got 2; give 3 or more"):
        selfplay_pong.Settings(generations=2)


def test_atari_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(sys.modules, "ale_py.vector_env", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jsparse\[atari\]'"):
        atari.simulators(2, seed=1)


@pytest.mark.slow
def test_masks_move_when_they_are_due_and_targets_are_copies() -> None:
    """Two seeds side by side: masks change after every third iteration, with as many links."""
    room = jax.tree.map(lambda leaf: leaf[0], schooling.blank("numbers", 1, 1, 8))
    task = selfplay.task("numbers", room)
    trainer = dqn.Trainer(
        dataclasses.replace(SMALL, copy=4), Kind(drawn(0.5), jsparse.SET), task, last=100
    )
    learner, masks, same = trainer.start([1, 2]), [], []
    for _ in range(10):
        read = trainer.layers(learner)
        masks.append(np.concatenate([np.asarray(k).reshape(2, -1) != 0 for k, _ in read[:2]], 1))
        read = jax.tree.map(np.asarray, read)
        learner, _ = trainer.learn(learner, jnp.int32(1))
        equal = jax.tree.map(lambda a, b: bool((a == b).all()), read, learner.target)
        same.append(all(jax.tree.leaves(equal)))
    lost = [(masks[n] & ~masks[n + 1]).any() for n in range(9)]  # a new link is 0 at first
    assert [n + 1 for n in range(9) if lost[n]] == [3, 6, 9]
    assert [n for n in range(10) if same[n]] == [0, 4, 8]
    assert int(learner.count) == 10 and (masks[0][0] != masks[0][1]).any()


@pytest.mark.slow
def test_the_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after two jobs, continued, and shown again."""
    settings = dataclasses.replace(
        selfplay_pong.QUICK, iterations=20, marks=2, points=5, looks=10, sparse=False,
        dqn=SMALL, out=str(tmp_path),
    )  # fmt: skip
    measured = selfplay_pong.measured

    def stop(what: str, *rest: object) -> dict:
        if what == "exploit":
            raise KeyboardInterrupt
        return measured(what, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(selfplay_pong, "measured", stop)
        with pytest.raises(KeyboardInterrupt):
            selfplay_pong.main(settings)
    selfplay_pong.main(settings)
    assert "continues after step 2" in capsys.readouterr().err
    selfplay_pong.main(settings)
    printed = capsys.readouterr().out
    for line in ("Pool beats both", "exploiters score least", "Chainer against long",
                 "score of exploiters of Pool by sparsity"):  # fmt: skip
        assert line in printed
    assert (tmp_path / "exploiters.png").stat().st_size > 5_000
