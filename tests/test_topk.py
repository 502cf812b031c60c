"""Selection by counting: exact numbers at any size, and the order of scores."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsparse as js
from jsparse._counting import MOST, rounded_fraction, sort_keys
from jsparse._topk import above_cut, common_cut, highest, top
from tests.support.sampled import one_in

SHAPES = {
    "2^24 + 3": (2**24 + 3,),
    "a transformer's layer": (4096, 11008),
    "its vocabulary": (128256, 4096),
    "2^31 + 7": (2**31 + 7,),
}


@given(
    fraction=st.floats(0.0, 1.0, width=32, allow_subnormal=False),
    size=st.integers(0, MOST),
)
def test_a_rounded_fraction_is_the_exact_product_rounded(fraction: float, size: int) -> None:
    want = round(Fraction(fraction) * size)
    assert int(rounded_fraction(jnp.float32(fraction), size)) == want
    assert abs(int(rounded_fraction(fraction, size)) - want) <= (1 if size > 2**29 else 0)


@pytest.mark.parametrize("half", [0.5, 0.25, 0.75])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 10, 2**24 + 1, 2**24 + 2, 2**31 + 7])
def test_of_two_equally_near_integers_it_is_the_even_one(half: float, size: int) -> None:
    found = [int(rounded_fraction(number, size)) for number in (jnp.float32(half), half)]
    assert found == [round(half * size)] * 2


@pytest.mark.parametrize("density", one_in(3, [1 / 3, 0.9, 0.1]))
def test_the_number_kept_is_exact_above_2_24(density: float) -> None:
    score = jnp.arange(2**24 + 3, dtype=jnp.uint32).astype(jnp.float32)  # pairs of equal scores
    want = round(density * score.size)
    assert int(top(score, density, (0,)).sum(dtype=jnp.uint32)) == want
    cuts = common_cut([score[:-5], score[-5:]], density, (0, 0))
    kept = [above_cut(s, c) for s, c in zip((score[:-5], score[-5:]), cuts, strict=True)]
    assert sum(int(k.sum(dtype=jnp.uint32)) for k in kept) == want


@pytest.mark.slow
def test_places_of_equal_scores_are_exact_above_2_24() -> None:
    zeros = jnp.zeros(2**24 + 3)
    want = 2**24 + 1
    assert int(highest(zeros, jnp.uint32(want), (0,)).sum(dtype=jnp.uint32)) == want
    (cut,) = common_cut([zeros], want / zeros.size, (0,))
    assert int(above_cut(zeros, cut).sum(dtype=jnp.uint32)) == want


@pytest.mark.parametrize("scope", [js.PerOutput(), js.Whole(), js.WholeModel()], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_large_layers_are_traced(shape: tuple[int, ...], scope: js.Whole) -> None:
    def masked(params: dict) -> dict:
        plan = js.tree.plan(params, ("kernel", js.Top(density=0.5, scope=scope)))
        return js.tree.apply(plan, params, *js.tree.init(plan, params, jax.random.key(0)))

    kernel = jax.ShapeDtypeStruct(shape if len(shape) > 1 else (*shape, 1), jnp.bfloat16)
    assert jax.eval_shape(masked, {"kernel": kernel})["kernel"].shape == kernel.shape


def test_more_than_can_be_counted_is_refused() -> None:
    score = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)
    with pytest.raises(ValueError, match=r"4294967296 units compete, and at most .* PerOutput\(\)"):
        jax.eval_shape(lambda x: top(x, 0.5, (0, 1)), score)


def test_subnormal_scores_rank_by_size() -> None:
    score = jnp.asarray(np.array([1e-40, 3e-40, -0.0, 2e-40, 0.0, 5e-41], np.float32))
    assert top(score, 0.5, (0,)).tolist() == [True, True, False, True, False, False]
    rank = np.random.default_rng(0).permutation(64)
    many = jnp.asarray(rank.astype(np.float32) * np.float32(1e-42))
    optimized: dict = {"xla_backend_optimization_level": 3}  # as it is outside tests
    order = jax.jit(sort_keys).lower(many).compile(optimized)(many)
    assert (np.argsort(order) == np.argsort(rank)).all()
