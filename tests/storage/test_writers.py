"""One writer a folder, and what a full disk leaves behind."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import pytest

import jsparse as js
from experiments.common.run import open_run
from jsparse._storage import writers
from jsparse._storage.files import write_together
from jsparse._storage.writers import claim
from tests.support.processes import ROOT

pytest.importorskip("orbax.checkpoint")
pytest.importorskip("fcntl")


class Owner:
    """Who writes."""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    def rounds() -> js.prune.Folder:
        keep = js.prune.Folder(tmp_path / "rounds")
        keep.open({})
        return keep

    writes: dict[str, Callable] = {
        "checkpoints": lambda: js.Checkpoints(tmp_path / "checkpoints").save(2, jnp.ones(2)),
        "rounds": rounds,
        "run": lambda: open_run(tmp_path / "run", js.Held()),
    }
    command = [sys.executable, "-m", "tests.support.writer", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "writes\n"
            for name, write in writes.items():
                who = rf"{name} is being written by process {process.pid} on \S+; wait until"
                with pytest.raises(BlockingIOError, match=who):
                    write()
            read = js.Checkpoints(tmp_path / "checkpoints").restore(jnp.zeros(2))
            assert read.step == 1  # reading is no writing
        finally:
            process.kill()
    for write in writes.values():
        write()
    assert js.Checkpoints(tmp_path / "checkpoints").steps() == [1, 2]


def taken(folder: Path) -> bool:
    """Whether another process is refused."""
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+')\n"
        "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(1)"
    )
    return subprocess.run([sys.executable, "-c", program, str(folder / "lock")]).returncode == 1


def test_a_lock_lives_as_long_as_an_owner(tmp_path: Path) -> None:
    first, second = Owner(), Owner()
    for owner in (first, first, second):
        claim(tmp_path, owner)
    assert taken(tmp_path)
    del first
    gc.collect()
    assert taken(tmp_path)
    del owner, second
    gc.collect()
    assert not taken(tmp_path)


def test_a_folder_made_anew_is_locked_anew(tmp_path: Path) -> None:
    owner = Owner()
    claim(tmp_path / "a", owner)
    shutil.rmtree(tmp_path / "a")
    claim(tmp_path / "a", owner)
    assert taken(tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "b")
    claim(tmp_path / "b", owner)  # the same folder


def test_where_there_are_no_locks_nobody_is_refused(tmp_path, monkeypatch) -> None:
    def none(*given: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(writers.fcntl, "flock", none)
    owner = Owner()
    claim(tmp_path, owner)
    with writers.one_at_a_time(tmp_path):
        pass
    monkeypatch.setattr(writers, "fcntl", None)
    claim(tmp_path / "other", owner)


def test_a_forked_process_is_another_one(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from jsparse._storage.writers import claim\n"
        "owner, folder = type('Owner', (), {})(), Path(sys.argv[1])\n"
        "claim(folder, owner)\n"
        "child = os.fork()\n"
        "try: claim(folder, owner)\n"
        "except BlockingIOError as error: os._exit(7 if str(os.getppid()) in str(error) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr


def test_a_full_disk_leaves_nothing_and_one_clear_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.full_disk", str(tmp_path), "4000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "", done.stderr  # no log of Orbax's threads
    said = json.loads(done.stdout)
    assert set(said) == {"checkpoints", "rounds", "tried", "settings", "model", "report", "run"}
    for what, (error, lines) in said.items():
        assert "there is no room for " in error and f"/{what}" in error.replace("/.", "/")
        assert lines < 30, what
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    locks = {f"{name}/lock" for name in ("rounds", "run")}
    assert left == {*locks, "rounds/settings.json", "run/settings.json", "run/log.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == {"rounds", "run"}  # no empty folders
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == 1


def test_an_abandoned_folder_can_be_claimed_again(tmp_path: Path) -> None:
    owner, folder = Owner(), tmp_path / "a" / "b"
    claim(folder, owner)
    (folder / "log").touch()
    writers.abandon(folder)
    assert taken(folder)  # it holds something
    (folder / "log").unlink()
    writers.abandon(folder)
    assert not (tmp_path / "a").exists()
    claim(folder, owner)
    assert taken(folder)


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path: Path) -> None:
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"1"})
    (tmp_path / "c").mkdir()
    with pytest.raises(OSError):
        write_together({tmp_path / "a": b"2", tmp_path / "a" / "b": b"2"})
    assert (tmp_path / "a").read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
