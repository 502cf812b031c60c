"""Revisions: exact counts, what is trained, what is cleared, and every place they must work in."""

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
from flax import linen, nnx
from jax import Array

import jsparse as js
from jsparse.revise import Revise
from jsparse.revise.pause import pausing
from tests.cases import Stacked

pytestmark = pytest.mark.standard_dtypes  # optax itself needs it

REVISIONS = {
    "gradual": js.Gradual(density=0.25, last=6, every=2),
    "set": js.SET(last=6, every=2, fraction=0.5),
    "rigl": js.RigL(last=8, every=2, fraction=0.5),
    "top-kast": js.TopKAST(density=0.25, backward=0.5, every=2),
    "ac/dc": js.ACDC(density=0.25, first=2, every=2, last=6),
    "usn": js.USN(density=0.25),
}
SHAPE = (8, 16)


def labels(tree: Any) -> Any:
    """Kernels to one optimizer, the rest to another."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" if "kernel" in jax.tree_util.keystr(path) else "rest",
        tree,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),  # flax 0.11 asks for it
    )


INNERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2),
    "lion": lambda: optax.lion(1e-2),
    "lamb": lambda: optax.lamb(1e-2),
    "sm3": lambda: optax.sm3(1e-2, momentum=0.9),
    "muon": lambda: optax.contrib.muon(1e-2),
    "clipped adamw": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": lambda: optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
    "partitioned": lambda: optax.partition(
        {"kernel": optax.adam(1e-2), "rest": optax.sgd(0.1)}, labels
    ),
    "frozen rest": lambda: optax.masked(
        optax.adam(1e-2), lambda tree: jax.tree.map(lambda label: label == "kernel", labels(tree))
    ),
}


def tree(density: float = 0.5) -> dict:
    """A layer with a bias and a norm, and its mask."""
    keys = jax.random.split(jax.random.key(0), 2)
    mask = (jax.random.uniform(keys[0], SHAPE) < density).astype(jnp.float32)
    kernel = {"weight": jax.random.normal(keys[1], SHAPE), "mask": mask}
    return {"kernel": kernel, "bias": jnp.zeros(SHAPE[1]), "norm": {"scale": jnp.ones(SHAPE[1])}}


def gradients(like: dict, step: int) -> dict:
    """Of some loss: the mask receives the dense one, the weight what the mask lets through."""
    key = jax.random.fold_in(jax.random.key(1), step)
    random = jax.tree.map(lambda x: jax.random.normal(key, x.shape), like)
    kernel = random["kernel"] | {"weight": random["kernel"]["mask"] * like["kernel"]["mask"]}
    return random | {"kernel": kernel}


def run(tx: Any, start: dict, steps: int = 7) -> list[tuple[dict, Any]]:
    """The tree and the state of the optimizer after each step, the start first."""
    update = jax.jit(tx.update)
    seen = [(start, tx.init(start))]
    for step in range(steps):
        now, state = seen[-1]
        changes, state = update(gradients(now, step), state, now)
        seen.append((optax.apply_updates(now, changes), state))
    return seen


def applied(tx: Any, start: dict, steps: int = 7) -> list[tuple[dict, Any]]:
    """`run` by `apply`."""
    apply = jax.jit(tx.apply)
    seen = [(start, tx.init(start))]
    for step in range(steps):
        now, state = seen[-1]
        seen.append(apply(gradients(now, step), state, now))
    return seen


def kernels(seen: list) -> tuple[np.ndarray, np.ndarray]:
    """Weights and masks of a run, [steps, ...]."""
    return tuple(np.stack([t["kernel"][n] for t, _ in seen]) for n in ("weight", "mask"))  # type: ignore


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


def test_gradients_of_more_than_is_trained() -> None:
    model = held(Net(nnx.Rngs(0)), 0.4)
    tx = js.revise(optax.sgd(0.1), (".*", REVISIONS["rigl"]))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    more = (*BOTH, nnx.BatchStat)
    grads = nnx.grad(lambda m: m(X).sum(), argnums=nnx.DiffState(0, more))(model)
    optimizer.update(model, grads)
    assert int(optimizer.step[...]) == 1


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


# Models.


class Net(nnx.Module):
    """Kernels, biases and a norm."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(6, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.second(nnx.relu(self.norm(self.first(x))))


X = jax.random.normal(jax.random.key(1), (32, 6))
BOTH = (nnx.Param, js.Mask)


@nnx.jit
def train_step(model: nnx.Module, optimizer: nnx.Optimizer) -> Array:
    loss, grads = nnx.value_and_grad(
        lambda model: ((model(X) - X[:, :3]) ** 2).mean(), argnums=nnx.DiffState(0, BOTH)
    )(model)
    optimizer.update(model, grads)
    return loss


def held(model: nnx.Module, density: float) -> nnx.Module:
    """The model with random masks."""
    model = js.sparsify(model, (".*/kernel", js.Held()))
    masks = {
        path: (jax.random.uniform(jax.random.key(n), mask.shape) < density).astype(jnp.float32)
        for n, (path, mask) in enumerate(js.masks(model).items())
    }
    return js.hold(model, masks)


@pytest.mark.parametrize("inner", ["adam", "accumulated", "partitioned"])
def test_nnx_models(inner: str) -> None:
    model = held(Net(nnx.Rngs(0)), 0.4)
    before = js.masks(model)
    tx = js.revise(
        INNERS[inner](), ("second/.*", js.Gradual(density=0.2, last=4)), (".*", REVISIONS["rigl"])
    )
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    losses = [float(train_step(model, optimizer)) for _ in range(12)]
    after = js.masks(model)
    assert losses[-1] < losses[0]
    assert int(after["first/kernel"].sum()) == int(before["first/kernel"].sum())
    assert (after["first/kernel"] != before["first/kernel"]).any()
    assert int(after["second/kernel"].sum()) == round(0.2 * 48)
    folded = js.fold(model)
    np.testing.assert_array_equal(folded.first.kernel[...] == 0, after["first/kernel"] == 0)


def test_stacked_layers_are_revised_one_by_one() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Held()))
    tx = js.revise(optax.sgd(0.1), (".*", js.Gradual(density=0.25, last=1)), roles=js.roles(model))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    x = jnp.ones((2, 4))
    grads = nnx.grad(lambda model: model(x).sum(), argnums=nnx.DiffState(0, BOTH))(model)
    optimizer.update(model, grads)
    assert js.masks(model)["layers/kernel"].sum((1, 2)).tolist() == [4, 4, 4]


def test_attention_biases_are_no_kernels() -> None:
    model = js.sparsify(
        nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)), (".*/kernel", js.Held())
    )
    tx = js.revise(optax.sgd(0.1), (".*", js.Gradual(density=0.25, last=1)), roles=js.roles(model))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer) -> None:
        loss = lambda model: (model(x) ** 2).sum()
        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, BOTH))(model))

    step(model, optimizer)
    assert {path: int(m.sum()) for path, m in js.masks(model).items()} == {
        f"{name}/kernel": 4 for name in ("query", "key", "value", "out")
    }
    assert model.query.bias[...].ndim == 2 and (model.value.bias[...] != 0).all()


def test_linen_params() -> None:
    class Small(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            return linen.Dense(3)(linen.LayerNorm()(linen.Dense(16)(x)))

    params = Small().init(jax.random.key(0), X)["params"]
    plan = js.tree.plan(params, (".*/kernel", js.Held()))
    learned, masks = js.tree.init(plan, params, jax.random.key(0))

    def loss(trained: tuple) -> Array:
        read = js.tree.apply(plan, trained[0], learned, trained[1])
        return (Small().apply({"params": read}, X) ** 2).mean()  # type: ignore

    tx = js.revise(optax.adam(1e-2), (".*/kernel", js.Gradual(density=0.25, last=2)))
    trained = (params, masks)
    state = tx.init(trained)
    step = jax.jit(lambda trained, state: tx.update(jax.grad(loss)(trained), state, trained))
    for _ in range(2):
        changes, state = step(trained, state)
        trained = optax.apply_updates(trained, changes)
    assert sorted(int(m["mask"].sum()) for m in trained[1].values()) == [12, 24]


def test_blocks_with_ragged_edges() -> None:
    by = js.Gradual(density=0.5, last=1, unit=js.Block((2, 3)))
    pair = {"weight": jax.random.normal(jax.random.key(0), (5, 7)), "mask": jnp.ones((5, 7))}
    tx = js.revise(optax.sgd(0.1), (".*", by))
    changes, _ = tx.update(jax.tree.map(jnp.ones_like, pair), tx.init(pair), pair)
    mask = np.asarray(optax.apply_updates(pair, changes)["mask"])
    blocks = [mask[i : i + 2, j : j + 3] for i in (0, 2, 4) for j in (0, 3, 6)]
    assert all(len(np.unique(block)) == 1 for block in blocks)
    assert sum(block[0, 0] for block in blocks) == 4  # round(4.5)


# Devices.


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", REVISIONS)
def test_eight_devices_agree_with_one_and_gather_nothing(name: str, kind: str) -> None:
    tx = js.revise(optax.sgd(0.1, momentum=0.9), (".*", REVISIONS[name]))
    start = tree()
    expected = run(tx, start, 4)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    with jax.set_mesh(mesh):
        place = lambda x: jax.device_put(
            x, jax.sharding.NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "x"))
        )
        now = jax.tree.map(place, start)
        state = tx.init(now)
        grads = [jax.tree.map(place, gradients(expected[n][0], n)) for n in range(4)]
        update = jax.jit(tx.update).lower(grads[0], state, now).compile()
        apply = jax.jit(tx.apply).lower(grads[0], state, now).compile()
        for n in range(4):
            new, _ = apply(*jax.device_put((grads[n], state, now), apply.input_shardings[0]))
            given = jax.device_put((grads[n], state, now), update.input_shardings[0])
            changes, state = update(*given)
            now = optax.apply_updates(now, changes)
            for mask in (now["kernel"]["mask"], new["kernel"]["mask"]):
                np.testing.assert_array_equal(mask, expected[n + 1][0]["kernel"]["mask"])
        for text in (update.as_text(), apply.as_text()):
            assert "all-gather" not in text
            assert "all-reduce" in text or name == "usn"  # it looks at no weight


# What is refused.

PAIR = {"weight": jnp.ones((2, 3)), "mask": jnp.ones((2, 3))}
MOVES = (".*", REVISIONS["rigl"])
REFUSED = {
    "no pairs": (lambda: js.revise(optax.sgd(0.1)), ValueError, "no revisions given"),
    "not a pair": (
        lambda: js.revise(optax.sgd(0.1), js.SET(last=100)),
        ValueError,
        "is a pair such as",
    ),
    "class": (lambda: js.revise(optax.sgd(0.1), (".*", js.SET)), TypeError, "give an instance"),
    "rule": (lambda: js.revise(optax.sgd(0.1), (".*", js.Held())), TypeError, "no revision"),
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


def test_an_infinite_gradient_takes_no_more_than_its_share() -> None:
    by = js.RigL(last=10, every=1, fraction=0.3)
    mask, weight = jnp.array([0.0, 0, 0, 0, 1, 1, 1, 1]), jnp.array([0.0, 0, 0, 0, 1, 2, 3, 4])
    gradient = jnp.array([jnp.inf] * 4 + [0.0] * 4)
    new = by(mask, weight, gradient, step=jnp.array(1), key=jax.random.key(0))
    assert new.tolist() == [1, 0, 0, 0, 0, 1, 1, 1]


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
