"""Checkpoints: every bit comes back, on any devices, and only into what was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import jsparse as js
from tests.support.checkpoint_trees import assert_same, layer, same_bits, small
from tests.support.resumable import Batches, leaves, start, train
from tests.support.sharded import AXES, LAYOUTS, Net, data, on_mesh
from tests.support.sharded import start as start_sharded

pytest.importorskip("orbax.checkpoint")
P = jax.P


# What comes back.


@pytest.mark.standard_dtypes
def test_a_run_goes_on_bit_for_bit(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    batches = Batches()
    run = train(start(), batches, 2)
    checkpoints.save(2, run, data=batches.get_state())
    run = train(run, batches, 3)

    other, again = Batches(), start(seed=7)
    assert leaves(again)["model/threshold/kernel/weight"].tobytes() not in {
        array.tobytes() for array in leaves(run).values()
    }
    step, again, position = checkpoints.restore(again)
    other.set_state(position)
    same_bits(leaves(train(again, other, 3)), leaves(run))
    assert step == 2 and int(again["optimizer"].step[...]) == 5


def test_modules_are_filled_in_place(tmp_path) -> None:
    checkpoints, run = js.Checkpoints(tmp_path), layer(0)
    checkpoints.save(1, run)
    other = layer(1)
    got = checkpoints.restore(other)
    assert got.tree["model"] is other["model"] and got.tree["optimizer"] is other["optimizer"]
    same_bits(leaves(other), leaves(run))
    model = layer(2)["model"]
    checkpoints.save(2, run["model"])  # a tree that is one module
    assert checkpoints.restore(model).tree is model
    same_bits(leaves(model), leaves(run["model"]))


def test_an_optimizer_without_controls_may_have_had_an_empty_memory(tmp_path) -> None:
    checkpoints, run = js.Checkpoints(tmp_path), layer(0)
    del run["optimizer"].memory  # None, which is no variable
    run["optimizer"].memory = js.Setting(jnp.zeros(0))
    checkpoints.save(1, run)
    other = layer(1)
    checkpoints.restore(other)
    same_bits(leaves(other["model"]), leaves(run["model"]))


def test_every_kind_of_leaf_comes_back(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(np.int64(3), small(2.0))
    step, tree, _ = checkpoints.restore(small(1.0))
    assert step == 3 and type(step) is int
    assert_same(tree, small(2.0))


@pytest.mark.parametrize(
    "position", [b"\x00\xff", b"", None, 7, {"a": [1.5, {"b": None}], "n": 2**100}, float("inf")]
)
def test_data_positions_come_back(tmp_path, position) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(0, jnp.ones(2), data=position)
    got = checkpoints.restore(jnp.zeros(2)).data
    assert got == position and type(got) is type(position)


def test_a_grain_iterator_goes_on(tmp_path) -> None:
    grain = pytest.importorskip("grain")
    checkpoints = js.Checkpoints(tmp_path)
    source = grain.MapDataset.range(40).shuffle(seed=1).batch(4).to_iter_dataset()
    batches = iter(source)
    for _ in range(3):
        next(batches)
    checkpoints.save(3, jnp.ones(2), data=batches.get_state())
    later = iter(source)
    later.set_state(checkpoints.restore(jnp.ones(2)).data)
    np.testing.assert_array_equal(next(later), next(batches))


def test_where_nothing_was_saved(tmp_path) -> None:
    run = small(1.0)
    got = js.Checkpoints(tmp_path / "new").restore(run, data={"at": 0})
    assert got == (0, run, {"at": 0}) and got.tree is run
    assert not (tmp_path / "new").exists()


def test_the_newest_are_kept(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3, 10):
        checkpoints.save(step, jnp.full(2, step))
    assert checkpoints.steps() == [2, 3, 10]
    checkpoints.save(3, jnp.full(2, 30))  # a restart makes later ones void
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.restore(jnp.zeros(2, jnp.int32)).tree.tolist() == [30, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lock",
        "step_0000000002",
        "step_0000000003",
    ]


# What does not fit.


def test_what_differs_is_listed(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(4, {"a": jnp.ones((2, 3)), "b": jnp.ones(3), "c": 1, "k": jax.random.key(0)})
    like = {
        "a": jnp.ones((3, 2)),
        "b": jnp.ones(3, jnp.bfloat16),
        "d": 1,
        "k": jax.random.key(0, impl="rbg"),
    }
    with pytest.raises(ValueError) as caught:
        checkpoints.restore(like)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/step_0000000004 does not have the expected structure:",
        "  a: got float32[2, 3], expected float32[3, 2]",
        "  b: got float32[3], expected bfloat16[3]",
        "  d: missing",
        "  k: got key<fry>[2], expected key<rbg>[4]",
        "  c: unexpected",
        "restore into the model and optimizer that were saved, or move "
        f"{tmp_path}/step_0000000004 away",
    ]


def test_a_tree_of_one_array_is_named_where_it_differs(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(1, jnp.ones((3, 4)))
    differs = r"\n  the tree itself: got float32\[3, 4\], expected float32\[4\]\n"
    with pytest.raises(ValueError, match=differs):
        checkpoints.restore(jnp.ones(4))
    with pytest.raises(TypeError, match=r"^the tree itself is a str; arrays"):
        checkpoints.save(2, "text")


def test_another_model_is_left_as_it_was(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(1, layer(0))
    wide = layer(1, width=5)
    before = leaves(wide)
    with pytest.raises(ValueError, match=r"model/kernel/threshold: got float32\[3\]"):
        checkpoints.restore(wide)
    same_bits(leaves(wide), before)


@pytest.mark.parametrize(
    ("step", "tree", "position", "error", "message"),
    [
        (-1, 1, None, ValueError, "0 to 2147483647; got -1"),
        (2**31, 1, None, ValueError, "got 2147483648"),
        (1, {"a": jnp.zeros(0)}, None, ValueError, "holds no numbers"),
        (1, {"a": "text"}, None, TypeError, "a is a str; arrays"),
        (1, {"a": jnp.ones(3, jnp.uint4)}, None, TypeError, "a is uint4, which Orbax cannot write"),
        (1, {"a/b": 1, "a": {"b": 2}}, None, ValueError, "two leaves have the path 'a/b'"),
        (1, 1, {"a": (1, 2)}, TypeError, r"data\['a'\] is a tuple"),
        (1, 1, [{1: 2}], TypeError, r"data\[0\] is a dict: \{1: 2\}; pass bytes, or None"),
        (1, 1, np.int64(3), TypeError, "data is a int64"),
    ],
)
def test_what_cannot_be_saved(tmp_path, step, tree, position, error, message) -> None:
    with pytest.raises(error, match=message):
        js.Checkpoints(tmp_path).save(step, tree, data=position)
    assert not list(tmp_path.iterdir())


def test_keep_is_checked(tmp_path) -> None:
    with pytest.raises(ValueError, match="1 or more; got 0"):
        js.Checkpoints(tmp_path, keep=0)


def test_without_orbax(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="with its extra checkpoint"):
        js.Checkpoints(tmp_path)


# Other devices.


def on_one() -> dict:
    net = Net(LAYOUTS["data parallel"], nnx.Rngs(0))
    return run_of(start_sharded(net, *map(jnp.asarray, data())))


def on_eight(layout: str, kind: str) -> dict:
    mesh = jax.make_mesh((4, 2), AXES, axis_types=(getattr(AxisType, kind),) * 2)
    with jax.set_mesh(mesh):
        run = run_of(start_sharded(*on_mesh(LAYOUTS[layout], mesh)))
        run["keys"] = jax.device_put(run["keys"], NamedSharding(mesh, P("x")))
    return run


def run_of(run) -> dict:
    keys = jax.random.split(jax.random.key(5), 8)
    return {"model": run.net, "optimizer": run.optimizer, "keys": keys}


def scrambled(run: dict) -> dict:
    """Other bits in every leaf, at the same places."""
    random = np.random.default_rng(0)

    def scramble(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        new = random.integers(0, 100, leaf.shape).astype(leaf.dtype)
        return jax.device_put(new, leaf.sharding)

    for name in ("model", "optimizer"):
        nnx.update(run[name], jax.tree.map(scramble, nnx.state(run[name])))
    return run


def places(run: dict) -> list:
    states = nnx.state(run["model"]), nnx.state(run["optimizer"]), run["keys"]
    return [(leaf.sharding, leaf.ndim) for leaf in jax.tree.leaves(states)]


RUNS = {
    "one": on_one,
    "split weights": lambda: on_eight("split weights", "Auto"),
    "data and outputs": lambda: on_eight("data and outputs", "Explicit"),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one", "split weights"),
        ("one", "data and outputs"),
        ("split weights", "one"),
        ("data and outputs", "one"),
        ("split weights", "data and outputs"),
    ],
)
def test_other_devices(tmp_path, before, after) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    run = scrambled(RUNS[before]())
    checkpoints.save(1, run)
    like = RUNS[after]()
    there = places(like)
    got = checkpoints.restore(like).tree
    same_bits(leaves(got), leaves(run))
    for (now, _), (wanted, ndim) in zip(places(got), there, strict=True):
        assert now.is_equivalent_to(wanted, ndim)
    assert got["keys"].sharding.is_equivalent_to(like["keys"].sharding, 1)


def test_names_of_axes_need_no_mesh(tmp_path) -> None:
    def placed() -> nnx.Linear:
        mesh = jax.make_mesh((4, 2), AXES, axis_types=(AxisType.Auto,) * 2)
        with jax.set_mesh(mesh):
            init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("y", "x"))
            model = nnx.Linear(8, 16, kernel_init=init, use_bias=False, rngs=nnx.Rngs(0))
            return js.sparsify(model, ("kernel", js.Threshold()))

    checkpoints, model = js.Checkpoints(tmp_path), placed()
    model.kernel.threshold[...] += 1.0
    checkpoints.save(1, model)
    other = placed()
    checkpoints.restore(other)  # outside of the mesh
    same_bits(leaves(other), leaves(model))
    assert other.kernel.weight[...].sharding == model.kernel.weight[...].sharding
    assert specs(other) == specs(model)
    assert P("y", "x") in specs(other)


def specs(model: nnx.Module) -> list[P]:
    named = nnx.get_partition_spec(nnx.state(model))
    return jax.tree.leaves(named, is_leaf=lambda x: isinstance(x, P))
