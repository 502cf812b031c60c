"""Models that cannot be saved, and folders that cannot be read, are refused with what is wrong."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse._storage import manifest
from jsparse.export import DamagedModel, load, restore, save
from tests.support.saved import Net, draw, net, saved_model, sparse

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Net]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, saved_model(folder)


# Models that cannot be saved.


class Drawing(nnx.Module):
    def __init__(self):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x: Array) -> Array:
        return x + jax.random.normal(self.rngs.noise(), x.shape)


class Counting(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: Array) -> Array:
        self.calls[...] += 1
        return x + self.calls[...]


class Pair(NamedTuple):
    y: Array
    z: Array


class Named(nnx.Module):
    def __call__(self, x: Array) -> Pair:
        return Pair(x, x + 1)


def keyed() -> nnx.Module:
    layer = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
    layer.own = nnx.Variable(jax.random.key(0))
    return layer


def int4() -> nnx.Module:
    layer = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
    layer.table = nnx.Variable(jnp.zeros(3, jnp.int4))
    return layer


REFUSED = {
    "rules": (sparse, ValueError, r"still rules on a/kernel, .*jsparse\.fold"),
    "draws": (Drawing, ValueError, "a second call gives outputs.*random streams"),
    "counts": (Counting, ValueError, "a second call gives outputs.*changes in calls"),
    "int4": (int4, TypeError, "table is int4, which safetensors lacks"),
    "keys": (keyed, TypeError, "own is a random key.*give it as an input"),
    "named tuples": (Named, TypeError, "arrays in tuples, lists and dicts with strings.*Pair"),
    "no module": (lambda: jnp.sin, TypeError, r"expected an nnx\.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved_is_refused(name: str, tmp_path) -> None:
    make, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        save(tmp_path / "model", make(), draw(2, 6))
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_another_shape_are_refused_with_what_is_wanted(saved) -> None:
    loaded = load(saved[0])
    for wrong in ((draw(2, 5),), (draw(2, 6), draw(2, 6)), (jnp.ones((2, 6), jnp.int32),)):
        with pytest.raises(ValueError, match=r"The inputs are \[0\] float32\[batch, 6\]"):
            loaded(*wrong)
    with pytest.raises(ValueError, match="at least 1: an empty batch needs no call"):
        loaded(draw(0, 6))


def test_a_record_of_another_step_is_refused(saved, tmp_path) -> None:
    (path, cut), *_ = js.shrink(js.fold(sparse()), draw(2, 6))[1].cuts.items()
    other = js.export.Cut(shape=cut.shape, keep={axis: (0,) for axis in cut.keep})
    record = js.export.Record(cuts={path: other})
    with pytest.raises(ValueError, match=r"leads to shape .* several steps first\.then\(second\)"):
        save(tmp_path / "model", saved[1], draw(2, 6), record=record)
    with pytest.raises(ValueError, match=rf"{path}: leads to shape"):
        record.then(js.export.Record(cuts={path: cut}))


# Folders that cannot be read.

FILES = ["weights.safetensors", "model.json", "program.stablehlo", "manifest.json"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def foreign(path: Path) -> None:
    from safetensors.numpy import save

    path.write_bytes(save({"kernel": np.zeros(3, np.float32)}))


@pytest.mark.parametrize("damage", [cut, flip, foreign, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_folder_is_refused(file: str, damage, saved, tmp_path) -> None:
    shutil.copytree(saved[0], tmp_path / "model")
    damage(tmp_path / "model" / file)
    for read in (lambda: load(tmp_path / "model"), lambda: restore(tmp_path / "model", net())):
        with pytest.raises(DamagedModel, match=rf"model is damaged.*{file}"):
            read()


def resealed(folder: Path, **facts: Any) -> None:
    """Make the manifest anew, as another program may."""
    (folder / "manifest.json").unlink()
    manifest.write(folder, {"format": "jsparse.model", "version": 1} | facts)


def test_folders_of_another_kind_are_refused(saved, tmp_path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(
        FileNotFoundError, match=r"not a folder; give one that `jsparse\.export\.save`"
    ):
        load(folder)
    folder.mkdir()
    with pytest.raises(DamagedModel, match=r"manifest\.json is missing; or `jsparse\.export"):
        load(folder)
    manifest.write(folder, {"step": 3})
    with pytest.raises(ValueError, match=r"is not a model that `jsparse\.export\.save` wrote"):
        load(folder)
    resealed(folder)
    with pytest.raises(DamagedModel, match=r"its manifest lacks model\.json, program\.stable"):
        load(folder)
    resealed(folder, version=2)
    with pytest.raises(ValueError, match=r"has version 2 of the format.*update jsparse"):
        load(folder)


def test_files_that_do_not_belong_together_are_refused(saved, tmp_path) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "model")
    foreign(folder / "weights.safetensors")
    resealed(folder)
    with pytest.raises(DamagedModel, match=r"does not hold the variables that model\.json names"):
        load(folder)
    (folder / "weights.safetensors").write_bytes(b"PK")
    resealed(folder)
    with pytest.raises(DamagedModel, match="header too small"):
        load(folder)
    folder = shutil.copytree(saved[0], tmp_path / "newer")
    (folder / "program.stablehlo").write_bytes(b"a program of some other jax")
    resealed(folder)
    with pytest.raises(ValueError, match=r"was written by jax.*cannot read it"):
        load(folder)


def test_another_class_is_refused_with_what_differs(saved, tmp_path) -> None:
    folder, small = saved
    with pytest.raises(ValueError, match=r"the record names 'a/bias', which this model lacks"):
        restore(folder, nnx.Linear(6, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"is of shape \(8,\), the model has \(9,\)"):
        restore(folder, net(9))
    save(tmp_path / "model", small, draw(2, 6))  # without its record
    with pytest.raises(ValueError) as caught:
        restore(tmp_path / "model", net())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path}/model does not have the expected structure:"
    assert "  a/kernel: got float32[6, 4], expected float32[6, 8]" in lines
    assert "save(folder, small, x, record=record)" in lines[-1]
