import itertools

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsparse._budget import erdos_renyi, erdos_renyi_kernel, erdos_renyi_links, uniform
from jsparse._schedule import constant, cubic, silo, triangle, warm_stairs


def test_cubic_meets_both_ends_and_falls() -> None:
    curve = cubic(1.0, 0.05, 100, 500)
    values = [float(curve(jnp.array(step))) for step in range(0, 700, 10)]
    assert values[0] == values[10] == 1.0
    assert values[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_constant() -> None:
    assert float(constant(0.25)(jnp.array(10**6))) == 0.25


def test_cubic_refuses_an_empty_span() -> None:
    with pytest.raises(ValueError, match="last must be later than first"):
        cubic(1.0, 0.0, 5, 5)


def test_golden_peaks_of_silo() -> None:
    """As the authors' code has them for ResNet-20 and VGG-19, pruned by 20 % a round."""
    resnet = [0.03, 0.03, 0.03004, 0.03213, 0.04761, 0.06446, 0.06893, 0.06977, 0.06995]
    vgg = [0.04, 0.04, 0.04006, 0.0432, 0.06642, 0.09169, 0.09839, 0.09966, 0.09992]
    rounds = jnp.arange(9)
    assert silo(0.03, 0.07)(rounds).tolist() == pytest.approx(resnet, abs=5e-6)
    assert silo(0.04, 0.10)(rounds).tolist() == pytest.approx(vgg, abs=6e-6)


@given(st.floats(0.05, 0.95), st.integers(0, 3), st.floats(0.5, 8.0))
def test_silo_rises_from_start_to_end_and_is_half_way_where_half_is_left(
    kept: float, delay: int, slope: float
) -> None:
    curve = silo(0.1, 0.3, kept, delay, slope)
    values = curve(jnp.arange(200))
    assert values[: delay + 1].tolist() == pytest.approx([0.1] * (delay + 1))
    assert (jnp.diff(values) >= -1e-7).all() and values[-1] <= 0.3 + 1e-6
    half = jnp.log(0.5) / jnp.log(kept) + delay
    assert float(curve(half)) == pytest.approx(0.2, rel=1e-3)


def test_warm_stairs_are_those_of_silos_code_for_resnet20() -> None:
    """Of 782 steps an epoch: slope peak / 20,000, falls after 25 and 32 epochs."""
    curve = warm_stairs(0.07, 20_000, (25 * 782, 32 * 782))
    steps = [0, 10_000, 25 * 782 - 1, 25 * 782, 32 * 782 - 1, 32 * 782, 10**6]
    want = [0, 0.035, 0.07 * 19_549 / 20_000, 0.007, 0.007, 0.0007, 0.0007]
    assert [float(curve(t)) for t in steps] == pytest.approx(want, rel=1e-5)
    assert warm_stairs(0.5)(jnp.arange(2)).tolist() == [0.5, 0.5]


def test_triangle_is_smiths_formula() -> None:
    for t in range(0, 50):
        cycle = (1 + t / 16) // 1
        want = 0.1 + (0.4 - 0.1) * max(0.0, 1 - abs(t / 8 - 2 * cycle + 1))
        assert float(triangle(0.1, 0.4, 8)(t)) == pytest.approx(want, rel=1e-5)


def test_silo_refuses_what_is_no_rate() -> None:
    with pytest.raises(ValueError, match=r"kept must be a number in \(0, 1\)"):
        silo(0.03, 0.07, kept=1.0)
    with pytest.raises(ValueError, match="above 0"):
        silo(0.0, 0.07)


def resnet50() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"stem": (7, 7, 3, 64)}
    inputs = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            name = f"{stage}.{block}"
            shapes[f"{name}.1"] = (1, 1, inputs, width)
            shapes[f"{name}.2"] = (3, 3, width, width)
            shapes[f"{name}.3"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{name}.projection"] = (1, 1, inputs, 4 * width)
            inputs = 4 * width
    return shapes | {"fc": (2048, 1000)}


def test_golden_erk_of_resnet50_at_90_percent() -> None:
    """Sparsities of the 54 layers, as in the budgets that STR's authors published."""
    shapes = resnet50()
    size = {name: jnp.prod(jnp.array(shape)) for name, shape in shapes.items()}
    assert sum(int(n) for n in size.values()) == 25_502_912
    got = [round(100 * (1 - d)) for d in erdos_renyi_kernel(shapes, 0.1).values()]
    want = [58]
    want += [0, 82, 4, 4] + [4, 82, 4] * 2
    want += [43, 91, 52, 71] + [52, 91, 52] * 3
    want += [71, 96, 76, 86] + [76, 96, 76] * 5
    want += [86, 98, 88, 93] + [88, 98, 88] * 2
    want += [93]
    assert got == want


shapes = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    min_size=1,
)


@given(shapes, st.floats(0.01, 1.0), st.sampled_from([uniform, erdos_renyi, erdos_renyi_kernel]))
def test_budgets_meet_the_total(shapes: dict, density: float, budget) -> None:
    sizes = {name: s[0] * s[1] * s[2] for name, s in shapes.items()}
    kept = budget(shapes, density)
    assert all(0 <= d <= 1 for d in kept.values())
    total = sum(kept[name] * sizes[name] for name in shapes)
    assert total == pytest.approx(density * sum(sizes.values()), rel=1e-6)


def test_golden_links_of_sparse_td3_on_halfcheetah() -> None:
    """An actor and two critics of 256-256 with factors 7 and 64, output layers dense."""
    actor, critic = ({"in": (n, 256), "hidden": (256, 256)} for n in (17, 23))
    budget = erdos_renyi_links({"in": 7, "hidden": 64})
    kept = budget(actor, 1.0), budget(critic, 1.0)
    got = kept[0]["in"], kept[1]["in"], kept[0]["hidden"], kept[1]["hidden"]
    assert got == pytest.approx((0.4391, 0.3317, 0.5, 0.5), abs=5e-5)
    links = [
        sum(s[0] * s[1] * d[name] for name, s in shapes.items())
        for shapes, d in zip((actor, critic), kept, strict=True)
    ]
    assert 1 - (links[0] + 2 * links[1] + 256 * (6 + 2)) / 214_784 == pytest.approx(0.51, abs=0.005)
    assert erdos_renyi_links(7)({"thin": (3, 4), "conv": (3, 3, 64, 64)}, 1.0) == {
        "thin": 1.0,  # of 12 weights
        "conv": 7 * 128 / 64**2,
    }


def test_links_refuse_a_density_and_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"density must be 1 .* got 0\.1"):
        erdos_renyi_links(7)({"a": (2, 2)}, 0.1)
    with pytest.raises(ValueError, match="no factor for the layer 'b'; the layers are a, b"):
        erdos_renyi_links({"a": 7})({"a": (2, 2), "b": (2, 2)}, 1.0)
    with pytest.raises(ValueError, match="a factor for no layer: 'c'; the layers are a"):
        erdos_renyi_links({"a": 7, "c": 7})({"a": (2, 2)}, 1.0)


def test_budgets_refuse_a_sparsity() -> None:
    with pytest.raises(ValueError, match=r"For a sparsity s, pass density = 1 - s"):
        uniform({"a": (2, 2)}, -0.1)
