import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import jsparse as js
from jsparse.export import rebuild
from tests.support.published_cases import MODELS, removed, row
from tests.support.sampled import one_in
from tests.support.zoo_cases import outputs, prepared, shapes

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


@pytest.fixture(autouse=True)
def promotion() -> Iterator[None]:
    """Published models add arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", one_in(2, MODELS))
def test_published_models_lose_their_dead_units(name: str) -> None:
    case = MODELS[name]
    model = prepared(case.make, case.dead)
    small, record = js.shrink(model, case.inputs(0, 2))
    expected = {key: n - case.stayed.get(key, 0) for key, n in case.units.items()}
    assert removed(model, small, case.units) == expected
    assert set(record.stayed) == set(case.why)
    for path, why in case.why.items():
        assert re.match(why, record.stayed[path])
    fresh = case.inputs(1, 3)
    wanted = outputs(model, fresh)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(outputs(small, fresh), wanted, rtol=1e-4, atol=1e-5)
    assert shapes(rebuild(model, record)) == shapes(small)


def test_the_guide_lists_them() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "shrinking.md").read_text().splitlines()
    assert [row(name) for name in MODELS if row(name) not in guide] == []
