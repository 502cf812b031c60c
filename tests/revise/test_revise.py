"""Revisions: exact counts, what is trained, what is cleared, and what is refused."""

import copy
import dataclasses
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

import jsparse as js
from jsparse._revise.pause import pausing
from jsparse._revise.transform import Revise
from tests.support.revising import (
    INNERS,
    REVISIONS,
    SHAPE,
    applied,
    gradients,
    kernels,
    labels,
    run,
    tree,
)

pytestmark = pytest.mark.standard_dtypes  # optax itself needs it


@pytest.fixture(scope="module")
def runs() -> dict:
    with jax.numpy_dtype_promotion("standard"):
        return {
            name: run(js.revise(optax.adamw(0.1), (".*", by)), tree())
            for name, by in REVISIONS.items()
        }


@pytest.mark.parametrize("name", REVISIONS)
def test_masks_are_masks_and_change_when_due(name: str, runs: dict) -> None:
    _, masks = kernels(runs[name])
    assert set(np.unique(masks)) == {0.0, 1.0}
    changed = [bool((a != b).any()) for a, b in zip(masks[1:], masks[:-1], strict=True)]
    due = [bool(REVISIONS[name].due(jnp.array(n))) for n in range(1, 8)]
    assert changed == due and any(due) and not all(due)


def test_gradual_follows_its_curve_to_the_weight() -> None:
    by = js.Gradual(density=0.1, first=1, last=7, every=2, start=0.9)
    full = tree(density=2.0)
    weights, masks = kernels(run(js.revise(optax.sgd(0.1), (".*", by)), full, 8))
    curve = [0.1 + 0.8 * (1 - (t - 1) / 6) ** 3 for t in (1, 3, 5, 7)]
    n1, n3, n5, n7 = (round(d * masks[0].size) for d in curve)
    assert masks.sum((1, 2)).tolist() == [128, n1, n1, n3, n3, n5, n5, n7, n7]
    for before, after, weight in zip(masks[:-1], masks[1:], weights[1:], strict=True):
        if (before != after).any():  # the largest stay
            size = np.abs(weight)
            assert size[after == 1].min() >= size[after == 0].max()


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_an_exchange_keeps_the_number(name: str, runs: dict) -> None:
    _, masks = kernels(runs[name])
    assert len(set(masks.sum((1, 2)))) == 1


def exchanged(mask: np.ndarray, weight: np.ndarray, growth: np.ndarray, number: int) -> np.ndarray:
    """Algorithm 1 of the RigL paper, by sorting."""
    flat, size = mask.ravel().copy(), np.abs(weight).ravel()
    on = np.flatnonzero(flat)
    flat[on[np.argsort(size[on], kind="stable")[:number]]] = 0
    off = np.flatnonzero(flat == 0)
    flat[off[np.argsort(-growth.ravel()[off], kind="stable")[:number]]] = 1
    return flat.reshape(mask.shape)


def test_rigl_is_the_rule_of_the_paper() -> None:
    by = js.RigL(last=9, every=3, fraction=0.6)
    seen = run(js.revise(optax.sgd(0.1), (".*", by)), tree(), 6)
    weights, masks = kernels(seen)
    for step in (3, 6):
        kept = masks[step - 1].sum()
        number = round(0.3 * (1 + np.cos(np.pi * step / 9)) * kept)
        dense = np.asarray(gradients(seen[step - 1][0], step - 1)["kernel"]["mask"])
        expected = exchanged(masks[step - 1], weights[step - 1], np.abs(dense), number)
        np.testing.assert_array_equal(masks[step], expected)


@pytest.mark.parametrize("inner", INNERS)
def test_what_enters_or_leaves_is_0_and_has_no_moments(inner: str) -> None:
    seen = run(js.revise(INNERS[inner](), (".*", REVISIONS["rigl"])), tree(), 4)
    weights, masks = kernels(seen)
    moved = masks[4] != masks[3]
    assert moved.sum() > 4
    assert (weights[4][moved] == 0).all()
    moments = [x for x in jax.tree.leaves(seen[4][1]) if jnp.shape(x) == SHAPE]
    assert moments and all((np.asarray(m)[moved] == 0).all() for m in moments)
    before = [np.asarray(x) for x in jax.tree.leaves(seen[3][1]) if jnp.shape(x) == SHAPE]
    assert any((m[moved] != 0).any() for m in before)
    kept = (masks[4] == 1) & ~moved
    assert any((np.asarray(m)[kept] != 0).any() for m in moments)


@pytest.mark.parametrize("name", REVISIONS)
def test_masked_weights_stand_still(name: str, runs: dict) -> None:
    """Neither momentum nor decay moves them; the others move on every step that trains."""
    weights, masks = kernels(runs[name])
    by = REVISIONS[name]
    for n in range(1, len(masks)):
        changed = weights[n] != weights[n - 1]
        cleared = (masks[n] != masks[n - 1]) & by.clears
        trained = np.asarray(by.trained(jnp.array(masks[n - 1]), jnp.array(weights[n - 1]))) == 1
        assert (trained >= (masks[n - 1] == 1)).all()
        assert not changed[~trained & ~cleared].any()
        if not (by.pauses and by.due(jnp.array(n))):
            assert changed[trained & ~cleared].all()


def test_a_pause_trains_nothing_and_counts_nothing() -> None:
    seen = run(js.revise(optax.adam(1e-2), (".*", REVISIONS["rigl"])), tree(), 3)
    kept = np.asarray(seen[1][0]["kernel"]["mask"] * seen[2][0]["kernel"]["mask"])
    before, after = (np.asarray(seen[n][0]["kernel"]["weight"]) * kept for n in (1, 2))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(seen[1][0]["bias"], seen[2][0]["bias"])
    counts = [int(optax.tree_utils.tree_get(state.inner, "count")) for _, state in seen]
    assert counts == [0, 1, 1, 2]


@pytest.mark.parametrize("name", REVISIONS)
@pytest.mark.parametrize("inner", ["sgd", "clipped adamw", "accumulated", "partitioned"])
def test_apply_is_update_and_apply_updates(inner: str, name: str) -> None:
    tx = js.revise(INNERS[inner](), (".*", REVISIONS[name]))
    one, other = run(tx, tree(), 4), applied(tx, tree(), 4)
    chex.assert_trees_all_close(one, other, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(kernels(one)[1], kernels(other)[1])


def test_a_pause_keeps_the_whole_state() -> None:
    """One that is passed on, one that stands for two, and one that a branch makes."""

    def update(state: Any) -> tuple[Array, Any]:
        big, small, same = state
        new = jax.lax.cond(big > 0, lambda: big * 2, lambda: big * 3)
        return new + small, (new, new, same)

    state = (jnp.array(2.0), jnp.array(5.0), jnp.array(7.0))
    paused = jax.jit(lambda pause: pausing(update, state, pause))
    updates, new = paused(False)
    assert (float(updates), [float(x) for x in new]) == (9.0, [4.0, 4.0, 7.0])
    assert [float(x) for x in paused(True)[1]] == [2.0, 5.0, 7.0]


def test_a_pause_of_a_state_that_changes_its_type() -> None:
    narrow = lambda state: (state.astype(jnp.bfloat16) * 2, (state + 1).astype(jnp.bfloat16))
    assert [float(x) for x in pausing(narrow, jnp.array(1.0), jnp.array(False))] == [2.0, 2.0]
    with pytest.raises((TypeError, ValueError)):
        pausing(lambda state: (state, (state,)), jnp.array(1.0), jnp.array(False))


def test_it_is_rebuilt_with_its_apply() -> None:
    tx = js.revise(optax.sgd(0.1), (".*", REVISIONS["rigl"]))
    for other in (jax.tree.map(lambda x: x, tx), copy.deepcopy(tx), tx._replace(init=tx.init)):
        assert isinstance(other, Revise) and callable(other.apply)


def test_a_step_that_changes_no_mask_copies_nothing() -> None:
    """So that masks cost nothing on most steps: all that stays is left in place."""
    start = {"weight": jnp.ones((128, 64)), "mask": jnp.ones((128, 64))}
    tx = js.revise(optax.sgd(0.1, momentum=0.9), (".*", REVISIONS["rigl"]))
    step = jax.jit(
        lambda tree, state, x: tx.apply(jax.tree.map(lambda w: x[0] * w, tree), state, tree),
        donate_argnums=(0, 1),
    )
    text = step.lower(start, tx.init(start), jnp.ones(1)).compile().as_text()
    assert "conditional(" in text and not re.search(r"f32\[128,64\]\S* copy\(", text)


def test_a_mask_without_a_revision_stays() -> None:
    two = {"a": tree()["kernel"], "b": tree()["kernel"]}
    tx = js.revise(optax.adamw(0.1), ("a", js.Gradual(density=0.1, last=1)))
    grads = jax.tree.map(jnp.ones_like, two)
    changes, _ = tx.update(grads, tx.init(two), two)
    new = optax.apply_updates(two, changes)
    assert int(new["a"]["mask"].sum()) == 13
    np.testing.assert_array_equal(new["b"]["mask"], two["b"]["mask"])
    still = np.asarray(new["b"]["weight"] == two["b"]["weight"])
    np.testing.assert_array_equal(still, two["b"]["mask"] == 0)


def test_accumulation_outside_is_one_step_with_the_mean() -> None:
    start = tree()
    tx = js.revise(optax.adam(1e-2), (".*", js.RigL(last=9, every=2, fraction=0.5)))
    outside = optax.MultiSteps(tx, every_k_schedule=2)
    update, single = jax.jit(outside.update), jax.jit(tx.update)
    many, once = (start, outside.init(start)), (start, tx.init(start))
    for step in range(3):
        pair = [gradients(once[0], 2 * step + n) for n in range(2)]
        for one in pair:
            changes, state = update(one, many[1], many[0])
            many = (optax.apply_updates(many[0], changes), state)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *pair)
        changes, state = single(mean, once[1], once[0])
        once = (optax.apply_updates(once[0], changes), state)
        np.testing.assert_array_equal(many[0]["kernel"]["mask"], once[0]["kernel"]["mask"])
        np.testing.assert_allclose(many[0]["kernel"]["weight"], once[0]["kernel"]["weight"], 1e-5)
    assert (many[0]["kernel"]["mask"] != start["kernel"]["mask"]).any()


def test_partition_outside() -> None:
    """The rest has an optimizer of its own, which never sees the pairs."""
    tx = optax.partition(
        {"kernel": js.revise(optax.sgd(0.1), (".*", REVISIONS["rigl"])), "rest": optax.sgd(0.1)},
        labels,
    )
    alone = js.revise(optax.sgd(0.1), (".*", REVISIONS["rigl"]))
    both, one = run(tx, tree(), 4)[-1][0], run(alone, tree(), 4)[-1][0]
    jax.tree.map(np.testing.assert_array_equal, both["kernel"], one["kernel"])
    assert (both["bias"] != one["bias"]).all()


def test_clipping_inside_counts_what_is_trained_only() -> None:
    start = tree()
    clipped = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    tx = js.revise(clipped, (".*", js.Gradual(density=0.1, first=5, last=9)))
    grads = gradients(start, 0)
    changes, _ = tx.update(grads, tx.init(start), start)
    weights = {"bias": grads["bias"], "norm": grads["norm"], "weight": grads["kernel"]["weight"]}
    norm = optax.tree_utils.tree_norm(weights)
    np.testing.assert_allclose(
        changes["kernel"]["weight"], -0.1 * weights["weight"] / norm, rtol=1e-5
    )
    assert not changes["kernel"]["mask"].any()


def changed_mask(by: js.Revision, seed: Array) -> Array:
    """The update of the mask at the first step."""
    start = tree()
    tx = js.revise(optax.sgd(0.1), (".*", by))
    changes, _ = tx.update(gradients(start, 0), tx.init(start)._replace(seed=seed), start)
    return changes["kernel"]["mask"]


@pytest.mark.parametrize("name", ["set", "rigl", "usn"])
def test_the_seed_decides(name: str) -> None:
    by = dataclasses.replace(REVISIONS[name], **({} if name == "usn" else {"every": 1}))
    first = jax.jit(lambda seed: changed_mask(by, seed))
    np.testing.assert_array_equal(first(3), first(3))
    assert (first(3) != first(4)).any() == (name != "rigl")
    start, tx = tree(), js.revise(optax.sgd(0.1), (".*", by), seed=3)
    changes, _ = jax.jit(tx.update)(gradients(start, 0), tx.init(start), start)
    np.testing.assert_array_equal(changes["kernel"]["mask"], first(3))


def test_seeds_of_one_program() -> None:
    """Runs that differ in their seed alone, as in a sweep."""
    by = js.SET(last=8, every=1, fraction=0.5)
    once = lambda seed: changed_mask(by, seed)
    many, alone = jax.vmap(once)(jnp.arange(3)), jax.jit(once)
    for seed in range(3):
        np.testing.assert_array_equal(many[seed], alone(seed))


PAIR = {"weight": jnp.ones((2, 3)), "mask": jnp.ones((2, 3))}
MOVES = (".*", REVISIONS["rigl"])


def test_further_arguments_come_without_masks() -> None:
    """Those of a line search: gradients, and a function of the whole tree."""
    forms = set()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        value, slopes = extra["value_fn"](params, scale=2.0)
        forms.update(jax.tree.structure(one) for one in (params, extra["grad"], slopes))
        return jax.tree.map(lambda update: value * update, updates), state

    tx = js.revise(optax.GradientTransformationExtraArgs(lambda _: (), update), MOVES)
    value_fn = lambda tree, scale: (scale * tree["mask"].sum(), tree)
    found, _ = tx.update(PAIR, tx.init(PAIR), PAIR, grad=PAIR, value_fn=value_fn, value=3.0)
    assert len(forms) == 1 and (found["weight"] == 12).all()


def test_the_inner_transform_starts_without_masked_weights() -> None:
    keeps = optax.GradientTransformation(lambda params: params, lambda *given: given[:2])
    tree = PAIR | {"mask": jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])}
    start = js.revise(keeps, MOVES).init(tree).inner["weight"]
    np.testing.assert_array_equal(start, tree["mask"])


# What is refused.

REFUSED = {
    "no pairs": (lambda: js.revise(optax.sgd(0.1)), ValueError, "revisions: none given"),
    "not a pair": (
        lambda: js.revise(optax.sgd(0.1), js.SET(last=100)),
        ValueError,
        "is a pair such as",
    ),
    "class": (lambda: js.revise(optax.sgd(0.1), (".*", js.SET)), TypeError, "pass an instance"),
    "rule": (lambda: js.revise(optax.sgd(0.1), (".*", js.Held())), TypeError, "is not a revision"),
    "pattern": (
        lambda: js.revise(optax.sgd(0.1), ("z", MOVES[1])).init({"a": PAIR}),
        ValueError,
        "matches no parameter",
    ),
    "no masks": (
        lambda: js.revise(optax.sgd(0.1), MOVES).init({"a": jnp.ones(3)}),
        ValueError,
        r"wrt=\(nnx.Param, jsparse.Mask\)",
    ),
    "no weight": (
        lambda: js.revise(optax.sgd(0.1), MOVES).init({"a": {"mask": jnp.ones(3)}}),
        ValueError,
        "the mask 'a/mask' has no weight",
    ),
    "shape": (
        lambda: js.revise(optax.sgd(0.1), MOVES).init({"a": PAIR | {"mask": jnp.ones(3)}}),
        ValueError,
        r"a: the mask has shape \(3,\)",
    ),
    "gradients of single examples": (
        lambda: MOVES[1](*PAIR.values(), jnp.ones((5, 2, 3)), step=jnp.array(2), key=None),
        ValueError,
        r"RigL got a gradient of shape \(5, 2, 3\) for a mask \(2, 3\); average",
    ),
    **{
        f"mask of {kind}": (
            lambda kind=kind: js.revise(optax.sgd(0.1), MOVES).init(
                {"a": PAIR | {"mask": np.ones((2, 3), kind)}}
            ),
            TypeError,
            r"a: a mask to revise has the type of its weight; got an array .*\[2, 3\], so make",
        )
        for kind in ("str", "object", "bool", "int8")
    },
    "gradients": (
        lambda: (tx := js.revise(optax.sgd(0.1), MOVES)).update(
            {"weight": PAIR["weight"]}, tx.init(PAIR), PAIR
        ),
        ValueError,
        "differ at 'mask'; masks need gradients",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_gradients_that_are_not_finite_take_no_more_than_their_share() -> None:
    by = js.RigL(last=10, every=1, fraction=0.3)
    mask, weight = jnp.array([0.0, 0, 0, 0, 1, 1, 1, 1]), jnp.array([0.0, 0, 0, 0, 1, 2, 3, 4])
    gradient = jnp.array([jnp.inf] * 4 + [0.0] * 4)
    new = by(mask, weight, gradient, step=jnp.array(1), key=jax.random.key(0))
    assert new.tolist() == [1, 0, 0, 0, 0, 1, 1, 1]
    for gradient, grown in (
        (jnp.full(8, jnp.nan), [1, 0, 0, 0, 0, 1, 1, 1]),
        (jnp.full(8, jnp.nan).at[1].set(0.0), [0, 1, 0, 0, 0, 1, 1, 1]),
    ):
        new = by(mask, weight, gradient, step=jnp.array(1), key=jax.random.key(0))
        assert new.tolist() == grown


def test_parts_of_units_are_refused_at_the_start() -> None:
    tree = {"weight": jnp.ones((4, 4)), "mask": jnp.eye(4)}
    tx = js.revise(optax.sgd(0.1), (".*", js.RigL(last=9, every=1, unit=js.Filter())))
    with pytest.raises(ValueError, match="keeps parts of Filter"):
        tx.init(tree)
    tree["mask"] = jnp.ones((4, 4)).at[:, 1:].set(0.0)
    state = tx.init(tree)
    with pytest.raises(ValueError, match="revise needs the tree itself"):
        tx.update(tree, state)


def test_a_parameter_of_ones_own_may_be_called_mask() -> None:
    params = {"a": {"kernel": jnp.ones((3, 4)), "mask": jnp.ones(3)}}
    _, held = js.tree.init({"a/kernel": js.Held()}, params, jax.random.key(0))
    tx = js.revise(optax.sgd(0.1), (".*", js.SET(last=5, every=1)))
    state = tx.init((params, held))
    assert int(state.steps) == 0


def test_optax_maps_over_the_state_of_the_inner_transform() -> None:
    tx = js.revise(optax.adam(0.1), (".*", js.SET(last=5, every=1)))
    state = tx.init({"weight": jnp.ones(4), "mask": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"has no arrays.*give it tx\.inner and state\.inner"):
        optax.tree_map_params(tx, jnp.zeros_like, state)
    mapped = optax.tree_map_params(tx.inner, jnp.ones_like, state.inner)
    assert mapped[0].mu["weight"].tolist() == [1] * 4
