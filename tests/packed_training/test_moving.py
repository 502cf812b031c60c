"""Links that move: the revision's choice, in valid order, and everything follows its link."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsparse as js
from jsparse._packed_training.moving import (
    Drawn,
    carried_over,
    draw_places,
    moved,
    places_to_draw,
    starts_at,
)
from jsparse.export import Csr, random_csr
from jsparse.export._packing.formats import CsrArrays, csr_matrix, csr_places
from jsparse.export._packing.structure import CsrSizes

KEY = jax.random.key(0)
STEP = jnp.array(2)
BY = {
    "set": js.SET(last=9, every=1, fraction=0.5),
    "set by sign": js.SET(last=9, every=1, fraction=0.5, by_sign=True),
    "rigl": js.RigL(last=9, every=1, fraction=0.5),
    "gradual": js.Gradual(density=0.02, last=9, start=0.3),
    "below": js.Below(quality=1.0, last=9, every=1),
}
INPUTS, OUTPUTS, LINKS = 23, 11, 4
KEPT, PLACES = LINKS * OUTPUTS, INPUTS * OUTPUTS


@functools.cache
def layer() -> Csr:
    return random_csr(INPUTS, OUTPUTS, links=LINKS, key=KEY, width=8)


@functools.partial(jax.jit, static_argnums=(0, 1))
def move(by: Any, count: int, arrays: CsrArrays, key: jax.Array) -> Any:
    """A move with `count` places drawn; their scores and, under RigL, those of links are random."""
    at, of_drawn, of_links = jax.random.split(key, 3)
    scores = jax.random.uniform(of_links, (KEPT,)) if by.by_gradient else jnp.full(KEPT, -1.0)
    drawn = Drawn(*draw_places(at, count, layer().sizes), jax.random.uniform(of_drawn, (count,)))
    return moved(by, arrays, scores, drawn, layer().sizes, STEP), scores, drawn


def inputs_and_outputs(parts: jax.Array, indices: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    groups, outputs = np.divmod(np.asarray(parts), OUTPUTS)
    return groups * 8 + np.asarray(indices), outputs


def check(arrays: CsrArrays) -> int:
    """The number of links, all of them valid and each once."""
    live = int(arrays.starts[-1])
    parts = {"values": arrays.values[:live], "indices": arrays.indices[:live]}
    CsrSizes(INPUTS, OUTPUTS, live, 8).check_arrays(parts | {"starts": arrays.starts})
    return live


@pytest.mark.parametrize("name", BY)
@pytest.mark.parametrize("count", [40, 3])
def test_links_stay_valid_and_values_follow(name, count):
    by, arrays = BY[name], layer().arrays(layer().values[...])
    for key in jax.random.split(KEY, 3):
        new = move(by, count, arrays, key)[0]
        found = CsrArrays(carried_over(arrays.values, new.sources), new.indices, new.starts)
        live = check(found)
        assert live == KEPT if name not in ("gradual", "below") else live < KEPT
        before, after = (csr_matrix(a, (INPUTS, OUTPUTS), 8) for a in (arrays, found))
        assert ((after == before) | (after == 0)).all()
        rows, columns = csr_places(found, OUTPUTS, 8)
        stayed = np.asarray(new.sources[:live] >= 0)
        assert (after[rows[:live], columns[:live]] != 0).tolist() == stayed.tolist()
        new_ones = (found.values == 0) & (jnp.arange(KEPT) < live)
        arrays = found._replace(values=jnp.where(new_ones, 0.01, found.values))


@pytest.mark.parametrize("name", BY)
def test_with_all_places_the_mask_is_that_of_a_dense_layer(name):
    by, arrays = BY[name], layer().arrays(layer().values[...])
    new, scores, drawn = move(by, PLACES, arrays, KEY)
    weight = np.asarray(layer().kernel_matrix())
    growth = np.full((INPUTS, OUTPUTS), -1.0, np.float32)
    growth[inputs_and_outputs(drawn.parts, drawn.indices)] = drawn.scores
    if by.by_gradient:  # of the two scores of a link the higher one counts
        at = tuple(map(np.asarray, csr_places(arrays, OUTPUTS, 8)))
        growth[at] = np.maximum(growth[at], scores)
    mask = jnp.asarray(weight != 0, jnp.float32)
    weight, growth = jnp.asarray(weight), jnp.asarray(growth)
    if name == "gradual":
        wanted = by(mask, weight, mask, step=STEP, key=KEY) * mask
    else:
        wanted = by.moved(mask, weight, growth, step=STEP, size=PLACES)
    ones = CsrArrays(jnp.ones(KEPT), new.indices, new.starts)  # room is outside the matrix
    assert (csr_matrix(ones, (INPUTS, OUTPUTS), 8) == wanted).all()


def test_places_are_drawn_from_the_whole_matrix_alike():
    parts, indices = draw_places(KEY, 50 * PLACES + 1, layer().sizes)
    drawn = inputs_and_outputs(parts, indices)
    counts = np.zeros((INPUTS, OUTPUTS))
    np.add.at(counts, drawn, 1)
    assert abs(counts - 50).max() < 5 * np.sqrt(50)
    ordered = CsrArrays(indices, indices, starts_at(parts, 33))
    rows, columns = map(np.asarray, csr_places(ordered, OUTPUTS, 8))
    assert (np.sort(rows * OUTPUTS + columns) == np.sort(drawn[0] * OUTPUTS + drawn[1])).all()


def test_as_many_places_are_drawn_as_growth_needs():
    wide = random_csr(1000, 50, links=2, key=KEY).sizes
    grad = js.RigL(last=9, every=1, fraction=0.5)
    half, none = js.SET(last=9, every=1, fraction=0.5), js.Below(quality=1.0, last=9, every=1)
    assert places_to_draw(grad, 100, wide, 3.0) == 150
    assert places_to_draw(half, 100, wide, 3.0) == 66
    assert places_to_draw(half, 100, wide, float("inf")) == 50_000
    assert places_to_draw(grad, 30_000, wide, 2.0) == 50_000  # 30,000 would not be much cheaper
    assert places_to_draw(none, 20_000, wide, float("inf")) == 0
    most = wide._replace(inputs=2**20, outputs=2**11)
    with pytest.raises(ValueError, match="2,147,483,648 places would be drawn for 100 links"):
        places_to_draw(grad, 100, most, float("inf"))
