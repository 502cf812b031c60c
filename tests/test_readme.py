"""The README is one page, its Python runs as pasted, and its tables are those of the results."""

from pathlib import Path

import pytest

from docs import results
from tests.support.snippets import run

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.standard_dtypes
def test_snippets_run(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what they save
    assert run(README)
    assert "total" in capsys.readouterr().out


def test_it_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_tables_are_those_of_the_results() -> None:
    """Or run `python docs/results.py`."""
    found = results.load()
    assert results.readme(README.read_text(), found) == README.read_text()
    assert results.page(found) == results.PAGE.read_text()


@pytest.mark.parametrize("name", results.load())
def test_a_result_says_how_it_was_made(name: str) -> None:
    result = results.load()[name]
    assert {"title", "about", "hardware", "columns", "rows"} <= result.keys()
    assert all(len(row) == len(result["columns"]) for row in result["rows"])
    assert "command" in result or "`" in str(result["rows"])
