"""Checkpoints: every bit comes back, damage is refused, on any devices."""

import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import jsparse as js
from jsparse.checkpoint import arrays, manifest
from tests.resumable import Batches, leaves, start, train
from tests.sharded import AXES, LAYOUTS, Net, data, on_mesh
from tests.sharded import start as start_sharded

pytest.importorskip("orbax.checkpoint")
P = jax.P


def small(scale: float) -> dict:
    """Every kind of leaf."""
    return {
        "w": jnp.arange(6.0).reshape(2, 3) * scale,
        "half": jnp.asarray([1 / 3, 2 / 3], jnp.bfloat16) * jnp.asarray(scale, jnp.bfloat16),
        "small": jnp.asarray([1.5, -2.0], jnp.float8_e4m3fn),
        "key": jax.random.key(int(scale)),
        "keys": jax.random.split(jax.random.key(int(scale), impl="rbg"), 3),
        "flags": jnp.asarray([True, scale > 1]),
        "empty": jnp.zeros((0, 4)),
        "nested": [np.arange(3) * int(scale), (int(scale), scale, True, 2j * scale)],
        "weak": jnp.asarray(scale),
        "weak row": jnp.full(3, scale),
        "numpy": np.float64(scale),
        "on a device": jax.device_put(jnp.ones(2) * scale, jax.devices()[3]),
    }


def assert_same(one, two) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True
    ):
        assert type(a) is type(b), path
        for fact in ("dtype", "shape", "weak_type", "sharding", "committed"):
            assert getattr(a, fact, None) == getattr(b, fact, None), (path, fact)
    same_bits(leaves(one), leaves(two))


def same_bits(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.dtype == two[name].dtype and array.shape == two[name].shape, name
        assert array.tobytes() == two[name].tobytes(), name


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


def layer(seed: int, width: int = 3) -> dict:
    model = nnx.Linear(4, width, rngs=nnx.Rngs(seed))
    model = js.sparsify(model, ("kernel", js.Threshold()))
    return {"model": model, "optimizer": js.Optimizer(model, optax.adam(1e-3))}


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
    checkpoints.save(3, jnp.full(2, 30))  # begun anew: what came later is void
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.restore(jnp.zeros(2, jnp.int32)).tree.tolist() == [30, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_0000000002",
        "step_0000000003",
    ]


# Damage.


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Two checkpoints, of 1.0 and 2.0, that no test changes."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = js.Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, small(float(step)), data={"at": step})
    return folder


def files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << place % 8
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_found(saved, tmp_path, damage) -> None:
    whole = saved / "step_0000000002"
    names = [file.relative_to(whole).as_posix() for file in files(whole)]
    assert {"manifest.json", "data/0.json", "arrays/_METADATA"} <= set(names)
    for name in names:
        shutil.copytree(whole, tmp_path / "step")
        if (tmp_path / "step" / name).stat().st_size or damage in ("longer", "missing"):
            DAMAGES[damage](tmp_path / "step" / name)
            with pytest.raises(js.CorruptCheckpoint, match=f"step is damaged.*{name}"):
                manifest.check(tmp_path / "step")
        shutil.rmtree(tmp_path / "step")


def test_any_flipped_bit_of_the_manifest_is_found(saved, tmp_path) -> None:
    content = (saved / "step_0000000002" / "manifest.json").read_bytes()
    for place in range(0, len(content), 7):
        (tmp_path / "manifest.json").write_bytes(content)
        flip(tmp_path / "manifest.json", place)
        with pytest.raises(js.CorruptCheckpoint, match=r"manifest\.json"):
            manifest.read(tmp_path)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(saved, tmp_path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    checkpoints = js.Checkpoints(tmp_path / "run")
    flip(files(tmp_path / "run" / "step_0000000002" / "arrays" / "d")[0], 60)
    refused = r"refused: .*step_0000000002 is damaged: the check sum of arrays/d/"
    with pytest.warns(UserWarning, match=refused) as caught:
        step, tree, position = checkpoints.restore(small(0.0))
    assert [warning.filename for warning in caught] == [__file__]
    assert step == 1 and position == {"at": 1}
    assert_same(tree, small(1.0))

    checkpoints.save(5, small(5.0))  # nothing that can be read gave way to what cannot
    assert checkpoints.steps() == [1, 5]

    for step in (1, 5):
        (tmp_path / "run" / f"step_000000000{step}" / "manifest.json").unlink()
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(js.CorruptCheckpoint, match=r"no checkpoint is left: .*is missing; delete"),
    ):
        checkpoints.restore(small(0.0))


class Killed(BaseException):
    """Not an Exception: nothing of the library may catch it."""


def killed(patch: pytest.MonkeyPatch, last: int) -> None:
    """Let the library make fewer than `last` changes of the disk, the first half of that one, and
    then end it."""
    count = itertools.count(1)

    def ending(real: Callable, half: Callable) -> Callable:
        def change(*paths):
            if sys._getframe(1).f_globals["__name__"].startswith("jsparse") and next(count) >= last:
                half(*paths)
                raise Killed
            return real(*paths)

        return change

    for name in ("rename", "replace"):
        patch.setattr(os, name, ending(getattr(os, name), lambda *paths: None))
    patch.setattr(shutil, "rmtree", ending(shutil.rmtree, lambda path: files(path)[0].unlink()))
    write, one = arrays.write, {"a": np.ones(1)}
    patch.setattr(arrays, "write", ending(write, lambda path, values: write(path, one)))


def test_a_kill_at_each_change_of_the_disk(saved, tmp_path, monkeypatch) -> None:
    """Step 2 is saved over step 2, the longest way; whatever is left is read, and saved over."""
    found = []
    for last in range(1, 99):
        folder = tmp_path / str(last)
        shutil.copytree(saved, folder)
        with monkeypatch.context() as patch:
            killed(patch, last)
            with contextlib.suppress(Killed):
                js.Checkpoints(folder, keep=1).save(2, small(8.0), data={"at": 2})
                break
        step, tree, position = js.Checkpoints(folder).restore(small(0.0))
        found.append((step, float(tree["numpy"])))
        assert_same(tree, small(found[-1][1]))
        assert position == {"at": step}
        js.Checkpoints(folder).save(3, small(3.0))
        assert js.Checkpoints(folder).steps()[-1] == 3 and not list(folder.glob(".*"))
    old, new = (2, 2.0), (2, 8.0)
    first = found.index(new)
    assert found == [old] * first + [new] * (len(found) - first)
    assert first > 3 and len(found) > first + 1


def test_the_only_checkpoint_outlives_a_kill_while_its_step_is_saved_again(
    tmp_path, monkeypatch
) -> None:
    checkpoints = js.Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, layer(0))
    rename = os.rename

    def between(one, two) -> None:
        if str(two).endswith("step_0000000001"):
            raise Killed
        rename(one, two)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", between)
        checkpoints.save(1, layer(1))
    assert js.Checkpoints(tmp_path).restore(layer(2)).step == 1


def test_what_systems_leave_in_folders_does_no_harm(saved, tmp_path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    for path in [*tmp_path.rglob("*")]:
        if path.is_dir():
            (path / ".DS_Store").write_bytes(b"x")
        else:
            path.with_name(f"._{path.name}").write_bytes(b"x")
    step, tree, position = js.Checkpoints(tmp_path / "run").restore(small(0.0))
    assert step == 2 and position == {"at": 2}
    assert_same(tree, small(2.0))


def put_file(path: Path) -> None:
    path.write_bytes(b"x")


def put_link(path: Path) -> None:
    path.symlink_to("nothing")


def put_folder_for_manifest(path: Path) -> None:
    (path / "manifest.json").mkdir(parents=True)


def put_deep_manifest(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_bytes(b"[" * 100_000)


@pytest.mark.parametrize("put", [put_file, put_link, put_folder_for_manifest, put_deep_manifest])
def test_what_is_no_checkpoint_is_refused_and_makes_way(saved, tmp_path, put) -> None:
    shutil.copytree(saved, tmp_path / "run")
    put(tmp_path / "run" / "step_0000000005")
    put_file(tmp_path / "run" / ".step_0000000007.part")
    checkpoints = js.Checkpoints(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"refused: .*step_0000000005 is damaged: manifest.json"):
        assert checkpoints.restore(small(0.0)).step == 2
    checkpoints.save(3, small(3.0))
    assert checkpoints.steps() == [2, 3] and not list((tmp_path / "run").glob(".*"))


def test_a_full_disk_is_an_os_error(saved, tmp_path, monkeypatch) -> None:
    import orbax.checkpoint

    shutil.copytree(saved, tmp_path / "run")
    checkpoints = js.Checkpoints(tmp_path / "run")

    def full(*given, **options) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"cannot be written to .*No sp"),
    ):
        patch.setattr(orbax.checkpoint.Checkpointer, "save", full)
        checkpoints.save(3, small(3.0))
    assert checkpoints.restore(small(0.0)).step == 2
    checkpoints.save(3, small(3.0))
    assert checkpoints.restore(small(0.0)).step == 3


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
        f"{tmp_path}/step_0000000004 does not fit the model and optimizer:",
        "  a: float32[2, 3] in the file, float32[3, 2] wanted",
        "  b: float32[3] in the file, bfloat16[3] wanted",
        "  d: not in the file",
        "  k: key<fry>[2] in the file, key<rbg>[4] wanted",
        "  c: in the file, not wanted",
        "restore into the model and optimizer that were saved, or move "
        f"{tmp_path}/step_0000000004 away",
    ]


def test_another_model_is_left_as_it_was(tmp_path) -> None:
    checkpoints = js.Checkpoints(tmp_path)
    checkpoints.save(1, layer(0))
    wide = layer(1, width=5)
    before = leaves(wide)
    with pytest.raises(ValueError, match=r"model/kernel/threshold: float32\[3\] in the file"):
        checkpoints.restore(wide)
    same_bits(leaves(wide), before)


@pytest.mark.parametrize(
    ("step", "tree", "position", "error", "message"),
    [
        (-1, 1, None, ValueError, "0 to 2147483647; got -1"),
        (2**31, 1, None, ValueError, "got 2147483648"),
        (1, {"a": jnp.zeros(0)}, None, ValueError, "holds no numbers"),
        (1, {"a": "text"}, None, TypeError, "a is a str; arrays"),
        (1, {"a/b": 1, "a": {"b": 2}}, None, ValueError, "two leaves have the path 'a/b'"),
        (1, 1, {"a": (1, 2)}, TypeError, r"data\['a'\] is a tuple"),
        (1, 1, [{1: 2}], TypeError, r"data\[0\] is a dict: \{1: 2\}; give bytes, or None"),
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
    with pytest.raises(ImportError, match=r"pip install 'jsparse\[checkpoint\]'"):
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
