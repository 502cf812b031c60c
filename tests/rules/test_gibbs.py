"""Gibbs pruning against the exact distribution, its limits, and the authors' conventions.

Keys are fixed, so that the statistical tests give the same answer each time; a correct sampler
would fail one with the stated probability if the key were drawn anew.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.stats import chi2

import jsparse as js
from jsparse import schedule
from jsparse._tiles import spread
from jsparse._topk import cuts

KEY = jax.random.key(0)
ERROR = 1e-4
"""Probability that a correct sampler fails a chi-square test."""
DRAWS = 20_000
WEIGHT = jax.random.normal(jax.random.key(1), (3, 2, 2, 3))


def samples(rule: js.Gibbs, weight: jax.Array, draws: int = DRAWS) -> np.ndarray:
    """Masks of so many train steps, bool [draws, ...]."""
    state = rule.init(weight, KEY)

    def one(step: jax.Array) -> jax.Array:
        return rule.mask(weight, state | {"draw": state["draw"].at[1].set(step)})

    return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(draws, dtype=jnp.float32))) > 0


def expected(field: np.ndarray, coupling: np.ndarray, beta: float) -> tuple:
    """All states [2^n, n] as 0/1 and their probabilities exp(-beta (b x - x J x)) / Z."""
    states = np.array(list(itertools.product([0, 1], repeat=len(field))))
    x = 2.0 * states - 1.0
    energy = x @ field - np.einsum("si,ij,sj->s", x, coupling, x)
    p = np.exp(-beta * (energy - energy.min()))
    return states, p / p.sum()


def assert_distributed(kept: np.ndarray, p: np.ndarray) -> None:
    """Chi-square over the states of a unit [draws, n]; states expected below 5 times are pooled."""
    number = kept @ (2 ** np.arange(kept.shape[1])[::-1])
    observed, want = np.bincount(number, minlength=len(p)), len(kept) * p
    rare = want < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    want = np.append(want[~rare], want[rare].sum())
    observed, want = observed[want > 0], want[want > 0]
    assert ((observed - want) ** 2 / want).sum() < chi2.isf(ERROR, len(want) - 1)


def fields(rule: js.Gibbs, weight: jax.Array) -> np.ndarray:
    """Q - w^2."""
    tile = rule.unit.tile(weight.shape, rule.role)
    cut = cuts(rule.score(weight, {}), rule.density, rule.scope, rule.role)
    return np.asarray(spread(cut, tile, weight.shape) ** 2 - weight**2)


@pytest.mark.parametrize(("exact", "factor"), [(False, 1.0), (True, 2.0)])
def test_single_weights_are_independent_bits(exact: bool, factor: float) -> None:
    rule = js.Gibbs(density=0.4, beta=0.7, exact=exact)
    weight = WEIGHT.reshape(-1)[:6].reshape(2, 3)
    # p(x) itself has 2 beta; the authors' code has beta
    _, p = expected(fields(rule, weight).ravel(), np.zeros((6, 6)), 0.5 * factor * 0.7)
    assert_distributed(samples(rule, weight).reshape(DRAWS, -1), p)


@pytest.mark.parametrize(("beta", "coupling"), [(0.5, 0.05), (2.0, 0.3), (1.0, 0.0)])
def test_small_units_are_drawn_exactly(beta: float, coupling: float) -> None:
    rule = js.Gibbs(density=0.4, beta=beta, unit=js.Kernel(), coupling=coupling)
    kept = samples(rule, WEIGHT)
    for inputs, outputs in ((0, 0), (1, 2)):
        field = fields(rule, WEIGHT)[:, :, inputs, outputs].ravel()
        _, p = expected(field, coupling * (1 - np.eye(6)), beta)
        assert_distributed(kept[:, :, :, inputs, outputs].reshape(DRAWS, -1), p)


def test_a_block_at_a_ragged_edge_is_a_smaller_unit() -> None:
    rule = js.Gibbs(density=0.5, beta=1.0, unit=js.Block((2, 2)), coupling=0.2)
    weight = WEIGHT.reshape(-1)[:15].reshape(5, 3)
    _, p = expected(fields(rule, weight)[4, :2], 0.2 * (1 - np.eye(2)), 1.0)
    assert_distributed(samples(rule, weight)[:, 4, :2], p)


@pytest.mark.parametrize(("exact", "factor"), [(False, 1.0), (True, 2.0)])
def test_large_units_are_drawn_in_halves(exact: bool, factor: float) -> None:
    """All pairs between the halves of the input channels are coupled, none within."""
    rule = js.Gibbs(density=0.4, beta=0.5, unit=js.Filter(), coupling=0.05, sweeps=20, exact=exact)
    kept = samples(rule, WEIGHT)
    first = np.broadcast_to(np.array([1, 0]), (3, 2, 2)).ravel()  # of the two input channels
    coupling = 0.05 * np.outer(first, 1 - first)
    for output in (0, 2):
        field = fields(rule, WEIGHT)[..., output].ravel()
        _, p = expected(field, coupling, 0.5 * factor * 0.5)
        assert_distributed(kept[..., output].reshape(DRAWS, -1), p)


@pytest.mark.parametrize("unit", [js.Filter(), js.Channel(), js.Block((2, 2))])
def test_dense_layers_have_columns_rows_and_blocks(unit) -> None:
    """The first column, row or block of a dense kernel [5, 4] against its exact distribution."""
    weight = WEIGHT.reshape(-1)[:20].reshape(5, 4)
    rule = js.Gibbs(density=0.5, beta=0.6, unit=unit, coupling=0.1)
    tile = unit.tile(weight.shape, rule.role)
    one = tuple(slice(0, t) for t in tile)
    field = fields(rule, weight)[one].ravel()
    _, p = expected(field, 0.1 * (1 - np.eye(len(field))), 0.6)
    assert_distributed(samples(rule, weight)[(slice(None), *one)].reshape(DRAWS, -1), p)


UNITS = [js.Weight(), js.Kernel(), js.Filter(), js.Channel(), js.Block((2, 2))]


@pytest.mark.parametrize("unit", UNITS)
def test_at_beta_0_all_bits_are_fair_and_independent(unit) -> None:
    rule = js.Gibbs(density=0.1, beta=0.0, unit=unit, sweeps=2)
    bits = samples(rule, WEIGHT, 4000).reshape(4000, -1)
    spins = 2.0 * bits - 1.0
    # each of 36 means and 630 correlations is normal with deviation 4000^-0.5; 5.5 of these are
    # passed by one of them with a probability below 666 * 4e-8 = 3e-5
    together = spins.T @ spins / 4000 - np.eye(36)
    assert np.abs(np.append(together, spins.mean(axis=0))).max() < 5.5 * 4000**-0.5


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("unit", UNITS)
def test_for_high_beta_the_density_is_the_target(unit, density: float) -> None:
    """And the mask is that of magnitude pruning, as it is in eval mode."""
    weight = jax.random.normal(KEY, (3, 3, 8, 10))
    top = js.Top(density=density, unit=unit)
    rule = js.Gibbs(density=density, beta=1e6, unit=unit, sweeps=2)
    state = rule.init(weight, KEY)
    want, mask = jax.jit(top.mask)(weight, {}), jax.jit(rule.mask)
    np.testing.assert_array_equal(mask(weight, state), want)
    np.testing.assert_array_equal(mask(weight, js.tree.settled({"": state})[""]), want)


@pytest.mark.parametrize(("beta", "coupling"), [(1e4, 0.01), (1e4, 1.0), (1e6, 1.0)])
def test_strong_couplings_leave_all_or_nothing(beta: float, coupling: float) -> None:
    """A kernel is kept whole with probability sigmoid(-2 beta sum b), here 0.73, also then."""
    count = 4000
    # squares 1 and a little beside: the cut lies half-way between the two kinds of kernels
    square = np.where(np.arange(count) % 2, 1.0, 1.0 + 2.0 / (18 * beta))
    weight = jnp.asarray(np.sqrt(np.broadcast_to(square, (3, 3, 1, count))), jnp.float32)
    rule = js.Gibbs(density=0.5, beta=beta, unit=js.Kernel(), coupling=coupling)
    kept = np.asarray(jax.jit(rule.mask)(weight, rule.init(weight, KEY))).reshape(9, count)
    assert (kept == kept[:1]).all()
    cut = np.asarray(cuts(rule.score(weight, {}), 0.5, rule.scope, rule.role), np.float64)
    gap = (np.asarray(weight, np.float64) ** 2 - cut**2).mean((0, 1)).ravel()
    odds = 9 * 2 * beta * gap
    want = 1 / (1 + np.exp(-odds))
    # 4000 coins: 5 deviations, passed with a probability below 1e-6
    deviation = np.sqrt((want * (1 - want)).sum())
    assert abs(kept[0][want > 0.5].sum() - want[want > 0.5].sum()) < 5 * deviation


@pytest.mark.parametrize("coupling", [0.01, 100.0])
@pytest.mark.parametrize("block", [(2, 4), (4, 4)])
def test_ragged_blocks_and_strong_couplings_end_at_the_largest(block, coupling: float) -> None:
    weight = 0.05 * jax.random.normal(KEY, (3, 10, 13))
    rule = js.Gibbs(density=0.3, beta=1e6, unit=js.Block(block), coupling=coupling, sweeps=5)
    state = rule.init(weight, KEY)
    drawn = np.asarray(jax.jit(rule.mask)(weight, state))
    assert (drawn == rule.mask(weight, {})).mean() > 0.97  # all but one unit, nearly at the cut


def test_a_draw_that_was_cast_is_refused() -> None:
    layer = js.Linear(4, 3, rule=js.Gibbs(density=0.5, beta=1.0), rngs=nnx.Rngs(0))
    state = nnx.state(layer)
    nnx.update(layer, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    with pytest.raises(TypeError, match="cannot count train steps; cast only the parameters"):
        js.advance(layer)


def test_a_whole_model_is_cut_at_one_place() -> None:
    model = nnx.Sequential(*(nnx.Linear(20, 20, rngs=nnx.Rngs(n)) for n in range(2)))
    model.layers[1].kernel[...] *= 3.0
    rule = js.Gibbs(density=0.25, beta=1e6, scope=js.WholeModel())
    masks = js.masks(js.sparsify(model, (".*/kernel", rule)))
    first, second = (float(mask.sum()) for mask in masks.values())
    assert first + second == 200 and second > 2 * first


def test_one_mask_a_step_and_none_drawn_in_eval_mode() -> None:
    layer = js.Linear(20, 20, rule=js.Gibbs(density=0.3, beta=1.0), rngs=nnx.Rngs(0))
    optimizer = js.Optimizer(layer, optax.sgd(0.0))
    mask = lambda: np.asarray(layer.kernel.read_mask())
    first = mask()
    np.testing.assert_array_equal(first, mask())
    optimizer.update(layer, nnx.grad(lambda layer: layer(jnp.ones((1, 20))).sum())(layer))
    assert (first != mask()).any()
    layer.eval()
    assert mask().sum() == 120
    np.testing.assert_array_equal(mask(), np.asarray(js.fold(layer).kernel[...]) != 0)
    if hasattr(nnx, "view"):
        seen = nnx.view(layer, deterministic=False)
        assert seen.kernel.read_mask().sum() != 120 and mask().sum() == 120


def test_beta_follows_its_curve_over_the_steps() -> None:
    curve = schedule.geometric(1e-3, 1e6, 0, 50)
    layer = js.Linear(20, 20, rule=js.Gibbs(density=0.1, beta=curve), rngs=nnx.Rngs(0))
    densities = []
    for _ in range(60):
        densities.append(float(layer.kernel.read_mask().mean()))
        layer = js.advance(layer)
    assert densities[0] == pytest.approx(0.5, abs=0.13)  # 5 deviations of 400 fair bits
    assert densities[50:] == pytest.approx([0.1] * 10)
    assert curve == schedule.geometric(1e-3, 1e6, 0, 50)  # equal rules compare equal


def test_only_drawn_weights_receive_the_gradient() -> None:
    rule = js.Gibbs(density=0.4, beta=1.0)
    state = rule.init(WEIGHT, KEY)
    grad = jax.grad(lambda w: (rule.apply(w, state) * 3.0).sum())(WEIGHT)
    np.testing.assert_array_equal(grad, 3.0 * rule.mask(WEIGHT, state))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"density": 0.0}, "in \\(0, 1\\]"),
        ({"beta": -1.0}, "beta must be a number, 0 or more; got -1"),
        ({"beta": float("nan")}, "beta must be a number, 0 or more; got nan"),
        ({"coupling": -0.1}, "coupling must be a number, 0 or more; got -0.1"),
        ({"sweeps": 0}, "sweeps must be a whole number, 1 or more; got 0"),
        ({"pairs_up_to": 9.5}, "pairs_up_to must be a whole number, 1 or more; got 9.5"),
        ({"beta": "x"}, "beta must be a number .*, or a curve such as .*; got 'x'"),
        ({"scope": js.Each()}, "no unit competes, so Gibbs would keep all"),
        ({"scope": js.Groups(4)}, "axis 2 has length 2, not a multiple of 4"),
    ],
)
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        js.Gibbs(**{"density": 0.5, "beta": 1.0, **arguments}).init(WEIGHT, KEY)
