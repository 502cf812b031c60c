"""Layers of links: drawn without a dense matrix, each place once, with values for their fan-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jsparse.export import Csr, csr_from_arrays, erdos_renyi_csr, random_csr
from jsparse.export._packing.places import per_output, uniform_places

KEY = jax.random.key(0)


@pytest.mark.parametrize("links", [0, 1, 5, 25, 39, 40])
def test_each_output_has_as_many_links(links):
    layer = random_csr(40, 30, links=links, key=KEY, width=16)
    layer.check()  # in order, so without duplicates
    rows, columns = per_output(40, 30, links, KEY)
    assert len({*zip(rows, columns, strict=True)}) == 30 * links == layer.values.size
    assert (np.bincount(columns, minlength=30) == links).all()
    assert ((layer.kernel_matrix() != 0).sum(0) == links).all()


@pytest.mark.parametrize(("factor", "kept"), [(0.01, 1), (3, 210), (12, 840), (1e308, 1200)])
def test_erdos_renyi_has_its_number_of_links(factor, kept):
    layer = erdos_renyi_csr(40, (5, 6), factor=factor, key=KEY)
    layer.check()
    assert layer.values.size == (layer.kernel_matrix() != 0).sum() == kept
    assert layer(jnp.ones((2, 40))).shape == (2, 5, 6)


def test_every_place_has_the_same_chance():
    keys = jax.random.split(KEY, 600)
    for draw, size in ((uniform_places, 6), (lambda *a: per_output(*a), 2), (uniform_places, 9)):
        counts = np.zeros((4, 3))
        for key in keys:
            np.add.at(counts, draw(4, 3, size, key), 1)
        expected = counts.sum() / counts.size
        assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_values_have_the_variance_of_their_fan_in():
    for layer in (
        random_csr(500, 400, links=20, key=KEY, scale=2.0),
        erdos_renyi_csr(500, 400, factor=9, key=KEY, scale=2.0),
    ):
        y = layer(jax.random.normal(KEY, (64, 500)))
        assert abs(float((y**2).mean()) - 2.0) < 0.2


def test_arrays_in_any_order_make_the_matrix():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((70, 9)).astype(np.float32) * (rng.random((70, 9)) < 0.3)
    rows, columns = np.nonzero(kernel)
    order = rng.permutation(len(rows))
    rows, columns = rows[order], columns[order]
    layer = csr_from_arrays(
        70, 9, rows=rows, columns=columns, values=kernel[rows, columns], width=16
    )
    layer.check()
    assert (layer.kernel_matrix() == kernel).all()
    assert isinstance(layer, Csr) and layer.width == 16


def test_the_same_key_draws_the_same_links():
    one, two = (random_csr(30, 20, links=4, key=jax.random.key(k)) for k in (1, 1))
    other = random_csr(30, 20, links=4, key=jax.random.key(2))
    assert (one.kernel_matrix() == two.kernel_matrix()).all()
    assert (one.kernel_matrix() != other.kernel_matrix()).any()


def test_wrong_links_are_refused():
    with pytest.raises(ValueError, match="from input 2 to output 1 occurs twice"):
        csr_from_arrays(3, 2, rows=[2, 0, 2], columns=[1, 0, 1], values=np.ones(3))
    with pytest.raises(TypeError, match=r"key must be one random key.*got a Rngs"):
        random_csr(3, 2, links=1, key=nnx.Rngs(0))
    with pytest.raises(TypeError, match="key is traced, and places are drawn in NumPy"):
        jax.eval_shape(lambda: random_csr(3, 2, links=1, key=KEY).values[...])
    with pytest.raises(ValueError, match="2 rows and 1 columns"):
        csr_from_arrays(3, 2, rows=[2, 0], columns=[1], values=np.ones(2))
    with pytest.raises(ValueError, match=r"rows\[0\] is 9223372036854775808, expected 0 to 2"):
        csr_from_arrays(3, 2, rows=np.uint64([2**63]), columns=[0], values=[1.0])
    with pytest.raises(ValueError, match="links=4, and an output has at most one for each of 3"):
        random_csr(3, 2, links=4, key=KEY)


def test_a_wide_layer_is_made_without_its_matrix():
    layer = random_csr(200_000, 1000, links=3, key=KEY)  # its matrix would take 800 MB
    layer.check()
    assert layer.starts.shape == (4001,) and layer.values.size == 3000
