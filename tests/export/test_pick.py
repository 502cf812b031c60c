"""The picker: it says why, and takes what is clearly faster."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.export import blocks, csr
from tests.support.packing import draw, linear, matrix


def model():
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        nnx.Conv(4, 6, (3, 3), rngs=rngs),
        nnx.relu,
        nnx.Linear(6, 40, rngs=rngs),
        nnx.Linear(40, 5, rngs=rngs),
    )
    return js.sparsify(net, ("layers/2/kernel", js.Top(density=0.2, unit=js.Filter())))


@pytest.mark.slow
def test_it_says_why_and_gives_what_the_model_gives():
    net, x = model(), jnp.asarray(draw(2, 5, 5, 4))
    picked = js.export.pick(net, x, formats={"csr": csr()})
    window, first, _ = picked.layers
    assert "no format" in window.why and not window.seconds  # all its weights are kept
    assert first.shape == (6, 8) and first.rows == 50  # shrunk: 8 of 40
    assert "no format" in first.why
    assert picked.chosen in picked.seconds
    np.testing.assert_allclose(picked.model(x), js.fold(net)(x), atol=1e-4)
    assert "whole model: dense" in str(picked) and "no format" in str(picked)


def test_the_fastest_is_taken_if_it_is_clearly_faster(monkeypatch):
    from jsparse.export import pick as module

    seen = []

    def clock(models, *inputs):  # what a clock would say, so that no test depends on one
        seen.append(list(models))
        times = {"dense": 1.0, "shrunk": 1.0, "csr": 0.5, "blocks": 0.95, "packed": 0.6}
        return {name: times[name] for name in models}

    monkeypatch.setattr(sys.modules["jsparse.export._packing.autotune"], "seconds_of", clock)
    layer = linear(matrix(16, 12))
    both = {"csr": csr(), "blocks": blocks((1, 1))}
    picked = module(nnx.Sequential(layer), jnp.ones((2, 16)), formats=both)
    assert (picked.layers[0].chosen, picked.chosen) == ("csr", "packed")
    assert picked.layers[0].why == "2.0x as fast as dense"
    picked = module(nnx.Sequential(layer), jnp.ones((2, 16)), formats={"blocks": both["blocks"]})
    assert (picked.layers[0].chosen, picked.chosen) == ("dense", "dense")
    assert picked.layers[0].why == "blocks is 1.05x as fast, 1.1x is asked"
    assert seen[0] == ["dense", "csr", "blocks"]


@pytest.mark.parametrize("format", [js.export.csr, js.export.blocks, js.export.int8])
def test_a_format_that_was_not_called_is_named(format):
    with pytest.raises(TypeError, match=r"formats\['mine'\] is the function .*; call it: "):
        js.export.pick(model(), jnp.ones((2, 5, 5, 4)), formats={"mine": format})
