"""Trees in one file: every bit comes back, and damage never passes unseen."""

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse._storage import tree_file
from jsparse._storage.files import CorruptCheckpoint
from jsparse._storage.tree_file import fill, read, snapshot, write
from tests.support.checkpoint_trees import assert_same, small
from tests.support.tree_files import rewritten


def put(folder: Path, content: bytes) -> Path:
    path = folder / "tree.npz"
    path.write_bytes(content)
    return path


def test_every_kind_of_leaf_comes_back(tmp_path: Path) -> None:
    path = put(tmp_path, write(small(2.0), {"step": 3, "done": True, "rate": None}))
    stored = read(path)
    assert stored.facts == {"step": 3, "done": True, "rate": None}
    assert_same(fill(small(1.0), stored, path, "advice"), small(2.0))
    assert_same(fill(small(1.0), snapshot(small(2.0)), "memory", "advice"), small(2.0))
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


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def resealed(**arrays: Any) -> bytes:
    """A file whose checksum is right, with arrays that its notes do not describe."""
    stored = snapshot({"a": jnp.ones(2), "n": 1})
    put = {name: np.asarray(one) for name, one in arrays.items() if one is not None}
    total = tree_file._sum(put, stored.leaves, {})
    parts = {f"{name}.npy": None if one is None else array(one) for name, one in arrays.items()}
    content = write({"a": jnp.ones(2), "n": 1})
    return rewritten(content, lambda notes: notes | {"sha256": total}, parts)


def notes(content: bytes | None) -> bytes:
    return rewritten(write({"a": jnp.ones(2), "n": 1}), parts={"notes.json": content})


def noted(**changed: Any) -> bytes:
    return rewritten(write({"a": jnp.ones(2), "n": 1}), lambda notes: notes | changed)


A, N = np.ones(2, np.float32), np.asarray(1)
WRONG = {
    "no notes": (notes(None), "notes.json"),
    "text": (notes(b"leaves"), "damaged: notes.json: not JSON"),
    "deep": (notes(b"[" * 100_000), "damaged: notes.json: not JSON"),
    "bytes": (notes(b"\xff\xfe\xff"), "damaged: notes.json: not JSON"),
    "a list": (notes(b"[1]"), r"damaged: notes.json: it holds \[1\], expected an object"),
    "an empty object": (notes(b"{}"), "notes.json: the field sha256 is missing"),
    "leaves": (noted(leaves={"a": 1}), r"leaves is \{'a': 1\}, expected dict"),
    "facts": (noted(facts=3), "facts is 3, expected dict"),
    "other facts": (noted(facts={"a": 3}), "its checksum is wrong"),
    "fewer": (resealed(a=A, n=None), "leaves and arrays differ in n"),
    "more": (resealed(a=A, n=N, b=N), "leaves and arrays differ in b"),
    "no array": (rewritten(write(1.0), parts={".npy": b"x"}), "is damaged"),
    "objects": (rewritten(write(1.0), parts={".npy": array([{}])}), "allow_pickle=False"),
    "shape": (resealed(a=np.ones(3, np.float32), n=N), r": a is damaged: .*\[3\], expected f"),
    "dtype": (resealed(a=np.ones(2, np.int32), n=N), r": a is damaged: .*int32\[2\], expected"),
    "bytes of others": (resealed(a=np.ones(8, np.uint8), n=N), r"uint8\[8\], expected float32"),
    "no number": (resealed(a=A, n=1j), r": n is damaged: .*complex128\[\], expected int64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_whole_and_wrong_is_refused(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    path = put(tmp_path, content)
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        fill({"a": jnp.ones(2), "n": 1}, read(path), path, "advice")
    assert str(path) in str(caught.value)


def test_other_trees_are_refused_leaf_by_leaf() -> None:
    stored = snapshot({"a": jnp.ones(2), "b": 1, "c": 1.0})
    with pytest.raises(ValueError) as caught:
        fill({"a": jnp.ones(3), "c": 1.0, "d": 1}, stored, "tree.npz", "Train again.")
    assert str(caught.value).split("\n") == [
        "tree.npz does not have the expected structure:",
        "  a: got float32[2], expected float32[3]",
        "  d: missing",
        "  b: unexpected",
        "Train again.",
    ]
    with pytest.raises(ValueError, match="and 12 more"):
        fill([1.0] * 20, snapshot([]), "tree.npz", "advice")


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(TypeError, match="a/0 is a str"):
        write({"a": ["text"]})
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        write({"a/b": 1, "a": {"b": 2}})
