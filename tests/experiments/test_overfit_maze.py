"""Mazes: their rules, the best return of every level by a solver, and levels that are apart."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import common, overfit_maze
from experiments.rl import networks
from experiments.rl.environments import maze
from experiments.rl.ppo import Ppo
from experiments.rl.rollout import Report

pytestmark = pytest.mark.standard_dtypes
STEP = jax.jit(jax.vmap(maze.Maze.step, in_axes=(None, 0, 0, 0)))


def best_return(levels: maze.Maze, level: int) -> float:
    """By value iteration over all places and all sets of objects, with the rules themselves."""
    cells, sets = maze.SIZE**2, 2**maze.OBJECTS
    count = cells * sets * maze.ACTIONS
    cell, kept, action = np.indices((cells, sets, maze.ACTIONS)).reshape(3, -1)
    here = ((kept[:, None] >> np.arange(maze.OBJECTS)) & 1).astype(np.float32)
    zero = jnp.zeros(count, jnp.int32)
    at = maze.Place(
        zero + level, jnp.stack([cell // maze.SIZE, cell % maze.SIZE], axis=1), here, zero, zero
    )
    keys = jnp.broadcast_to(jax.random.key(0), (count,))
    after, reward, end = STEP(levels, at, jnp.asarray(action), keys)
    new = np.asarray(after.agent) @ [maze.SIZE, 1] * sets
    new = new + np.asarray(after.here, int) @ (1 << np.arange(maze.OBJECTS))
    reward, going = np.asarray(reward, float), 1 - np.asarray(end, float)
    value = np.full(cells * sets, -np.inf)
    for _ in range(100):  # with one reward after the other, and no way longer than this
        ahead = np.where(going > 0, value[new], 0)
        value, old = np.maximum(value, (reward + ahead).reshape(-1, maze.ACTIONS).max(1)), value
        if (value == old).all():
            break
    start = int(np.asarray(levels.starts)[level] @ [maze.SIZE, 1]) * sets + sets - 1
    return float(value[start])


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_the_best_return_of_every_level_is_that_of_the_paper(flip: float) -> None:
    levels = maze.levels(12, flip, seed=3)
    for level in range(12):
        assert best_return(levels, level) == pytest.approx(maze.BEST, abs=1e-5)
    worth = np.asarray(levels.worth)
    np.testing.assert_allclose(worth[:, 0], 0.1)
    np.testing.assert_allclose(np.maximum(worth[:, 1:], 0).sum(axis=1), 2, rtol=1e-6)
    assert np.ptp(np.abs(worth[:, 1:]), axis=1).max() < 1e-6  # the four are scaled alike
    assert (worth[:, 1:] == [1, 1, -1, -1]).all() == (flip == 0)


def test_levels_are_apart() -> None:
    trained = maze.levels(300, 0.5, seed=1)
    other = maze.levels(300, 0.0, seed=1, others=trained)  # the same seed draws the same places
    assert len(set(maze.names(trained))) == len(set(maze.names(other))) == 300
    assert not set(maze.names(trained)) & set(maze.names(other))
    assert all(len(set(name)) == maze.OBJECTS + 1 for name in maze.names(other))


def test_a_level_that_cannot_be_solved_is_seen() -> None:
    worth = np.array([0.1, 1, 1, -1, -1])
    corner = np.array([(4, 4), (8, 8), (0, 0), (2, 2), (0, 1), (1, 0)])
    assert not maze.solvable(corner, worth)  # a good object behind both bad ones
    assert maze.solvable(corner, np.array([0.1, 1, 1, 1, -1]))
    assert maze.solvable(corner, np.array([0.1, 0.5, 0.5, 0.5, 0.5]))  # by way of good ones
    assert not maze.solvable(corner[[0, 4, 2, 3, 1, 5]], worth)  # behind the key and a bad one


def walk(levels: maze.Maze, actions: list[int]) -> tuple[list[float], maze.Place, bool]:
    """Rewards, the last place and whether it is over."""
    at = jax.tree.map(lambda leaf: leaf[None], levels.reset(jax.random.key(0)))
    rewards, end = [], jnp.array([False])
    for n, action in enumerate(actions):
        at, reward, end = STEP(levels, at, jnp.array([action]), jax.random.key(n)[None])
        rewards.append(float(reward[0]))
    return rewards, at, bool(end[0])


def level(sticky: float = 0.0, anywhere: bool = False) -> maze.Maze:
    """The agent in a corner; a good object to its right, the key two below."""
    return maze.Maze(
        jnp.array([[0, 0]]), jnp.array([[(2, 0), (0, 1), (5, 5), (8, 8), (7, 7)]]),
        jnp.array([[0.1, 1, 1, -1, -1]]), jnp.float32(sticky), jnp.array(anywhere),
    )  # fmt: skip


def test_walking_taking_and_ending() -> None:
    up, down, left, right, stay = range(5)
    rewards, at, over = walk(level(), [up, stay, right, left, right, left, down])
    np.testing.assert_allclose(rewards, [-0.01, 0, 1, 0, 0, 0, 0], atol=1e-6)  # taken only once
    assert not over and at.here.tolist() == [[1, 0, 1, 1, 1]]
    rewards, at, over = walk(level(), [down, down])
    assert over and rewards == pytest.approx([0, 0.1])
    rewards, at, over = walk(level(), [stay] * maze.LIMIT)
    assert over and sum(rewards) == rewards[-1] == -1
    late = maze.Place(*(jnp.asarray(x)[None] for x in at_limit()))
    _, reward, end = STEP(level(), late, jnp.array([down]), jax.random.key(0)[None])
    assert end[0] and float(reward[0]) == pytest.approx(0.1)  # the key in the last step


def at_limit() -> tuple:
    return 0, (1, 0), np.ones(maze.OBJECTS, np.float32), maze.LIMIT - 1, 4


def grids(cells: jax.Array) -> np.ndarray:
    """[..., 6, 9, 9], 0 or 1: what an observation stands for."""
    return np.asarray(jax.nn.one_hot(cells, 81)).reshape(*cells.shape, 9, 9)


def test_a_layer_of_grids_is_a_linear_one() -> None:
    layer = networks.Grids(486, 3, rngs=nnx.Rngs(0))
    cells = jax.random.randint(jax.random.key(0), (20, 6), 0, 82)  # in some grids none
    x = jnp.asarray(grids(cells).reshape(20, 486))
    assert 0 < x.sum() < 6 * 20
    plain = lambda layer, x: x @ layer.kernel[...] + layer.bias[...][None]
    sides = lambda call, x: nnx.value_and_grad(lambda layer: (call(layer, x) ** 2).sum())(layer)
    ours, wanted = sides(networks.Grids.__call__, cells), sides(plain, x)
    for one, other in zip(*map(jax.tree.leaves, (ours, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_seen() -> None:
    levels = level()
    seen = grids(levels.observe(levels.reset(jax.random.key(0))))
    assert len(seen) * 81 == maze.OBSERVED and seen.sum() == 6
    assert seen[0, 2, 0] == seen[1, 0, 1] == seen[4, 7, 7] == seen[5, 0, 0] == 1
    _, at, _ = walk(levels, [3])
    after = grids(levels.observe(jax.tree.map(lambda leaf: leaf[0], at)))
    assert after[1].sum() == 0 and after[5, 0, 1] == 1 and after.sum() == 5


def test_sticky_actions_and_starts_anywhere() -> None:
    levels, count = level(sticky=0.25, anywhere=True), 4000
    keys = jax.random.split(jax.random.key(1), count)
    at = jax.vmap(levels.reset)(keys)
    cells = np.asarray(at.agent) @ [9, 1]
    objects = {18, 1, 50, 80, 70}
    assert set(cells) == set(range(81)) - objects
    at = at._replace(agent=jnp.full((count, 2), 4), age=at.age + 1, before=at.before * 0)
    moved = np.asarray(STEP(levels, at, jnp.full(count, 3), keys)[0].agent)
    assert (moved[:, 0] == 3).mean() == pytest.approx(0.25, abs=0.03)  # up, as before
    assert ((moved[:, 1] == 5) == (moved[:, 0] == 4)).all()  # else right, as chosen


def test_test_returns_are_compared_where_training_returns_are_equal() -> None:
    run = {"train": [[0.0, 1.0, 0.2], [0.5, 1.5, 0.3], [2.0, 0.5, 0.2]],
           "test": [[-1.0, 0.7, 0.0], [0.0, 0.9, 0.0], [0.75, 0.1, 0.0]]}  # fmt: skip
    found = overfit_maze.at(run, 1.0)
    np.testing.assert_allclose(found, [0.25, 0.7, np.nan])  # a third of the way; at once; never
    assert np.isnan(overfit_maze.at(run, 0.5)).tolist() == [False, True, True]  # passed before
    assert overfit_maze.mean_known(found) == "0.47 ± 0.32, 2 of 3"
    assert overfit_maze.mean_known(found[2:]) == "not seen"


def test_the_training_return_is_that_of_the_last_episodes() -> None:
    score = np.zeros((2, 40), np.float32)
    score[:, -2:], count = [[1, 4], [np.nan, 2]], np.zeros((2, 40))
    count[:, -2:] = [[10, 20], [0, 5]]
    report = Report(*map(jnp.asarray, (score, count, count, count, count)))
    np.testing.assert_allclose(overfit_maze.recent(report), [3, 2])


def test_a_claim_is_met_or_refuted_by_all_seeds_or_is_not_settled() -> None:
    ends = {"train": [1.7, 1.6, 1.7], "test": [-0.3, -0.1, -0.2],
            "sticky actions": [1.3, 1.0, 1.3], "random starts": [0.2, 0.1, 0.2]}  # fmt: skip
    lines = overfit_maze.acceptance({(10, 0.0): {"ends": ends}})
    assert lines[0] == (
        "met (3 of 3 seeds): 10 levels, flips 0: train at least 1.5, test at most 0; "
        "train 1.67 ± 0.06, test -0.20 ± 0.10"
    )
    assert lines[1].startswith("not settled (2 of 3 seeds): 10 levels, flips 0: sticky actions")
    assert lines[2].startswith("refuted (0 of 3 seeds): 10 levels, flips 0: random starts")
    assert len(lines) == 3


def test_arms_have_the_sparsity_of_their_names() -> None:
    made = {arm: overfit_maze.kind(arm, 1e-5) for arm in get_args(overfit_maze.Arm)}
    densities = {arm: one.start.keywords["density"] for arm, one in made.items() if "%" in arm}
    wanted = {"80 %": 0.2, "95 %": 0.05, "98 %": 0.02, "SET 90 %": 0.1}
    assert densities == pytest.approx(wanted)
    assert [arm for arm, one in made.items() if one.moved] == ["SET 90 %"]


@pytest.mark.slow
def test_a_run_that_is_killed_continues_and_ends_with_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Ppo(copies=4, steps=4, batches=1, every=20)
    settings = overfit_maze.Settings(
        levels=(4,), flips=(0.0,), arms=("dense",), sparse=4, seeds=2, millions=0.0011,
        sparse_millions=0.0011, equal=-3.0, until=9, episodes=4, ppo=small,
    )  # fmt: skip
    whole = dataclasses.replace(settings, out=str(tmp_path / "whole"))
    overfit_maze.main(whole)
    printed = capsys.readouterr().out
    assert "training return -3 minus test return by sparsity:" in printed
    assert (tmp_path / "whole" / "returns.png").is_file()
    killed, save = dataclasses.replace(settings, out=str(tmp_path / "killed")), common.Run.save

    def stop(self: common.Run, step: int, tree: Any) -> None:
        save(self, step, tree)
        if step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(common.Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        overfit_maze.trained(4, 0.0, "dense", killed)
    monkeypatch.setattr(common.Run, "save", save)
    found = [overfit_maze.trained(4, 0.0, "dense", one) for one in (whole, killed)]
    assert found[0] == found[1] and len(found[0]["train"]) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"levels": (0,)}, "--levels got"),
        ({"flips": (1.0,)}, "--flips got"),
        ({"millions": 0.1}, "--millions .* got 0.1 and 0.8; give 0.131072 or more"),
    ],
)
def test_bad_settings(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(overfit_maze.Settings(), **changed)
