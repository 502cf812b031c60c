"""The README's Python runs as pasted, from top to bottom."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.standard_dtypes
def test_snippets_run(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what they save
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(snippets) >= 5
    assert "total" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/page.html").is_file()


def test_every_table_is_filled_in() -> None:
    assert not re.findall(r"^[A-Z]+_TABLE$", README.read_text(), re.MULTILINE)
