"""The page of a search."""

import re
from pathlib import Path

import numpy as np
import pytest

import jsparse as js

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def tried(count: int) -> js.prune.Tried:
    rng = np.random.default_rng(0)
    densities = rng.uniform(0.01, 1, (count, 2))
    cost = densities.mean(axis=1) * 1000
    score = densities.min(axis=1) + 0.1 * rng.standard_normal(count)
    by = ("dense", "uniform", "global", "erk", *("random",) * (count - 4))
    return js.prune.Tried(("a/kernel", "<b>"), densities, score, cost, by, 400.0)


def test_the_page_shows_every_kind_the_front_and_its_densities(tmp_path: Path) -> None:
    found = tried(300)
    text = js.report.front(found, tmp_path / "front.html").read_text()
    assert text.count("<figure>") == 2 and "300 candidates, 2 layers, budget 400" in text
    for name in ("dense", "uniform", "global", "erk", "random", "front", "budget", "a/kernel"):
        assert f"<span>{name}</span>" in text
    assert "<b>" not in re.sub(r"<b>[^<]{1,2}</b>", "", text)  # a layer's name is escaped
    rows = re.findall(r"<tr><td>([\d.,]+)</td><td>(-?[\d.]+)</td>", text)
    assert len(rows) == len(found.front()) > 3
    np.testing.assert_allclose([float(row[0]) for row in rows], np.sort(found.cost[found.front()]),
                               rtol=1e-5)  # fmt: skip


def test_nothing_tried_is_refused(tmp_path: Path) -> None:
    empty = js.prune.Tried(("a",), np.ones((0, 1)), np.ones(0), np.ones(0), (), 1.0)
    with pytest.raises(ValueError, match="no candidate"):
        js.report.front(empty, tmp_path / "front.html")
    one = js.report.front(tried(4), tmp_path / "few.html")
    assert one.exists()
