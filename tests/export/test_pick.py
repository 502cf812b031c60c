"""The picker: it says why, and takes what is clearly faster."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse.export import blocks, csr
from jsparse.export._packing import autotune
from jsparse.export._packing.arrangement import TRIES, fastest_arrangement
from jsparse.export._packing.packed import Packed
from jsparse.export._packing.replacing import places_of
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


def told(monkeypatch, whole):
    """What a clock would say, so that no test depends on one; whole: from formats to seconds."""
    alone = {"dense": 1.0, "shrunk": 1.0, "csr": 0.5, "blocks": 0.95}

    def clock(models, *inputs):
        packed = lambda model: [place.value.format for place in places_of(model, Packed)]
        return {n: alone.get(n) or whole(packed(model)) for n, model in models.items()}

    monkeypatch.setattr(autotune, "seconds_of", clock)


def test_the_fastest_is_taken_if_it_is_clearly_faster(monkeypatch):
    told(monkeypatch, lambda packed: 0.6 if packed == ["csr"] else 1.0 + 0.1 * len(packed))
    net, x = nnx.Sequential(linear(matrix(16, 12))), jnp.ones((2, 16))
    both = {"csr": csr(), "blocks": blocks((1, 1))}
    picked = js.export.pick(net, x, formats=both)
    assert (picked.layers[0].chosen, picked.chosen) == ("csr", "packed")
    assert picked.layers[0].why == "2.0x as fast as dense"
    picked = js.export.pick(net, x, formats={"blocks": both["blocks"]})
    assert (picked.layers[0].chosen, picked.chosen) == ("dense", "dense")
    assert picked.layers[0].why == "blocks is 1.05x as fast, 1.1x is asked"


def test_the_whole_model_decides(monkeypatch):
    told(monkeypatch, lambda packed: 1.0 - 0.3 * len(packed))  # the second pays with the first
    net = nnx.Sequential(linear(matrix(16, 12)), linear(matrix(12, 12)))
    picked = js.export.pick(net, jnp.ones((2, 16)), formats={"blocks": blocks((1, 1))})
    assert [layer.chosen for layer in picked.layers] == ["blocks", "blocks"]
    why = "blocks is 1.05x as fast alone; the whole model is faster with it"
    assert picked.layers[1].why == why


def test_layers_are_told_as_they_are_in_the_model(monkeypatch):
    """Each layer gains alone, but the whole model too little: it is returned dense."""
    told(monkeypatch, lambda packed: 1.0 - 0.04 * len(packed))
    net = nnx.Sequential(linear(matrix(16, 12)), linear(matrix(12, 12)))
    picked = js.export.pick(net, jnp.ones((2, 16)), formats={"csr": csr()})
    assert picked.chosen == "dense" and not places_of(picked.model, Packed)
    assert [layer.chosen for layer in picked.layers] == ["dense", "dense"]
    why = "csr is 2.00x as fast alone; the whole model is no faster with it"
    assert picked.layers[0].why == why


class Shared(nnx.Module):
    def __init__(self):
        self.one = self.other = linear(matrix(12, 12))

    def __call__(self, x):
        return self.other(self.one(x))


def test_a_shared_layer_is_measured_once_and_stays_shared(monkeypatch):
    told(monkeypatch, lambda packed: 1.0 - 0.3 * len(packed))
    picked = js.export.pick(Shared(), jnp.ones((2, 12)), formats={"blocks": blocks((1, 1))})
    assert [(layer.path, layer.chosen) for layer in picked.layers] == [
        ("one", "blocks"),
        ("other", "blocks"),
    ]
    assert isinstance(picked.model.one, Packed) and picked.model.one is picked.model.other


def test_a_format_cannot_be_named_dense():
    with pytest.raises(ValueError, match=r"formats\['dense'\]: .*; choose another"):
        js.export.pick(Shared(), jnp.ones((2, 12)), formats={"dense": csr()})


@pytest.mark.parametrize(
    ("best", "found"),
    [("abcdef", "abcdef"), ("a", "a"), ("acdef", "acdef"), ("af", "af"), ("ab", "a")],
)
def test_few_arrangements_are_tried(best, found):
    """Of a, which gains alone, and b to f, which do not, b least: b is not tried after a alone."""
    gains = dict(zip("abcdef", (2.0, 0.3, 0.5, 0.6, 0.7, 0.9), strict=True))
    compared = []

    def seconds(*two):
        compared.append(two)
        return tuple(1 + len(set(best) ^ set(stored)) for stored in two)

    assert set(fastest_arrangement(gains, dict.fromkeys(gains, "csr"), 1.1, seconds)) == set(found)
    assert len(compared) == 1 + TRIES


@pytest.mark.parametrize(("best", "found"), [("", ""), ("abc", "abc"), ("bc", "bc"), ("c", "c")])
def test_where_no_layer_gains_alone_packing_must_gain_too(best, found):
    gains = {"a": 0.3, "b": 0.9, "c": 1.0}
    seconds = lambda *two: tuple(1 + len(set(best) ^ set(stored)) for stored in two)
    assert set(fastest_arrangement(gains, dict.fromkeys(gains, "csr"), 1.1, seconds)) == set(found)
    same = lambda *two: (1.0, 1.0)  # no faster, so nothing is packed
    assert not fastest_arrangement(gains, dict.fromkeys(gains, "csr"), 1.1, same)


@pytest.mark.parametrize("format", [js.export.csr, js.export.blocks, js.export.int8])
def test_a_format_that_was_not_called_is_named(format):
    with pytest.raises(TypeError, match=r"formats\['mine'\] is the function .*; call it: "):
        js.export.pick(model(), jnp.ones((2, 5, 5, 4)), formats={"mine": format})
