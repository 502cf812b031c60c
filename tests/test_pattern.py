import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsparse as js
from jsparse._tiles import by_unit, from_units, grid_shape, pool, spread, unit_sizes
from jsparse._topk import highest, top
from tests.support.sampled import one_in

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@st.composite
def tiled(draw) -> tuple:
    shape = draw(shapes)
    return shape, tuple(draw(st.integers(1, n)) for n in shape)


@given(tiled())
def test_pool_and_spread_agree_with_a_loop(case: tuple) -> None:
    shape, tile = case
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    units, sizes = np.zeros(grid_shape(shape, tile)), np.zeros(grid_shape(shape, tile))
    for index in np.ndindex(*shape):
        unit = tuple(i // t for i, t in zip(index, tile, strict=True))
        units[unit] += x[index]
        sizes[unit] += 1
    np.testing.assert_allclose(pool(jnp.asarray(x), tile), units, atol=1e-5)
    np.testing.assert_array_equal(np.broadcast_to(unit_sizes(shape, tile), sizes.shape), sizes)
    wide = np.asarray(spread(jnp.asarray(units), tile, shape))
    for index in np.ndindex(*shape):
        unit = tuple(i // t for i, t in zip(index, tile, strict=True))
        assert wide[index] == np.float32(units[unit])


@given(shapes, st.floats(0.01, 1.0), st.data())
def test_top_keeps_exactly_the_highest(shape: tuple, density: float, data) -> None:
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    values = data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=9))  # many ties
    score = np.resize(np.array(values, np.float32), shape)
    kept = np.asarray(top(jnp.asarray(score), density, axes))
    size = np.prod([shape[a] for a in axes])
    want = max(1, int(np.round(np.float32(density) * np.float32(size))))
    assert (kept.sum(axis=axes) == want).all()
    lowest = np.where(kept, score, np.inf).min(axis=axes, keepdims=True)
    assert (np.where(kept, -np.inf, score) <= lowest).all()


@given(st.integers(1, 200), st.integers(0, 5))
def test_top_breaks_ties_by_the_lower_index(size: int, seed: int) -> None:
    score = np.random.default_rng(seed).integers(0, 3, size).astype(np.float32)
    keep = max(1, round(np.float32(0.37) * np.float32(size)))
    first = np.sort(np.argsort(-score, kind="stable")[:keep])
    np.testing.assert_array_equal(np.flatnonzero(top(jnp.asarray(score), 0.37, (0,))), first)


def test_top_masks_are_nested_as_density_falls() -> None:
    score = jax.random.normal(jax.random.key(0), (40, 7)).round(1)  # with ties
    masks = [np.asarray(top(score, d, (0, 1))) for d in (0.9, 0.5, 0.2, 0.01)]
    assert all((small <= large).all() for large, small in itertools.pairwise(masks))


def test_top_orders_nan_infinities_and_signed_zeros() -> None:
    score = jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, jnp.inf, -1.0])
    assert top(score, 1 / 6, (0,)).tolist() == [False, False, False, False, True, False]
    assert top(score, 3 / 6, (0,)).tolist() == [False, False, True, True, True, False]
    assert top(score, 5 / 6, (0,)).tolist() == [False, True, True, True, True, True]


def test_signed_zeros_tie_under_jit_too() -> None:
    score = jnp.array([-0.0, 0.0, 0.0, -0.0])
    assert jax.jit(lambda s: top(s, 0.5, (0,)))(score).tolist() == [True, True, False, False]


def test_top_takes_a_traced_density() -> None:
    score = jnp.arange(10.0)
    counts = jax.vmap(lambda d: top(score, d, (0,)).sum())(jnp.array([0.1, 0.5, 1.0]))
    assert counts.tolist() == [1, 5, 10]


def test_top_of_nothing_is_empty() -> None:
    assert top(jnp.zeros((0, 3)), 0.5, (0, 1)).shape == (0, 3)


@pytest.mark.parametrize("exponent", [-44, -30, -12, -3, 0, 9, 30, 38])
def test_top_of_any_size_and_spread(exponent: int) -> None:
    """Far from where the search begins, close together, far apart, and mostly equal."""
    draw = np.random.default_rng(0).normal(size=(64, 5))
    with np.errstate(over="ignore"):
        many = [draw, np.abs(draw), np.exp(9 * draw), 1 + draw / 1e6, np.maximum(draw, 1.5)]
        scores = [(10.0**exponent * x).astype(np.float32) for x in many]
    for score, keep in itertools.product(scores, (0, 1, 7, 319, 320)):
        kept = np.asarray(highest(jnp.asarray(score), jnp.asarray(keep), (0, 1)))
        flushed = np.where(np.abs(score) < np.finfo(np.float32).tiny, 0, score)  # as XLA may
        first = np.argsort(-score.ravel(), kind="stable")[:keep]
        also = np.argsort(-flushed.ravel(), kind="stable")[:keep]
        assert np.flatnonzero(kept).tolist() in (sorted(first), sorted(also))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("along", one_in(2, [(("x", None),), ((None, "x"),)]))
def test_top_on_a_sharded_score_gathers_nothing(along: tuple, kind: str) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    score = jax.random.normal(jax.random.key(0), (128, 64))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(score, jax.sharding.NamedSharding(mesh, jax.P(*along)))
        for axes in ((0, 1), (0,), (1,)):
            best = jax.jit(lambda s, axes=axes: top(s, 0.3, axes)).lower(sharded).compile()
            assert "all-gather" not in best.as_text()
            np.testing.assert_array_equal(best(sharded), top(score, 0.3, axes))


@pytest.mark.parametrize(
    ("unit", "grid"),
    [
        (js.Weight(), (3, 3, 4, 6)),
        (js.Kernel(), (1, 1, 4, 6)),
        (js.Filter(), (1, 1, 1, 6)),
        (js.Channel(), (1, 1, 4, 1)),
        (js.Block((4, 4)), (3, 3, 1, 2)),
        (js.Block((3, 3, 9, 9)), (1, 1, 1, 1)),
    ],
)
def test_units_of_a_convolution(unit, grid: tuple) -> None:
    shape = (3, 3, 4, 6)
    assert grid_shape(shape, unit.tile(shape, js.Role())) == grid


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: js.Block(()), "axes, one or more"),
        (lambda: js.Block((0, 2)), "sizes, 1 or more"),
        (lambda: js.Groups(0), "a whole number, 1 or more"),
        (lambda: js.Block((2, 2, 2)).tile((4, 4), js.Role()), "at most 2"),
        (lambda: js.Groups(2).axes(1, js.Role()), "needs an input axis"),
    ],
)
def test_bad_patterns(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(("rows", "kept"), [(32, ("x", None)), (16, (None, None))])
def test_blocks_stay_on_their_devices_if_none_is_cut(rows: int, kept: tuple) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = jnp.arange(rows * 5.0).reshape(rows, 5)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("x")))
        pooled = pool(split, (4, 2))
        back = from_units(by_unit(split, (4, 2)), (4, 2), x.shape)
        wide = spread(pooled, (4, 2), x.shape)
    assert tuple(jax.typeof(pooled).sharding.spec) == kept
    np.testing.assert_array_equal(pooled, pool(x, (4, 2)))
    np.testing.assert_array_equal(wide, spread(pool(x, (4, 2)), (4, 2), x.shape))
    np.testing.assert_array_equal(back, x)
