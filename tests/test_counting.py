"""Branches that stay branches when runs are mapped over, and do the same for each run."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array, lax

import jsparse as js
from jsparse._counting import any_under_vmap, count
from jsparse._topk import top


def branches(function: Callable, *args: Array) -> int:
    """The number of branches in the mapped computation."""
    return str(jax.make_jaxpr(jax.vmap(function))(*args)).count("cond[")


def test_a_branch_runs_if_one_element_needs_it() -> None:
    ran: list[int] = []

    def costly(x: Array) -> Array:
        jax.debug.callback(lambda: ran.append(1))
        return jnp.minimum(x, 8.0)

    def bounded(x: Array) -> Array:
        return lax.cond(any_under_vmap(x > 8), costly, lambda x: x, x)

    for x, runs in (([1.0, 2.0], 0), ([1.0, 9.0], 1)):
        ran.clear()
        out = jax.jit(jax.vmap(bounded))(jnp.array(x))
        jax.effects_barrier()
        np.testing.assert_array_equal(out, np.minimum(x, 8.0))
        assert bool(ran) == bool(runs)


def test_nested_maps_gradients_and_loops_keep_the_branch() -> None:
    def wave(x: Array) -> Array:
        return lax.cond(any_under_vmap(x.sum() < 8), lambda: jnp.sin(x), lambda: jnp.sin(x))

    x = jnp.arange(24.0).reshape(2, 3, 4)
    nested = jax.vmap(jax.vmap(wave))
    assert "cond[" in str(jax.make_jaxpr(nested)(x))
    np.testing.assert_allclose(nested(x), jnp.sin(x), atol=1e-6)
    slopes = jax.vmap(jax.grad(lambda x: wave(x).sum()))(x)
    np.testing.assert_allclose(slopes, jnp.cos(x), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: lax.map(wave, x))(x), jnp.sin(x), atol=1e-6)


def test_top_of_many_runs_breaks_ties_where_there_are_some() -> None:
    scores = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    pick = lambda score: top(score, 0.5, (0,))
    np.testing.assert_array_equal(jax.vmap(pick)(scores), [[1, 1, 0, 0], [0, 0, 1, 1]])


@pytest.mark.parametrize("shape", [(256, 8), (512, 8), (3, 520, 5)])
def test_counts_are_exact_at_any_length(shape: tuple[int, ...]) -> None:
    marked = jax.random.bernoulli(jax.random.key(0), 0.9, shape)
    for axes in ((0,), (1,), tuple(range(len(shape)))):
        np.testing.assert_array_equal(
            np.asarray(count(marked, axes)), np.asarray(marked).sum(axis=axes)
        )


def test_resets_of_many_runs_are_those_of_each() -> None:
    rule = js.Threshold(reset=0.05)
    weight = jax.random.normal(jax.random.key(0), (512, 256))
    thresholds = jnp.stack([jnp.full(256, t) for t in (0.5, 3.0, 5.0)])
    after = lambda t: rule.advance(weight, {"threshold": t, "alpha": jnp.ones(())})["threshold"]
    assert branches(after, thresholds) == 1
    alone = [after(t) for t in thresholds]
    np.testing.assert_array_equal(jax.vmap(after)(thresholds), jnp.stack(alone))
    assert [float(t[0]) for t in alone] == [0.5, 0.0, 0.0]


@pytest.mark.parametrize("form", ["apply", "update"])
def test_revisions_of_runs_at_different_steps_are_those_of_each(form: str) -> None:
    tx = js.revise(optax.sgd(0.1), (".*", js.SET(last=100, every=2)))
    weight = jax.random.normal(jax.random.key(0), (16, 16))
    tree = {"weight": weight, "mask": (abs(weight) > 0.8).astype(jnp.float32)}
    states = [tx.init(tree)._replace(steps=jnp.array(n, jnp.int32)) for n in (4, 5)]
    gradients = jax.tree.map(jnp.ones_like, tree)

    @jax.jit
    def after(state: tuple) -> dict[str, Array]:
        if form == "apply":
            return tx.apply(gradients, state, tree)[0]
        return optax.apply_updates(tree, tx.update(gradients, state, tree)[0])

    alone = [after(state) for state in states]
    together = jax.vmap(after)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    for n, one in enumerate(alone):
        for name in one:
            np.testing.assert_allclose(together[name][n], one[name], atol=1e-6)
    moved = [bool((one["mask"] != tree["mask"]).any()) for one in alone]
    assert sorted(moved) == [False, True]


def test_density_control_of_runs_at_different_steps_is_that_of_each() -> None:
    model = js.sparsify(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), ("kernel", js.Threshold(alpha=0.1)))
    control = js.TargetDensity(density=0.1, steps=4000, every=10)
    graphdef, state = nnx.split(model)
    pull = {"kernel/threshold": jnp.ones(16)}

    def after(step: Array) -> tuple[Array, Array]:
        own = nnx.merge(graphdef, state, copy=True)
        memory = control.apply(own, control.init(own), step, pull)
        return memory, own.kernel.alpha[...]

    steps = jnp.array([1000, 1001])
    assert branches(after, steps) == 1
    run, together = jax.jit(after), jax.jit(jax.vmap(after))(steps)
    alone = [run(step) for step in steps]
    for n, values in enumerate(zip(*alone, strict=True)):
        np.testing.assert_allclose(together[n], jnp.stack(values), rtol=1e-6)
    assert alone[0][1] != alone[1][1]
