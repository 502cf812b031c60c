"""JSON that is sealed well and wrong: one error that names the file, or nothing has changed."""

import json
import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

import jsparse as js
from jsparse._storage import manifest, tree_file
from tests.support.fuzz import check, mutated
from tests.support.tree_files import rewritten


@pytest.mark.filterwarnings("ignore:refused")
def test_manifests_of_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    tree = {"a": jnp.arange(3), "b": 2}
    js.Checkpoints(tmp_path).save(3, tree, data={"at": 7})
    folder = tmp_path / "step_0000000003"
    (tmp_path / "outside").write_bytes(b"")
    content, choice = manifest.read(folder), random.Random(0)

    def restore() -> None:
        step, got, data = js.Checkpoints(tmp_path).restore({"a": jnp.zeros(3, jnp.int32), "b": 0})
        assert (step, got["a"].tolist(), got["b"], data) == (3, [0, 1, 2], 2, {"at": 7})

    passed = 0
    for _ in range(300):
        sealed = manifest._sealed(mutated(content, choice))
        (folder / "manifest.json").write_bytes(sealed)
        passed += check(folder, restore)
    assert passed < 100
    (folder / "manifest.json").write_bytes(manifest._sealed(content))
    assert check(folder, restore)


def test_notes_of_trees_and_rounds(tmp_path: Path) -> None:
    model = js.sparsify(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    keep, choice = js.prune.Folder(tmp_path), random.Random(1)
    keep.save(0, model, {"round": 0, "asked": 1.0, "density": 1.0, "layers": {"kernel": 1.0}})
    path = tmp_path / "round_000.npz"
    content, stored = path.read_bytes(), tree_file.read(path)

    def resealed(notes: dict[str, Any]) -> dict[str, Any]:
        changed = mutated(notes, choice)
        if isinstance(changed.get("sha256"), str):
            facts = changed.get("leaves"), changed.get("facts")
            changed["sha256"] = tree_file._sum(stored.arrays, *facts)
        return changed

    def load() -> None:
        if keep.has(0, 1.0):
            got = tree_file.snapshot(nnx.state(keep.load(0, model)))
            assert got.sha256 == tree_file.snapshot(nnx.state(model)).sha256

    passed = 0
    for _ in range(300):
        path.write_bytes(rewritten(content, resealed))
        passed += check(path, load)
    assert passed < 150


def test_settings_of_rounds(tmp_path: Path) -> None:
    keep, choice = js.prune.Folder(tmp_path, {"epochs": [1, 2]}), random.Random(2)
    settings = {"restart": {"kind": "Rewind", "step": 0}, "start": "Net 0"}
    keep.open(settings)
    path = tmp_path / "settings.json"
    content = json.loads(path.read_bytes())
    for _ in range(300):
        changed = mutated(content, choice)
        path.write_bytes(json.dumps(changed).encode())
        passed = check(tmp_path, lambda: keep.open(settings))
        assert passed == (changed == content)
    for place in range(0, len(path.read_bytes()), 3):
        path.write_bytes(json.dumps(content).encode()[:place] + b"\xff")
        assert not check(path, lambda: keep.open(settings))
