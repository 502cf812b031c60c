"""The README's Python runs as pasted, from top to bottom."""

import re
from pathlib import Path

import pytest

from tests.support.snippets import run

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.standard_dtypes
def test_snippets_run(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what they save
    assert len(run(README)) >= 5
    assert "total" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/page.html").is_file()


def test_every_table_is_filled_in() -> None:
    assert not re.findall(r"^[A-Z]+_TABLE$", README.read_text(), re.MULTILINE)


def test_every_part_that_begins_ends() -> None:
    text = README.read_text()
    begins, ends = (re.findall(rf"^<!-- {word}: (.*) -->$", text, re.M) for word in ("docs", "end"))
    assert begins == ends and len(set(begins)) == len(begins)
