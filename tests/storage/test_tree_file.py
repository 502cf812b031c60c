"""Trees in one file: every bit comes back, and damage never passes unseen."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.tree_file import fill, read, take, write
from tests.support.checkpoint_trees import assert_same, small


def put(folder: Path, content: bytes) -> Path:
    path = folder / "tree.npz"
    path.write_bytes(content)
    return path


def test_every_kind_of_leaf_comes_back(tmp_path: Path) -> None:
    path = put(tmp_path, write(small(2.0), {"step": 3, "done": True, "rate": None}))
    stored = read(path)
    assert stored.facts == {"step": 3, "done": True, "rate": None}
    assert_same(fill(small(1.0), stored, path, "advice"), small(2.0))
    assert_same(fill(small(1.0), take(small(2.0)), "memory", "advice"), small(2.0))
    assert write(small(2.0)) == write(small(2.0)) != write(small(1.0))


def test_paths_that_npz_files_could_confuse(tmp_path: Path) -> None:
    tree = {name: float(n) for n, name in enumerate(["a", "a.npy", "file", "notes.json", "é ü"])}
    for one in (tree, 7.5, 2**63, [np.arange(3)]):
        path = put(tmp_path, write(one))
        got = fill(jax.tree.map(lambda x: 0 * x, one), read(path), path, "advice")
        assert jax.tree.all(jax.tree.map(np.array_equal, got, one))


def test_numpy_reads_the_leaves(tmp_path: Path) -> None:
    path = put(tmp_path, write({"a": {"b": jnp.arange(3)}}))
    with np.load(path, allow_pickle=False) as file:
        assert file["a/b"].tolist() == [0, 1, 2]


def test_no_flipped_byte_passes_unseen(tmp_path: Path) -> None:
    """Either the file is refused, or nothing that is read has changed."""
    start = {"a": jnp.arange(5.0), "key": jax.random.key(1), "h": jnp.ones(3, jnp.bfloat16)}
    content = write(start, {"step": 4})
    refused = 0
    for place in range(0, len(content), 5):
        flipped = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        path = put(tmp_path, flipped)
        try:
            stored = read(path)
        except CorruptCheckpoint as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert stored.facts == {"step": 4}
        assert_same(fill(start, stored, path, "advice"), start)
    assert refused > len(content) / 5 / 3


@pytest.mark.parametrize("length", [0, 1, 50, -50, -1])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, length: int) -> None:
    path = put(tmp_path, write(small(1.0))[:length])
    with pytest.raises(CorruptCheckpoint, match=r"tree\.npz is damaged"):
        read(path)


def rewritten(content: bytes, **parts: bytes | None) -> bytes:
    """The file with other parts, which a check sum does not give away."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        there = {name: archive.read(name) for name in archive.namelist()} | parts
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in there.items():
            if part is not None:
                archive.writestr(name, part)
    return buffer.getvalue()


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def notes(**changed: Any) -> bytes:
    leaves = {"a": "float32[2]", "n": "int[]"}
    return json.dumps({"leaves": leaves, "facts": {}} | changed).encode()


WRONG = {
    "no notes": ({"notes.json": None}, "notes.json"),
    "text": ({"notes.json": b"leaves"}, "damaged: notes.json: not JSON"),
    "deep": ({"notes.json": b"[" * 100_000}, "damaged: notes.json: not JSON"),
    "bytes": ({"notes.json": b"\xff\xfe\xff"}, "damaged: notes.json: not JSON"),
    "a list": ({"notes.json": b"[1]"}, "damaged: notes.json: it holds a list, expected an object"),
    "leaves": ({"notes.json": notes(leaves={"a": 1})}, "leaves is {'a': 1}, expected dict"),
    "facts": ({"notes.json": notes(facts=3)}, "facts is 3, expected dict"),
    "fewer": ({"n.npy": None}, "n is only in"),
    "more": ({"b.npy": array(1)}, "b is only in"),
    "no array": ({"a.npy": b"x"}, "damaged"),
    "longer": ({"a.npy": array(np.ones(2, np.float32)) + b"x"}, "a.npy is longer"),
    "objects": ({"a.npy": array(np.array([{}, {}]))}, "allow_pickle=False"),
    "shape": ({"a.npy": array(np.ones(3, np.float32))}, r": a is damaged: .*\[3\], expected f"),
    "dtype": ({"a.npy": array(np.ones(2, np.int32))}, r": a is damaged: .*int32\[2\], expected"),
    "bytes of others": ({"a.npy": array(np.ones(8, np.uint8))}, r"uint8\[8\], expected float32"),
    "no number": ({"n.npy": array(1j)}, r": n is damaged: .*complex128\[\], expected int64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_whole_and_wrong_is_refused(tmp_path: Path, case: str) -> None:
    tree = {"a": jnp.ones(2), "n": 1}
    parts, message = WRONG[case]
    path = put(tmp_path, rewritten(write(tree), **parts))
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        fill(tree, read(path), path, "advice")
    assert str(path) in str(caught.value)


def test_other_trees_are_refused_leaf_by_leaf() -> None:
    stored = take({"a": jnp.ones(2), "b": 1, "c": 1.0})
    with pytest.raises(ValueError) as caught:
        fill({"a": jnp.ones(3), "c": 1.0, "d": 1}, stored, "tree.npz", "Train again.")
    assert str(caught.value).split("\n") == [
        "tree.npz does not match what is to be filled:",
        "  a: got float32[2], expected float32[3]",
        "  d: missing",
        "  b: unexpected",
        "Train again.",
    ]
    with pytest.raises(ValueError, match="and 12 more"):
        fill([1.0] * 20, take([]), "tree.npz", "advice")


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(TypeError, match="a/0 is a str"):
        write({"a": ["text"]})
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        write({"a/b": 1, "a": {"b": 2}})
