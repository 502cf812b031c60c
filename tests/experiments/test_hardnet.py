"""HarDNet and ThreshNet: published counts, and harmonic wiring as a masked dense network."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

import jsparse as js

pytest.importorskip("tyro")

from experiments.networks import hardnet as zoo

pytestmark = pytest.mark.standard_dtypes
NETWORKS = {  # parameters, and billions of operations at 224 x 224 where published
    "HarDNet68": (zoo.hardnet(68), 1000, 17_565_348, 4.26),
    "HarDNet85": (zoo.hardnet(85), 1000, 36_670_212, 9.10),
    "HarDNet39": (zoo.hardnet(39), 1000, 13_313_764, None),
    "ThreshNet79": (zoo.threshnet(79), 10, 14_371_858, 3.46),
    "ThreshNet79, 1000 classes": (zoo.threshnet(79), 1000, 15_323_248, None),
    "ThreshNet95": (zoo.threshnet(95), 10, 16_189_202, 4.07),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_the_published_ones(name: str) -> None:
    nodes, classes, parameters, operations = NETWORKS[name]
    assert zoo.parameters(nodes, classes) == parameters
    if operations:  # theirs count norms too, about a hundredth
        assert zoo.count(nodes, 224, classes).multiply_adds / 1e9 == pytest.approx(
            operations, rel=0.015
        )


def test_harmonic_widths_and_links_are_the_published_ones() -> None:
    joined = lambda nodes: [
        zoo.channels(nodes, n) for n in nodes if n.window == 1 and n.reads and not n.block
    ]
    assert joined(zoo.hardnet(68)) == [124, 262, 328, 654, 782]
    assert joined(zoo.hardnet(85)) == [214, 392, 458, 588, 784, 1252]
    assert joined(zoo.threshnet(79))[:3] == [256, 384, 576]
    assert [zoo.links(n) for n in (1, 2, 4, 16)] == [(0,), (1, 0), (3, 2, 0), (15, 14, 12, 8, 0)]
    block = zoo.wired((32, 64), [zoo.Stage(16, 14, 2, 128, False)])
    assert zoo.count(block, 32).links == 31
    assert zoo.count(zoo.densely(block), 32).links == 136
    # any threshold from 41 to 57 gives both of the authors' networks
    assert zoo.threshnet(79, threshold=41) == zoo.threshnet(79)
    assert zoo.threshnet(95, threshold=41) == zoo.threshnet(95)
    assert zoo.threshnet(79, threshold=58) != zoo.threshnet(79)


def test_harmonic_wiring_needs_less_memory_and_work() -> None:
    harmonic, dense = (zoo.count(n, 32) for n in (zoo.hardnet(68), zoo.densely(zoo.hardnet(68))))
    assert harmonic.peak < dense.peak and harmonic.multiply_adds < dense.multiply_adds / 1.9
    peaks = [zoo.count(zoo.threshnet(79, threshold=t), 32).peak for t in (0, 57, math.inf)]
    assert peaks[0] < peaks[1] == peaks[2]
    # by hand: an image of 8x8x3, two layers of 2 channels at 4x4, a pool
    small = zoo.wired((2, 2), [])
    assert zoo.count(small, 8) == (0, 54 * 16 + 36 * 16 + 2 * 10, 4 * (3 * 64 + 2 * 16))


@pytest.mark.slow  # seconds of compiling
def test_a_harmonic_network_is_a_dense_one_under_a_mask() -> None:
    nodes = zoo.wired((4, 6), [zoo.Stage(8, 4, 2, 12, False)])
    dense_nodes = zoo.densely(nodes)
    harmonic, dense = zoo.Wired(nodes, nnx.Rngs(0)), zoo.Wired(dense_nodes, nnx.Rngs(1))
    assert zoo.parameters(nodes) == sum(
        p.size for p in jax.tree.leaves(nnx.state(harmonic, nnx.Param))
    )
    masks = zoo.group_masks(dense_nodes, nodes)
    for n, node in enumerate(nodes[1:], start=1):
        if node.kind != "pool":
            small, wide = getattr(harmonic, f"conv{n}"), getattr(dense, f"conv{n}")
            mask = masks.get(f"conv{n}/kernel", np.ones(wide.kernel.shape))
            read = mask[0, 0, :, 0] == 1
            kernel = np.array(wide.kernel[...])
            kernel[:, :, read] = small.kernel[...]  # both list what they read nearest first
            wide.kernel[...] = jax.numpy.asarray(kernel)
    dense.head = harmonic.head
    full = js.sparsify(dense, ("conv.*/kernel", js.Held()))
    masked = js.hold(full, masks)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    for model in (harmonic, full, masked):
        model.eval()
    run = nnx.jit(lambda model, x: model(x))
    expected, found, unmasked = (run(model, x) for model in (harmonic, masked, full))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(unmasked - expected).max() > 1e-2
    assert js.masks(masked).keys() > masks.keys()


def test_sizes_that_no_network_has_are_refused() -> None:
    for wrong in (lambda: zoo.hardnet(70), lambda: zoo.threshnet(79, narrow=0)):
        with pytest.raises(ValueError, match="give"):
            wrong()
