"""The door grid's linear program, and the averaged policy beside it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import density_constrained as experiment
from experiments.rl.environments import doors

pytestmark = pytest.mark.standard_dtypes
FREE = np.full(64, np.inf), np.zeros(64)
NEAR = doors.cell(doors.NEAR)


def test_the_optima_of_the_door_grid() -> None:
    made = doors.chain()
    np.testing.assert_allclose(made.moves.sum(axis=2), 1)
    reward, density, prices = experiment.best(*FREE)
    assert reward == pytest.approx(0.469, abs=5e-4)
    assert density[NEAR] == pytest.approx(1.94, abs=5e-3) and not prices.any()
    assert density.sum() == pytest.approx(1 / (1 - doors.DISCOUNT))
    ceiling, floor = experiment.bounds("near door at most 0.15")
    reward, density, prices = experiment.best(ceiling, floor)
    assert reward == pytest.approx(-0.392, abs=5e-4)
    assert density[NEAR] == pytest.approx(0.15)
    wider = np.where(np.isfinite(ceiling), ceiling + 1e-3, np.inf)
    slope = (experiment.best(wider, floor)[0] - reward) / 1e-3
    assert prices[NEAR] == pytest.approx(slope, rel=1e-3)
    with pytest.raises(ValueError, match="no policy keeps"):
        experiment.best(np.full(64, 0.1), floor)


@pytest.mark.slow
def test_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(experiment.QUICK, out=str(tmp_path))
    experiment.main(settings)
    printed = capsys.readouterr().out
    jobs = [row["job"] for row in experiment.common.open_run(tmp_path, settings).rows()]
    rows = {(row["case"], row["arm"]): row for row in jobs}
    for case in experiment.CASES:
        best = experiment.best(*experiment.bounds(case))[0]
        found = rows[case, "greedy"]
        assert found["reward"] == pytest.approx(best, abs=0.01)
        assert found["violation"] <= 0.005 and max(found["last"]) > 0.1  # the last ones swing
    few = "95 % sparse"  # too few weights for the best policy, not for the bound
    for arm in experiment.ARMS:
        found = rows["near door at most 0.15", arm]
        assert found["violation"] < 0.05
        if arm != few:
            assert found["reward"] == pytest.approx(-0.392, abs=0.05)
    assert rows["near door at most 0.15", few]["reward"] < -0.392
    assert (tmp_path / "densities.png").stat().st_size > 10_000
    page = (tmp_path / "page.html").read_text()
    assert 'alt="densities"' in page and "95 % sparse</td>" in page
    experiment.main(settings)  # complete: prints again, learns nothing
    assert capsys.readouterr().out.endswith(printed)
