"""The methods of `revise` one by one, as the pure functions that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js

SHAPE = (12, 10)
WEIGHT = jax.random.normal(jax.random.key(0), SHAPE)
MASK = (jax.random.uniform(jax.random.key(1), SHAPE) < 0.5).astype(jnp.float32)
GRADIENT = jax.random.normal(jax.random.key(2), SHAPE)


def revised(by: js.Revision, step: int = 1, seed: int = 0, **given: Array) -> np.ndarray:
    """The mask that a revision makes of the arrays above."""
    given = {"mask": MASK, "weight": WEIGHT, "gradient": GRADIENT} | given
    return np.asarray(by(**given, step=jnp.array(step), key=jax.random.key(seed)))


def test_set_drops_the_smallest_and_grows_at_random() -> None:
    by = js.SET(last=9, every=1, fraction=0.25)
    mask, weight = np.asarray(MASK), np.asarray(WEIGHT)
    new = lambda n: revised(by, seed=n)
    left = round(0.75 * mask.sum())
    surely = mask * np.abs(weight) >= np.sort((mask * np.abs(weight)).ravel())[-left]
    assert all((new(n)[surely] == 1).all() for n in range(5))
    grown = np.mean([new(n) for n in range(50)], axis=0)[~surely]
    assert (grown > 0).all() and grown.std() < 0.12  # all of the others, equally often


def test_set_by_sign_drops_a_fraction_of_each_sign_as_its_authors_do() -> None:
    by = js.SET(last=9, every=1, fraction=0.25, by_sign=True)
    weight = jnp.where(jnp.arange(120).reshape(SHAPE) % 9 == 0, 0.0, WEIGHT + 0.4)  # more positive
    mask, values = np.asarray(MASK) > 0, np.asarray(weight)
    new = np.stack([revised(by, seed=n, weight=weight) for n in range(40)]) > 0
    assert (new.sum((1, 2)) == mask.sum()).all()
    surely = np.zeros(SHAPE, bool)
    for own in (mask & (values > 0), mask & (values < 0)):
        left = own.sum() - round(0.25 * own.sum())
        surely |= own & (np.abs(values) >= np.sort(np.abs(values[own]))[-left])
    plain = np.stack([revised(js.SET(last=9, every=1, fraction=0.25), seed=n) for n in range(2)])
    assert new[:, surely].all() and (plain[0] > 0)[~surely].any()
    assert (mask & (values == 0)).any()  # these have no sign and are dropped
    grown = new.mean(0)[~surely]
    assert (grown < 1).all() and (grown > 0).all()  # at random among all of the others


def test_by_sign_in_each_group() -> None:
    by = js.SET(last=9, every=1, fraction=0.5, by_sign=True, scope=js.PerOutput())
    weight = jnp.array([[1.0, 4.0], [2.0, 3.0], [-5.0, -0.1], [-6.0, -0.2], [0.0, 0.0]])
    mask = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    new = np.stack([revised(by, seed=n, mask=mask, weight=weight) for n in range(30)])
    assert new[:, [1, 3], 0].all() and new[:, [0, 3], 1].all() and (new.sum(1) == 4).all()
    assert (new.mean(0)[[0, 2, 4], 0] < 1).all() and (new.mean(0)[[1, 2, 4], 1] < 1).all()


@pytest.mark.parametrize("scope", [js.PerOutput(), js.Groups(4)], ids=["per output", "groups"])
@pytest.mark.parametrize("kind", [js.RigL, js.SET])
def test_each_group_keeps_its_number(kind: type, scope: js.PerOutput | js.Groups) -> None:
    new = revised(kind(last=10, every=1, fraction=1.0, scope=scope))
    apart = lambda mask: np.asarray(mask).reshape(12 if scope == js.PerOutput() else 4, -1, 10)
    axis = 0
    if isinstance(scope, js.Groups):
        apart, axis = (lambda mask: np.asarray(mask).reshape(3, 4, 10)), 1
    np.testing.assert_array_equal(apart(new).sum(axis), apart(MASK).sum(axis))
    assert (new != np.asarray(MASK)).any()


def test_units_are_exchanged_whole() -> None:
    columns = jnp.broadcast_to(jnp.arange(10) % 2, SHAPE).astype(jnp.float32)
    new = revised(js.RigL(last=9, every=1, fraction=1.0, unit=js.Filter()), 1, mask=columns)
    assert (new == new[:1]).all() and new[0].sum() == 5
    size = np.sqrt((np.asarray(GRADIENT) ** 2).sum(0))
    assert (new != columns).any() and size[new[0] == 0].min() < size[new[0] == 1].min()


def test_the_fraction_falls_as_a_cosine() -> None:
    by = js.RigL(last=100, every=10, fraction=0.4)
    got = [float(by.dropped(jnp.array(step))) for step in (0, 50, 100)]
    np.testing.assert_allclose(got, [0.4, 0.2, 0.0], atol=1e-7)


def test_exchanges_come_when_they_are_said_to() -> None:
    steps = lambda by: [n for n in range(1, 30) if bool(by.due(jnp.array(n)))]
    assert steps(js.RigL(last=20, every=7)) == [7, 14]
    assert steps(js.SET(last=21, every=7, first=1)) == [1, 8, 15]
    assert steps(js.Gradual(density=0.5, first=3, last=13, every=4)) == [3, 7, 11, 13]
    assert steps(js.TopKAST(density=0.1, backward=0.2, every=10)) == [10, 20]
    assert steps(js.USN(density=0.5)) == [1]


def test_top_kast_trains_the_mask_and_what_is_next() -> None:
    by = js.TopKAST(density=0.2, backward=0.5)
    mask = revised(by)
    size = np.abs(np.asarray(WEIGHT))
    assert mask.sum() == 24 and size[mask == 1].min() > size[mask == 0].max()
    trained = np.asarray(by.trained(jnp.array(mask), WEIGHT))
    assert trained.sum() == 60 and size[trained == 1].min() > size[trained == 0].max()
    weight = WEIGHT.at[0, 0].set(0.0).at[0, 1].set(-0.0)
    slope = np.asarray(jax.grad(by.cost, argnums=1)(jnp.array(mask), weight))
    np.testing.assert_allclose(slope, np.sign(weight) * np.where(mask == 1, 1.0, 5.0), rtol=1e-6)


def test_top_kast_trains_masked_weights_by_their_dense_gradient() -> None:
    import optax

    by = js.TopKAST(density=0.2, backward=0.5, every=2)
    mask = jnp.array(revised(by))
    pair, grads = {"weight": WEIGHT, "mask": mask}, {"weight": GRADIENT * mask, "mask": GRADIENT}
    tx = js.revise(optax.sgd(0.1), (".*", by))
    changes, _ = tx.update(grads, tx.init(pair), pair)
    expected = -0.1 * GRADIENT * by.trained(mask, WEIGHT)
    np.testing.assert_allclose(changes["weight"], expected, rtol=1e-6)


def test_ac_dc_takes_turns() -> None:
    by = js.ACDC(density=0.25, first=10, every=5, last=85)
    density = [float(revised(by, n).mean()) for n in (10, 15, 20, 25, 70, 75, 85)]
    assert density == [0.25, 1.0, 0.25, 1.0, 0.25, 1.0, 0.25]
    assert [n for n in range(1, 120) if bool(by.due(jnp.array(n)))] == [*range(10, 76, 5), 85]


LAYERS = {  # shape of the weight, density
    "even blocks": ((12, 4), 0.5),
    "wide": ((10, 23), 0.3),
    "tall": ((23, 10), 0.93),
    "very sparse": ((100, 10), 0.013),
    "full": ((5, 7), 1.0),
    "conv": ((3, 3, 4, 9), 0.2),
    "one input": ((1, 7), 0.5),
}


@pytest.mark.parametrize("case", LAYERS)
def test_usn_is_even_on_both_sides(case: str) -> None:
    shape, density = LAYERS[case]
    draw = jax.jit(js.USN(density=density).links, static_argnums=0)
    links = lambda seed: np.asarray(draw(shape, jax.random.key(seed)))
    table = links(0).reshape(-1, shape[-1])
    assert set(np.unique(table)) <= {0.0, 1.0} and table.sum() == round(density * table.size)
    for axis in (0, 1):
        counts = table.sum(axis)
        assert counts.max() - counts.min() <= 1
    assert (links(0) != links(1)).any() or density == 1


def test_usn_wires_units_apart() -> None:
    """No two inputs have the same outputs, as random wiring would have it."""
    table = np.asarray(js.USN(density=0.3).links((40, 20), jax.random.key(0)))
    assert len(np.unique(table, axis=0)) > 38 and len(np.unique(table, axis=1).T) == 20


def test_usn_reads_the_axes_of_attention() -> None:
    """[inputs, heads, width]: the outputs are the last two."""
    by = js.USN(density=0.25, role=js.Role(outputs=(-2, -1), inputs=(-3,), heads=(-2,)))
    table = np.asarray(by.links((16, 2, 4), jax.random.key(0)))
    assert (table.sum((1, 2)) == 2).all() and (table.sum(0) == 4).all()


def test_usn_before_training_needs_no_revision() -> None:
    model = js.sparsify(nnx.Linear(12, 8, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    wiring = js.USN(density=0.25).links((12, 8), jax.random.key(0))
    np.testing.assert_array_equal(js.masks(js.hold(model, {"kernel": wiring}))["kernel"], wiring)


REFUSED = {
    "span": (lambda: js.Gradual(density=0.1, first=3, last=3), "later than first"),
    "density": (lambda: js.Gradual(density=0.0, last=3), "density"),
    "every": (lambda: js.RigL(last=50, every=0), "every is a whole number of train steps"),
    "never": (lambda: js.RigL(last=50), "no step would exchange"),
    "fraction": (lambda: js.SET(last=500, fraction=1.5), "fraction must be a number in"),
    "sign of units": (
        lambda: js.SET(last=500, unit=js.Filter(), by_sign=True),
        r"needs unit=Weight\(\), .* got Filter\(\)",
    ),
    "each": (lambda: js.RigL(last=500, scope=js.Each()), "would keep all"),
    "whole model": (
        lambda: js.SET(last=500, scope=js.WholeModel()),
        "each layer by itself",
    ),
    "last": (lambda: js.ACDC(density=0.1, first=5, every=5, last=12), "a sparse and a dense phase"),
    "backward": (lambda: js.TopKAST(density=0.5, backward=0.2), "set backward to density"),
    "no density": (lambda: js.USN(density=1.5), "fraction of weights kept"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
