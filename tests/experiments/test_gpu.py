"""The script for a machine with a GPU: its commands exist, and what was stopped goes on."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

tyro = pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from experiments import gpu  # noqa: E402
from experiments.common import record, show  # noqa: E402

ROOT = Path(__file__).parents[2]
FACTS = {"platform": "cpu", "card": "a card", "jax": "0.0"}


def test_each_command_is_one_that_its_experiment_takes() -> None:
    for row in gpu.ROWS:
        for text in (row.command, row.rehearsal):
            module, *given = shlex.split(text)
            if module == "pytest":
                paths = [part for part in given if part.startswith("tests/")]
                assert all((ROOT / path).exists() for path in paths), row.name
                continue
            found = importlib.import_module(module)
            quick = {"default": found.QUICK} if "--quick" in given else {}
            settings = tyro.cli(found.Settings, args=given, **quick)
            assert getattr(settings, "out", "{out}") == "{out}", row.name  # goes on from there


def test_all_that_waits_for_a_gpu_is_a_row() -> None:
    """Each command in the table of experiments that says so, with other settings beside or not."""
    planned = [set(shlex.split(row.command)) for row in gpu.ROWS]
    table = (ROOT / "experiments/README.md").read_text().splitlines()
    waiting = [line.split("|")[2] for line in table if re.search(r"\| not run \([^|]*GPU", line)]
    commands = [words for cell in waiting for words in re.findall("`([^`]+)`", cell)]
    assert len(commands) > 10
    for words in commands:
        wanted = set(shlex.split(f"experiments.{words}"))
        assert any(wanted <= row for row in planned), words


def test_names_are_files_of_their_own() -> None:
    assert len({gpu.slug(row.name) for row in gpu.ROWS}) == len(gpu.ROWS)


def results(folder: Path, *programs: str) -> tuple[tuple[gpu.Row, ...], gpu.Results]:
    """Rows that run these programs, modules made in the folder, and where their results go."""
    rows = []
    for n, program in enumerate(programs):
        (folder / f"row{n}.py").write_text(program)
        path = (("PYTHONPATH", str(folder)),)
        rows.append(gpu.Row(f"row {n}", f"row{n} {{out}}", "", 0.5, path))
    return tuple(rows), gpu.Results(folder, FACTS, rehearsal=False)


def test_a_row_leaves_its_tables_and_is_skipped_when_done(tmp_path: Path) -> None:
    shown = show.table(["way", "ms"], [["dense, all", 1.5], ["kept", 12]])
    good = f"import sys, pathlib\nprint('times:\\n' + {shown!r} + '\\nend')\n"
    good += "out = pathlib.Path(sys.argv[1]) / 'dense'\nout.mkdir(parents=True)\n"
    good += "(out / 'final.json').write_text('[1]')"
    rows, there = results(tmp_path, "raise SystemExit('broken')", good, "print()")
    assert [row.name for row in gpu.waiting(rows, there)] == ["row 0", "row 1", "row 2"]
    assert [gpu.run_row(row, there, 30.0) for row in rows[:2]] == ["failed", "done"]
    found = json.loads((tmp_path / "row-1.json").read_text())
    expected = {"columns": ["way", "ms"], "rows": [["dense, all", "1.5"], ["kept", "12"]]}
    assert found["tables"] == [{"title": "times:"} | expected]
    assert found["card"] == "a card" and found["finals"] == {"dense": [1]}
    assert [row.name for row in gpu.waiting(rows, there)] == ["row 2", "row 0"]  # failed: last
    changed = rows[1]._replace(command="row1 elsewhere")
    assert gpu.waiting((changed,), there) == [changed]
    assert there.runs(changed) != there.runs(rows[1])  # a run keeps its settings
    (tmp_path / "row-1.json").write_text("{torn")
    assert there.status(rows[1]) == gpu.UNTRIED


def test_a_row_is_stopped_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    late = "import subprocess, sys, time\n"
    late += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    late += "print(child.pid, flush=True)\ntime.sleep(60)"
    (row,), there = results(tmp_path, late)
    assert gpu.run_row(row, there, 1.0) == record.STOPPED == there.status(row)
    found = json.loads((tmp_path / "row-0.json").read_text())
    assert found["limit"] == 1.0 and gpu.waiting((row,), there) == [row]
    state = Path(f"/proc/{found['last_lines'][0]}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("given", "words"),
    [({"minutes": 0.0}, "--minutes got 0.0"), ({"only": ("fish",)}, "'fish', which is in no row")],
)
def test_bad_settings_of_the_script(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gpu.Settings(**given)


def test_a_device_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSPARSE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="JSPARSE_DEVICE got 'tpu'; give cpu"):
        gpu.is_rehearsal()


@pytest.mark.slow
def test_the_script_says_what_it_would_run_and_what_it_lacks(tmp_path: Path) -> None:
    def run(device: str, *more: str) -> subprocess.CompletedProcess:
        given = {"JSPARSE_PYTHON": sys.executable, "JSPARSE_DEVICE": device, "JAX_PLATFORMS": "cpu"}
        command = ["experiments/gpu.sh", "--out", str(tmp_path), *more]
        environment = {**os.environ, **given}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    planned = run("cpu", "--dry")
    assert planned.returncode == 0, planned.stderr
    (table,) = record.tables(planned.stdout)
    assert [row[:2] for row in table["rows"]] == [[row.name, "not run"] for row in gpu.ROWS]
    refused = run("gpu")
    assert refused.returncode and "error: no GPU: JAX" in refused.stderr
    one = ("--only", "blocks 4096, Mosaic")
    done = run("cpu", *one)
    assert done.returncode == 0 and "Mosaic GPU: done" in done.stdout, done.stdout + done.stderr
    assert "0 of 1 rows to run" in run("cpu", *one).stdout
