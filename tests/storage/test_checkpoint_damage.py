"""Checkpoints: damage is refused, and a kill at any moment leaves a whole one."""

import contextlib
import gc
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jsparse as js
from jsparse._storage import manifest, orbax_arrays
from tests.support.checkpoint_trees import assert_same, layer, small

pytest.importorskip("orbax.checkpoint")


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
    refused = r"refused: .*step_0000000002 is damaged: the checksum of arrays/d/"
    with pytest.warns(UserWarning, match=refused) as caught:
        step, tree, position = checkpoints.restore(small(0.0))
    assert [warning.filename for warning in caught] == [__file__]
    assert step == 1 and position == {"at": 1}
    assert_same(tree, small(1.0))

    checkpoints.save(5, small(5.0))  # no readable checkpoint was removed for a damaged one
    assert checkpoints.steps() == [1, 5]

    for step in (1, 5):
        (tmp_path / "run" / f"step_000000000{step}" / "manifest.json").unlink()
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(js.CorruptCheckpoint, match=r"no checkpoint is left: .*is missing; delete"),
    ):
        checkpoints.restore(small(0.0))


class Killed(BaseException):
    """Not an Exception: the library must not catch it."""


def killed(patch: pytest.MonkeyPatch, last: int) -> None:
    """Kill the library halfway through its change number `last` to the disk."""
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
    write, one = orbax_arrays.write, {"a": np.ones(1)}
    patch.setattr(orbax_arrays, "write", ending(write, lambda path, values: write(path, one)))


def test_a_kill_at_each_change_of_the_disk(saved, tmp_path, monkeypatch) -> None:
    """Step 2 replaces step 2, which takes most changes; what is left can be read and replaced."""
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
        pytest.raises(OSError, match=r"No space left on device: there is no room for"),
    ):
        patch.setattr(orbax.checkpoint.Checkpointer, "save", full)
        checkpoints.save(3, small(3.0))
    assert checkpoints.restore(small(0.0)).step == 2
    checkpoints.save(3, small(3.0))
    assert checkpoints.restore(small(0.0)).step == 3


# Sealed well, and wrong.


def resealed(folder: Path, **changed) -> None:
    """Write a manifest of the files as they are now, with other facts."""
    facts = manifest.read(folder)
    del facts["files"]
    (folder / "manifest.json").unlink()
    manifest.write(folder, facts | changed)


def link_a_file(folder: Path) -> None:
    (folder / "data" / "0.json").rename(folder.parent / "outside")
    (folder / "data" / "0.json").symlink_to(folder.parent / "outside")


def link_a_folder(folder: Path) -> None:
    (folder / "data").rename(folder.parent / "outside")
    (folder / "data").symlink_to("../outside")


def link_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "outside")
    (folder / "manifest.json").symlink_to("../outside")


def name_a_file_outside(folder: Path) -> None:
    content = manifest.read(folder)
    content["files"]["../outside"] = content["files"].pop("data/0.json")
    (folder / "data" / "0.json").rename(folder.parent / "outside")
    (folder / "manifest.json").write_bytes(manifest._sealed(content))


def name_a_file_by_its_full_path(folder: Path) -> None:
    content = manifest.read(folder)
    content["files"][str(folder.parent / "outside")] = content["files"].pop("data/0.json")
    (folder / "data" / "0.json").rename(folder.parent / "outside")
    (folder / "manifest.json").write_bytes(manifest._sealed(content))


def put_text(folder: Path) -> None:
    (folder / "data" / "0.json").write_bytes(b"[" * 100_000)
    resealed(folder)


def leave_out_the_position(folder: Path) -> None:
    (folder / "data" / "0.json").unlink()
    resealed(folder)


def leave_out_an_array(folder: Path) -> None:
    shutil.rmtree(folder / "arrays" / "d")
    resealed(folder)


def leave_out_all_arrays(folder: Path) -> None:
    shutil.rmtree(folder / "arrays")
    resealed(folder)


def put_text_for_the_list_of_arrays(folder: Path) -> None:
    (folder / "arrays" / "_METADATA").write_bytes(b"[]")
    resealed(folder)


WRONG = {
    link_a_file: "'data/0.json' is outside the folder",
    link_a_folder: "'data/0.json' is outside the folder",
    link_the_manifest: "'manifest.json' is outside the folder",
    name_a_file_outside: "'../outside' is outside the folder",
    name_a_file_by_its_full_path: "/outside' is outside the folder",
    put_text: "data/0.json: not JSON",
    leave_out_the_position: r"files has data positions of the processes \[\], expected 1",
    leave_out_an_array: "arrays is damaged: Orbax cannot read it",
    leave_out_all_arrays: "arrays is damaged: Orbax cannot read it",
    put_text_for_the_list_of_arrays: "arrays is damaged: Orbax cannot read it",
    lambda folder: resealed(folder, step=7): "manifest.json: step is 7, expected that of",
    lambda folder: resealed(folder, step=True): "manifest.json: step is True, expected int",
    lambda folder: resealed(folder, leaves={"a": 1}): r"leaves is \{'a': 1\}, expected dict",
    lambda folder: resealed(folder, processes=2**70): "expected 1180591620717411303424, numb",
}


@pytest.mark.filterwarnings("ignore:refused")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
def test_what_is_sealed_and_wrong_is_one_clear_error(saved, tmp_path) -> None:
    for n, (harm, words) in enumerate(WRONG.items()):
        step = tmp_path / str(n) / "step_0000000002"
        shutil.copytree(saved / "step_0000000002", step)
        harm(step)
        with pytest.raises(js.CorruptCheckpoint, match=words) as caught:
            js.Checkpoints(step.parent).restore(small(0.0))
        assert "step_0000000002" in str(caught.value)
    gc.collect()  # what Orbax's threads left is ignored here, and would fail the next test
