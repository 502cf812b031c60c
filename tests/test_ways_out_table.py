"""The table of ways out is what was run; some of its rows are run again."""

import json

import pytest

from docs import results, ways_out

RECORD = json.loads(ways_out.WAYS_OUT.read_text())


def test_it_is_what_was_run() -> None:
    """Or run `python docs/ways_out.py` and `python docs/results.py`."""
    assert RECORD["rows"] == ways_out.rows(RECORD["runs"])
    assert RECORD["notes"] == ways_out.notes(RECORD["runs"])
    assert all(list(run) == list(ways_out.LAYERS) for run in RECORD["runs"].values())
    text = results.DEPLOY.read_text()
    assert results.readme(text, results.load()) == text
    assert results.table(RECORD) in text


@pytest.mark.slow
@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", ["`Linear`, relu", "`max_pool`", "packed as `csr()`"])
def test_rows_are_still_so(name: str) -> None:
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    run = next(iter(RECORD["runs"].values()))
    for dtype in ("float32", "bfloat16"):
        now = ways_out.tried(name, dtype)
        assert {way for way in now if now[way]} == {way for way in now if run[name][dtype][way]}
