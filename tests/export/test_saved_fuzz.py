"""Saved models whose files are sealed well and wrong: one error that names the folder."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._storage import manifest
from jsparse.export import Cut, Record, blocks, csr, int8, load, pack, rebuild, restore, save
from tests.support.fuzz import check, mutated
from tests.support.saved import draw, net, sparse

pytestmark = pytest.mark.standard_dtypes


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Shrunk, then packed in both formats."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    small, record = js.shrink(js.fold(sparse()), draw(2, 6))
    blocks_of_two = js.Top(density=0.25, unit=js.Block((2, 2)))
    small = js.sparsify(small, ("a/kernel", js.Top(density=0.25)), ("b/kernel", blocks_of_two))
    packed = pack(pack(small, csr(2), "a"), int8(blocks((2, 2))), "b")
    save(folder, packed, draw(2, 6), record=record)
    return folder


def sealed(folder: Path, content: Any) -> None:
    """Put another model.json in a folder, and make its manifest anew."""
    (folder / "model.json").write_bytes(json.dumps(content).encode())
    (folder / "manifest.json").unlink()
    manifest.write(folder, {"format": "jsparse.model", "version": 1})


def test_descriptions_of_saved_models(saved, tmp_path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    content, choice = json.loads((folder / "model.json").read_text()), random.Random(3)
    passed = 0
    x = draw(2, 6)
    expected = load(saved)(x)

    def read() -> None:
        repr(load(folder))

    def fill() -> None:
        got = restore(folder, net())
        got.eval()
        np.testing.assert_allclose(got(x), expected, atol=1e-5)

    for call, keys in ((read, list(content)), (fill, ["record", "packed", "variables"])):
        for _ in range(120):
            changed = mutated({key: content[key] for key in keys}, choice)
            sealed(folder, content | changed if isinstance(changed, dict) else changed)
            passed += check(folder, call)
    assert passed < 120
    for wrong in (b"[" * 100_000, b"\xff\xfe", b""):
        (folder / "model.json").write_bytes(wrong)
        (folder / "manifest.json").unlink()
        manifest.write(folder, {"format": "jsparse.model", "version": 1})
        assert not check(folder, read) and not check(folder, fill)


def record() -> dict[str, Any]:
    return js.shrink(js.fold(sparse()), draw(2, 6))[1].to_dict()


def test_records() -> None:
    content, choice, passed = record(), random.Random(4), 0
    model = net()
    for _ in range(300):
        try:
            small = rebuild(model, Record.from_dict(mutated(content, choice)))
        except ValueError as error:
            assert type(error) is ValueError, repr(error)
            assert "record" in str(error), repr(error)
        else:
            assert small.a.kernel.shape[1] <= 8
            passed += 1
    assert passed < 150


@pytest.mark.parametrize(
    ("path", "name", "value", "message"),
    [
        ("a", "__class__", 3, r"sets __class__ of a, a Linear; shrink changes only in_features"),
        ("a", "kernel", 3, "sets kernel of a"),
        ("a", "out_features", 9, "to 9, the model has 8"),
        ("a", "out_features", [1, 2], r"to \(1, 2\), the model has 8"),
        ("a", "out_features", "x", "is 'x', expected a size"),
        ("a", "out_features", True, "is True, expected a size"),
        ("drop", "rate", 0, "a Dropout; shrink changes only none"),
        ("", "__call__", 0, "of the model, a Net; shrink changes only none"),
    ],
)
def test_a_record_sets_only_what_shrink_changes(path, name, value, message) -> None:
    content = record()
    content["attributes"][path] = {name: value}
    with pytest.raises(ValueError, match=message):
        rebuild(net(), Record.from_dict(content))


@pytest.mark.parametrize(
    ("path", "field", "value", "message"),
    [
        ("a", "block", [2, 2], "'csr' has no field 'block'"),
        ("a", "padding", "SAME", "'csr' has no field 'padding'"),
        ("a", "stack", [], r"stack is \[\], expected the axes of a stack"),
        ("a", "kernel_of", "c", "kernel_of is 'c', expected the path of a packed layer"),
        ("b", "stack", [2], "'blocks int8' has no field 'stack'"),
        ("b", "width", 3, "'blocks int8' has no field 'width'"),
    ],
)
def test_packed_layers_have_the_fields_of_their_format(
    path, field, value, message, saved, tmp_path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    content["packed"][path][field] = value
    sealed(folder, content)
    for read in (load, lambda folder: restore(folder, net())):
        with pytest.raises(
            js.export.DamagedModel, match=rf"model.json: packed, '{path}': {message}"
        ):
            read(folder)


def test_positions_of_a_record_rise() -> None:
    content = record()
    for places, message in (
        ([0, 0, 1], "the cut of 'a/bias': keep must hold each position once"),
        ([1, 0, 2], "a/bias: the positions that the record keeps are not in increasing order"),
    ):
        content["cuts"]["a/bias"]["keep"]["0"] = places
        with pytest.raises(ValueError, match=message):
            rebuild(net(), Record.from_dict(content))


def test_a_size_that_a_record_names_takes_no_memory() -> None:
    assert Cut(shape=(2**40, 3), keep={0: (0, 5)}).left == (2, 3)
    with pytest.raises(ValueError, match="keep must hold positions that"):
        Cut(shape=(2**40,), keep={0: (2**40,)})


def test_records_of_every_stock_layer_are_still_taken() -> None:
    class Stock(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
            self.general = nnx.LinearGeneral(8, (3, 4), rngs=rngs)
            self.end = nnx.LinearGeneral((3, 4), 2, axis=(-2, -1), rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.end(nnx.relu(self.general(nnx.relu(self.norm(self.conv(x))))))

    model = Stock(nnx.Rngs(0))
    layer: Any = model.general
    for part in (layer.kernel, layer.bias):
        part[...] = part[...].at[..., 1].set(0)
    small, made = js.shrink(model, jnp.ones((2, 4, 4, 3)))
    assert made.attributes
    again = rebuild(model, Record.from_dict(json.loads(json.dumps(made.to_dict()))))
    assert again.general.out_features == small.general.out_features == (3, 3)
