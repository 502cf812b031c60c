"""Revisions in NNX and Linen models, stacked layers, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import Array

import jsparse as js
from tests.support.cases import Stacked
from tests.support.revising import INNERS, REVISIONS, gradients, run, tree
from tests.support.stacks import takes_masked

pytestmark = pytest.mark.standard_dtypes  # optax itself needs it


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


@takes_masked
def test_inner_moments_of_some_weights_only() -> None:
    model = held(Net(nnx.Rngs(0)), 0.4)
    label = lambda tree: jax.tree.map(lambda leaf: "adam" if leaf.ndim > 1 else "sgd", tree)
    inner = optax.partition({"adam": optax.adam(1e-2), "sgd": optax.sgd(1e-2)}, label)
    tx = js.revise(inner, (".*", REVISIONS["rigl"]))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    losses = [float(train_step(model, optimizer)) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_gradients_of_more_than_is_trained() -> None:
    model = held(Net(nnx.Rngs(0)), 0.4)
    tx = js.revise(optax.sgd(0.1), (".*", REVISIONS["rigl"]))
    optimizer = js.Optimizer(model, tx, wrt=BOTH)
    more = (*BOTH, nnx.BatchStat)
    grads = nnx.grad(lambda m: m(X).sum(), argnums=nnx.DiffState(0, more))(model)
    optimizer.update(model, grads)
    assert int(optimizer.step[...]) == 1


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


def momentum(name: str):
    return js.revise(optax.sgd(0.1, momentum=0.9), (".*", REVISIONS[name]))


@functools.cache
def on_one_device(name: str) -> list:
    return run(momentum(name), tree(), 4)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", REVISIONS)
def test_eight_devices_agree_with_one_and_gather_nothing(name: str, kind: str) -> None:
    tx, expected = momentum(name), on_one_device(name)
    start = expected[0][0]
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


CLIP = optax.clip_by_global_norm(0.1)
AT = ("kernel", js.RigL(every=2, last=9))
ALL = lambda tree: jax.tree.map(lambda _: "all", tree)
by_rate = lambda make: optax.inject_hyperparams(make)(rate=0.1)
wrong = lambda: optax.chain(CLIP, js.revise(optax.sgd(0.1), AT))
right = lambda rate=0.1: js.revise(optax.chain(CLIP, optax.sgd(rate)), AT)
REFUSED = {
    "before": wrong,
    "after": lambda: optax.chain(js.revise(optax.sgd(0.1), AT), CLIP),
    "nested": lambda: optax.chain(wrong(), CLIP),
    "named": lambda: optax.named_chain(("clip", CLIP), ("by", js.revise(optax.sgd(0.1), AT))),
    "accumulated": lambda: optax.MultiSteps(wrong(), 1),
    "partition": lambda: optax.partition({"all": wrong()}, ALL),
    "masked": lambda: optax.masked(wrong(), lambda tree: jax.tree.map(lambda _: True, tree)),
    "injected": lambda: by_rate(lambda rate: optax.chain(CLIP, js.revise(optax.sgd(rate), AT))),
    "finite": lambda: optax.apply_if_finite(wrong(), 3),
    "schedule_free": lambda: optax.contrib.schedule_free(right(), 0.1, 0.9),
    "mechanize": lambda: optax.contrib.mechanize(right()),
}
ALIKE = {
    "accumulated": lambda: optax.MultiSteps(right(), 1),
    "partition": lambda: optax.partition({"all": right()}, ALL),
    "masked": lambda: optax.masked(right(), lambda tree: jax.tree.map(lambda _: True, tree)),
    "injected": lambda: by_rate(right),
    "finite": lambda: optax.apply_if_finite(right(), 3),
    "extra": lambda: optax.with_extra_args_support(right()),
}


def revised(tx: optax.GradientTransformation) -> tuple[np.ndarray, np.ndarray]:
    """Weight and mask after three steps."""
    wrt = (nnx.Param, js.Mask)
    model = js.sparsify(nnx.Linear(8, 6, use_bias=False, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    model = js.prune.random(model, density=0.3, key=jax.random.key(0))
    optimizer = js.Optimizer(model, tx, wrt=wrt)
    x = jax.random.normal(jax.random.key(1), (16, 8))
    for _ in range(3):
        grads = nnx.grad(lambda m: 9 * (m(x) ** 2).mean(), argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads)
    return np.asarray(model.kernel.weight[...]), np.asarray(model.kernel.mask[...])


@pytest.mark.parametrize("order", REFUSED)
def test_what_changes_the_updates_of_a_revision_is_refused(order: str) -> None:
    model = js.sparsify(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), ("kernel", js.Held()))
    with pytest.raises(ValueError, match=r"put the chain inside: revise\(optax\.chain"):
        js.Optimizer(model, REFUSED[order](), wrt=(nnx.Param, js.Mask))


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("order", ALIKE)
def test_what_may_be_around_a_revision_changes_nothing(order: str) -> None:
    for one, two in zip(documented(), revised(ALIKE[order]()), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


documented = functools.cache(lambda: revised(right()))


def test_layers_of_a_stack_never_compete_unnoticed() -> None:
    model = js.sparsify(Stacked(nnx.Rngs(0)), (".*/kernel", js.Held()))
    pair, trained = (".*/kernel", js.RigL(every=2, last=9)), (nnx.Param, js.Mask)
    with pytest.raises(ValueError, match=r"layers/kernel stacks 3 layers.*roles=jsparse\.roles"):
        js.Optimizer(model, js.revise(optax.sgd(0.1), pair), wrt=trained)
    js.Optimizer(model, js.revise(optax.sgd(0.1), pair, roles=js.roles(model)), wrt=trained)
