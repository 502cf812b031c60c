"""Checkpoints of run folders: torn, corrupt, foreign, and resumed to the same bits."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.common.run import Run, check_finite, open_run
from experiments.common.settings import Diverged
from jsparse import CorruptCheckpoint
from tests.experiments.test_run_folder import Settings


def tree(scale: float) -> dict:
    return {
        "w": jnp.arange(6, dtype=jnp.float32).reshape(2, 3) * scale,
        "half": jnp.asarray([1 / 3, 2 / 3], jnp.bfloat16) * jnp.asarray(scale, jnp.bfloat16),
        "half0": jnp.asarray(1 / 3, jnp.bfloat16),
        "small": jnp.asarray([1.5, -2.0], jnp.float8_e4m3fn),
        "key": jax.random.key(int(scale)),
        "keys": jax.random.split(jax.random.key(int(scale), impl="rbg"), 3),
        "count": jnp.asarray(int(scale), jnp.int32),
        "flag": jnp.asarray([True, False]),
        "empty": jnp.zeros((0, 4)),
        "nested": [np.arange(3), (int(scale), scale, True)],
        "weak": jnp.asarray(scale),
    }


def bits(leaf) -> bytes:
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


def assert_same(one, two) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert type(a) is type(b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        assert getattr(a, "weak_type", None) == getattr(b, "weak_type", None)
        assert getattr(a, "sharding", None) == getattr(b, "sharding", None)
        assert np.shape(a) == np.shape(b) and bits(a) == bits(b)


def test_every_kind_of_leaf_comes_back(tmp_path):
    run = open_run(tmp_path, Settings())
    assert run.load(tree(1.0))[0] == 0
    run.save(3, tree(2.0))
    step, got = run.load(tree(1.0))
    assert step == 3
    assert_same(got, tree(2.0))
    assert jnp.array_equal(jax.random.uniform(got["key"]), jax.random.uniform(jax.random.key(2)))


def test_a_bare_leaf_and_sharded_leaves_come_back(tmp_path):
    run = open_run(tmp_path, Settings())
    run.save(1, jnp.arange(3))
    assert run.load(jnp.zeros(3, jnp.int32))[1].tolist() == [0, 1, 2]
    mesh = jax.make_mesh((len(jax.devices()),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    whole = jax.device_put(jnp.arange(16.0), spread)
    run.save(2, whole)
    assert_same(run.load(jnp.zeros_like(whole, device=spread))[1], whole)


def test_the_last_two_are_kept(tmp_path):
    run = open_run(tmp_path, Settings())
    for step in (1, 2, 3, 10):
        run.save(step, {"a": jnp.ones(step)})
    assert run.checkpoints.steps() == [3, 10]
    assert len(list((tmp_path / "checkpoints").glob("step_*"))) == 2
    run.save(1, {"a": jnp.ones(1)})  # begun again: what came later is void
    assert run.checkpoints.steps() == [1]


def test_half_written_files_are_cleared(tmp_path):
    run = open_run(tmp_path, Settings())
    run.save(1, jnp.ones(2))
    (tmp_path / "checkpoints" / ".step_0000000002.part").mkdir()
    (tmp_path / ".log.jsonl.77.part").write_bytes(b"torn")
    run = open_run(tmp_path, Settings())
    assert run.load(jnp.zeros(2))[0] == 1 and not list(tmp_path.glob(".*"))
    run.save(2, jnp.ones(2))
    assert len(list((tmp_path / "checkpoints").glob("step_*"))) == 2


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    run = open_run(tmp_path, Settings())
    run.finish(a=1)

    def fail(*paths):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.finish(a=2)
    assert run.final() == {"a": 1} and not list(tmp_path.glob(".*"))


def damage(folder: Path, kind: str) -> None:
    """Damage the largest file of a checkpoint."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"cut": content[:-50], "empty": b"", "flipped": flipped, "other": b"x"}[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "flipped", "other"])
def test_corrupt_checkpoint_is_refused_and_the_one_before_used(tmp_path, kind):
    run = open_run(tmp_path, Settings())
    for step in (1, 2):
        run.log(step, loss=1 / step)
        run.save(step, tree(float(step)))
    damage(run.checkpoints.folder / "step_0000000002", kind)
    with pytest.warns(UserWarning, match="refused: .*step_0000000002 is damaged"):
        step, got = run.load(tree(0.0))
    assert step == 1
    assert_same(got, tree(1.0))
    assert [row["step"] for row in run.rows()] == [1]
    damage(run.checkpoints.folder / "step_0000000001", "empty")
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(CorruptCheckpoint, match="start again"),
    ):
        run.load(tree(0.0))


@pytest.mark.filterwarnings("ignore:refused")
def test_no_flipped_byte_passes_unseen(tmp_path):
    """In any file of a checkpoint; bytes are sampled."""
    run = open_run(tmp_path, Settings())
    start = {"a": jnp.arange(5.0), "key": jax.random.key(1), "h": jnp.ones(3, jnp.bfloat16)}
    run.save(4, start)
    for path in (p for p in run.checkpoints.folder.glob("step_*/**/*") if p.is_file()):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 5)):
            changed = bytes([content[place] ^ 0x55])
            path.write_bytes(content[:place] + changed + content[place + 1 :])
            with pytest.raises(CorruptCheckpoint):
                run.load(start)
        path.write_bytes(content)
    assert_same(run.load(start)[1], start)


def test_other_trees_are_refused_leaf_by_leaf(tmp_path):
    run = open_run(tmp_path, Settings())
    run.save(1, {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(1), "k": jax.random.key(0)})
    with pytest.raises(ValueError) as caught:
        run.load({
            "a": jnp.ones(4), "b": jnp.ones(3, jnp.bfloat16), "d": jnp.ones(1),
            "k": jax.random.key(0, impl="rbg"),
        })  # fmt: skip
    lines = str(caught.value).split("\n")
    assert lines[1:-1] == [
        "  a: got float32[2], expected float32[4]",
        "  b: got float32[3], expected bfloat16[3]",
        "  d: missing",
        "  k: got key<fry>[2], expected key<rbg>[4]",
        "  c: unexpected",
    ]
    assert "restore into the model and optimizer that were saved" in lines[-1]
    with pytest.raises(ValueError, match="and 12 more"):
        run.load([jnp.ones(1)] * 16)


def test_leaves_that_are_not_numbers_are_named(tmp_path):
    with pytest.raises(TypeError, match="a is a str"):
        open_run(tmp_path, Settings()).save(0, {"a": "text"})


class Killed(Exception):
    pass


def train(folder: Path, killed_after: float) -> tuple[dict, Run]:
    """A small model trained for 6 epochs, killed between log and save of an epoch."""
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
        nnx.Linear(8, 2, rngs=nnx.Rngs(2)),
    )  # fmt: skip
    tx = optax.sgd(0.1, momentum=0.9)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    start = {"params": params, "rest": rest, "opt": tx.init(params), "key": jax.random.key(5)}

    @jax.jit
    def epoch_of(state):
        key, part = jax.random.split(state["key"])
        x = jax.random.normal(part, (16, 4))

        def loss_of(params, rest):
            net = nnx.merge(graph, params, rest, copy=True)
            return (net(x) ** 2).mean(), nnx.state(net, nnx.Not(nnx.Param))

        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state["params"], state["rest"]
        )
        step, opt = tx.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], step)
        return {"params": params, "rest": rest, "opt": opt, "key": key}, loss

    run = open_run(folder, Settings())
    done, state = run.load(start)
    for epoch in range(done + 1, 7):
        state, loss = epoch_of(state)
        run.log(epoch, loss=loss)
        if epoch == killed_after:
            raise Killed
        run.save(epoch, state)
    return state, run


@pytest.mark.standard_dtypes
def test_resumed_run_equals_an_unbroken_one(tmp_path):
    whole, unbroken = train(tmp_path / "whole", math.inf)
    for kill in (1, 4):  # before anything was saved, and in the middle
        with pytest.raises(Killed):
            train(tmp_path / "broken", kill)
    state, run = train(tmp_path / "broken", math.inf)
    assert_same(state, whole)
    assert run.rows() == unbroken.rows()
    assert [row["step"] for row in run.rows()] == [1, 2, 3, 4, 5, 6]


def test_diverged_tells_step_densities_state_and_remedy(tmp_path):
    run = open_run(tmp_path, Settings())
    check_finite(jnp.float32(1.0), 1, {}, run)
    with pytest.raises(Diverged, match=r"inf at step 1; densities: not given; nothing was saved"):
        check_finite(np.inf, 1, {}, run)
    run.save(7, jnp.ones(1))
    with pytest.raises(Diverged) as caught:
        check_finite(jnp.float32(jnp.nan), 8, {"fc1": jnp.float32(0.025), "fc2": 1}, run)
    assert str(caught.value) == (
        "the loss is nan at step 8; densities: fc1 2.50%, fc2 100.00%; step 7 is kept in "
        f"{tmp_path}/checkpoints; try a smaller learning rate or a smaller alpha"
    )
