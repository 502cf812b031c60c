"""Files of a run changed at random: a page, or one error that names the file."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jsparse as js
from jsparse.report import compare, page, save
from tests.report.test_pages import net, write_log
from tests.support.fuzz import check, mutated

COUNTS = {"model.json": 40, "log.jsonl": 15, "settings.json": 5, "tables.json": 5}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "run"
    layers = {"fc1/kernel": [0.3, 0.4], "fc2/kernel": [0.2, 0.2]}
    write_log(folder, [[0.5, 0.6], [0.7, 0.8]], [[1, 1], [0.5, 0.4]], layers=layers)
    tables = [{"title": "return", "columns": ["arm", "mean"], "rows": [["dense", "1.00"]]}]
    (folder / "tables.json").write_text(json.dumps(tables))
    model = net()
    with jax.numpy_dtype_promotion("standard"):
        plain = js.fold(model)
        save(model, folder, jnp.ones((2, 4, 4, 3)), forms={"folded": plain, "other": plain})
    return folder


def change(file: Path, choice: random.Random) -> None:
    if file.suffix == ".json":
        file.write_text(json.dumps(mutated(json.loads(file.read_text()), choice)))
        return
    rows = mutated([json.loads(line) for line in file.read_text().splitlines()], choice)
    lines = rows if isinstance(rows, list) else [rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_a_page_or_one_error_that_names_the_file(run, tmp_path, name, times) -> None:
    choice, passed = random.Random(times), 0
    for n in range(times * COUNTS[name]):
        folder = Path(shutil.copytree(run, tmp_path / str(n)))
        change(folder / name, choice)
        passed += check(folder, lambda folder=folder: page(folder))
    assert passed < times * COUNTS[name] or name == "settings.json"


ABSURD: dict[str, Any] = {
    "dense holds -1": {"dense": -1},
    "dense holds 1[0]*, which is absurd": {"dense": 10**400},
    "costs holds nan": {"costs": {"total": {"flops": float("nan")}}},
    "inputs.0.: the field shape is missing": {"inputs": [{}]},
    "forms holds inf": {"forms": [{"seconds": {"median": float("inf")}}]},
    "total: more weights are kept than exist": {"total": {"kept": 2, "size": 1, "density": 1.0}},
    "forms is 3, expected list": {"forms": 3},
}


@pytest.mark.parametrize("message", ABSURD)
def test_absurd_numbers_are_refused(run, tmp_path, message) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | ABSURD[message]))
    for show in (lambda: page(folder), lambda: compare([folder], tmp_path / "out.html")):
        with pytest.raises(ValueError, match=rf"model\.json: {message}.*write it again with"):
            show()


def test_sizes_and_axes_fit_the_shape(run, tmp_path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    about = json.loads((folder / "model.json").read_text())
    layer = about["layers"]["fc1/kernel"]
    for wrong, message in (
        ({"size": 577}, r"size is 577, the shape is \[48, 12\]"),
        ({"shape": [10**9, 10**9], "size": 10**18}, "fc1/kernel has a different size"),
        ({"axes": {"stack": 0, "inputs": [7], "outputs": [1]}}, "axes are not those of the shape"),
        ({"axes": {"stack": 10**9, "inputs": [0], "outputs": [1]}}, "axes are not those"),
    ):
        changed = about | {"layers": about["layers"] | {"fc1/kernel": layer | wrong}}
        (folder / "model.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            page(folder)


def test_files_nested_too_deeply_are_not_json(run, tmp_path) -> None:
    for name in COUNTS:
        folder = Path(shutil.copytree(run, tmp_path / name))
        (folder / name).write_text("[" * 100_000 + "\n{}")
        assert not check(folder, lambda folder=folder: page(folder))
