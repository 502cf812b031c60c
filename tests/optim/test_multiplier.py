"""The multiplier: its two parts, as a pytree, and that a cost ends at its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse.optim import Multiplier

COSTS = (0.4, 0.2, 0.02, 0.1, 0.3)


def by_hand(limit: float, start: float, integral: float, proportional: float) -> list[float]:
    total, values = start, []
    for cost in COSTS:
        excess = np.log(cost / limit)
        total = max(0.0, total + integral * excess)
        values.append(max(0.0, total + proportional * excess))
    return values


@pytest.mark.parametrize("settings", [(0.0, 0.1, 1.0), (0.5, 0.3, 0.0), (0.0, 0.0, 2.0)])
def test_the_value_is_the_sum_of_both_parts(settings: tuple[float, float, float]) -> None:
    start, integral, proportional = settings
    nu = Multiplier(0.1, start=start, integral=integral, proportional=proportional)
    assert nu.value == start
    found = []
    for cost in COSTS:
        nu = nu.update(cost)
        found.append(float(nu.value))
    np.testing.assert_allclose(found, by_hand(0.1, *settings), rtol=1e-5, atol=1e-6)


def test_it_passes_through_scan_and_vmap() -> None:
    def run(limit: jax.Array) -> jax.Array:
        step = lambda nu, cost: (nu.update(cost), nu.update(cost).value)
        return jax.lax.scan(step, Multiplier(limit), jnp.array(COSTS))[1]

    found = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2]))
    for row, limit in zip(found, (0.1, 0.2), strict=True):
        np.testing.assert_allclose(row, by_hand(limit, 0.0, 0.1, 1.0), rtol=1e-4, atol=1e-5)
    new = Multiplier(0.1).update(0.4).within(0.2)
    assert (float(new.total), float(new.limit)) == pytest.approx((0.1 * np.log(4), 0.2))


def test_a_cost_ends_at_its_limit_where_plain_ascent_throws_everything_away() -> None:
    """Ascent on reward - nu * cost, whose reward is flat where nearly nothing is kept."""

    def slope(kept: jax.Array, nu: jax.Array) -> jax.Array:
        reward = lambda kept: 0.1 * jax.nn.sigmoid(150 * (kept - 0.05))
        return (jax.grad(reward)(kept) - nu) / (1 + nu)

    def end(nu: Multiplier) -> float:
        def step(state: tuple, _: None) -> tuple:
            kept, nu = state
            nu = nu.update(kept)
            return (jnp.clip(kept + 0.01 * slope(kept, nu.value), 1e-3, 1.0), nu), None

        return float(jax.lax.scan(step, (jnp.float32(0.6), nu), length=240)[0][0])

    assert end(Multiplier(0.1)) == pytest.approx(0.1, rel=0.15)
    difference = lambda cost, limit: cost - limit
    plain = Multiplier(0.1, start=1.0, integral=1.0, proportional=0.0, excess=difference)
    assert end(plain) < 0.02


def test_a_limit_of_zero_needs_another_excess() -> None:
    with pytest.raises(ValueError, match=r"limit must be a number above 0; got 0\.0"):
        Multiplier(0.0)
    nu = Multiplier(0.0, excess=lambda cost, limit: cost - limit).update(0.5)
    assert float(nu.value) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="cost must be a finite number; got nan"):
        nu.update(float("nan"))
