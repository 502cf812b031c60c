import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jsparse as js
from jsparse.export import blocks, csr, int8, random_csr


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a_layer_with_a_long_name = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(1000, 2000, rngs=rngs)


def model() -> Net:
    return js.sparsify(
        Net(nnx.Rngs(0)), ("fc/kernel", js.Top(density=0.1)), (".*/kernel", js.Threshold())
    )


def test_counts() -> None:
    report = js.summary(model())
    assert (report.kept, report.size) == (200_000 + 432, 2_000_000 + 432)
    assert (report.dense, report.learned) == (16 + 2000, 16)
    assert report.rows["fc/kernel"].density == 0.1


def test_columns_line_up_whatever_their_width() -> None:
    lines = str(js.summary(model())).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[0].split() == ["layer", "shape", "rule", "density", "kept", "of"]
    assert lines[-1] == "and 2,016 parameters without a rule"
    ends = [line.rstrip()[-9:] for line in lines[2:]]
    assert "2,000,432" in ends


def test_the_dictionary_is_plain() -> None:
    data = json.loads(json.dumps(js.summary(model()).to_dict()))
    assert data["layers"]["fc/kernel"]["kept"] == 200_000
    assert data["total"]["size"] == 2_000_432


def test_a_dense_model_has_an_empty_table() -> None:
    report = js.summary(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    assert (report.rows, report.density, report.dense) == ({}, 1.0, 9)
    assert "total" in str(report)


class Empty(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.zeros((0, 3)))


def test_an_empty_weight_has_density_one() -> None:
    for rule in (js.Held(), js.Threshold(), js.Top(density=0.5)):
        assert js.summary(js.sparsify(Empty(), ("w", rule))).density == 1.0


@pytest.mark.parametrize("pack", [csr(), int8(csr()), blocks((3, 2)), int8(blocks((3, 2)))])
def test_a_packed_layer_counts_as_the_sparse_one_did(pack: Callable) -> None:
    """20 inputs and 7 outputs fill no whole number of blocks."""
    sparse = js.sparsify(nnx.Linear(20, 7, rngs=nnx.Rngs(0)), ("kernel", js.Top(density=0.1)))
    before, after = js.summary(sparse), js.summary(pack(js.fold(sparse)))
    assert after.rows["values"].shape == (20, 7)
    assert (after.kept, after.size) == (before.kept, before.size) == (14, 140)


def test_a_packed_convolution_and_room_for_links() -> None:
    conv = csr()(nnx.Conv(2, 5, (3, 3), rngs=nnx.Rngs(0)))
    assert js.summary(conv).rows["values"].shape == (3, 3, 2, 5)
    assert js.summary(conv).density == 1.0
    links = random_csr(8, 4, links=3, key=jax.random.key(0))
    links.starts[...] = links.starts[...] - jnp.array([0, 0, 0, 0, 2])  # two were dropped
    assert (js.summary(links).kept, js.summary(links).size) == (10, 32)
    made = [nnx.split(random_csr(8, 4, links=3, key=jax.random.key(n))) for n in (0, 1)]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in made])
    stacked = js.summary(nnx.merge(made[0][0], states))
    assert stacked.rows["values"].shape == (2, 8, 4)
    assert (stacked.kept, stacked.size) == (24, 64)
