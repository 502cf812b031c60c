"""Several processes, as on several machines, train as one does."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.processes import run
from tests.support.sharded import LAYOUTS, SEED, Net, data, start, train


@pytest.mark.parametrize(
    ("layout", "count"),
    [
        pytest.param("data parallel", 2, marks=pytest.mark.slow),
        pytest.param("data parallel", 4, marks=pytest.mark.slow),
        pytest.param("split weights", 4, marks=pytest.mark.slow),
    ],
)
def test_processes_train_as_one(layout: str, count: int) -> None:
    net = Net(LAYOUTS[layout], nnx.Rngs(SEED))
    losses, masks = train(start(net, *map(jnp.asarray, data())))
    found = run("tests.support.processes", layout, count=count)
    assert all(each == found[0] for each in found)
    np.testing.assert_allclose(found[0]["losses"], losses, rtol=2e-6)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[0]["masks"][name], mask, err_msg=name)
