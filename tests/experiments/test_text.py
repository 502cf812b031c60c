"""Texts: the one that is meant, another in its place, none."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("tyro", reason="the experiments need their extra packages")

from experiments.datasets import DataError, shakespeare, stretches


def test_another_text_has_another_name(tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare.txt").write_bytes("naïve ".encode() * 100)
    found = shakespeare(str(tmp_path))
    assert found.name == "a text of 600 characters that is not tinyshakespeare"
    assert found.characters == 6 and (len(found.train), len(found.test)) == (540, 60)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^tinyshakespeare\.txt not found; looked in .*/text; "):
        shakespeare(str(tmp_path))
    (tmp_path / "tinyshakespeare.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt is not text in UTF-8 .*fetch it"):
        shakespeare(str(tmp_path))


def test_stretches_longer_than_the_text_are_refused() -> None:
    text, key = jnp.arange(9), jax.random.key(0)
    assert stretches(key, text, 4, 8).tolist() == [list(range(8))] * 4
    with pytest.raises(ValueError, match="stretches of 9 characters do not fit into a text of 9"):
        stretches(key, text, 4, 9)
