import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse import tree

KEY = jax.random.key(0)


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(flax.linen.Conv(4, (3, 3))(x))
        return flax.linen.Dense(3)(x.reshape(len(x), -1))


@pytest.mark.standard_dtypes
def test_a_linen_model_trains_sparse() -> None:
    model, x, y = Linen(), jax.random.normal(KEY, (8, 6, 6, 1)), jnp.arange(8) % 3
    params = model.init(KEY, x)["params"]
    plan = tree.plan(
        params, ("Conv.*/kernel", js.Top(density=0.5)), (".*/kernel", js.Threshold(alpha=0.05))
    )
    learned, held = tree.init(plan, params, KEY)
    tx = optax.adam(1e-2)
    opt = tx.init((params, learned))

    @jax.jit
    def step(params, learned, held, opt):
        def loss(trained):
            params, learned = trained
            out = model.apply({"params": tree.apply(plan, params, learned, held)}, x)
            task = optax.softmax_cross_entropy_with_integer_labels(out, y).mean()
            return task + tree.cost(plan, learned, held), task

        grads, task = jax.grad(loss, has_aux=True)((params, learned))
        updates, opt = tx.update(grads, opt)
        params, learned = optax.apply_updates((params, learned), updates)
        return params, *tree.advance(plan, params, learned, held), opt, task

    losses = []
    for _ in range(60):
        params, learned, held, opt, task = step(params, learned, held, opt)
        losses.append(float(task))
    masks = tree.mask(plan, params, learned, held)
    assert losses[-1] < 0.5 * losses[0]
    assert float(masks["Conv_0"]["kernel"].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(masks["Dense_0"]["kernel"].mean()) < 0.95
    assert (np.asarray(masks["Dense_0"]["bias"]) == 1).all()


def test_tree_and_module_agree() -> None:
    rule = js.Threshold(alpha=1e-2)
    layer = js.Linear(4, 3, rule=rule, rngs=nnx.Rngs(0))
    layer.kernel.threshold[...] = jnp.full(3, 0.3)
    params = {"kernel": layer.kernel.weight[...]}
    plan = tree.plan(params, ("kernel", rule))
    learned, held = tree.init(plan, params, KEY)
    learned["kernel"]["threshold"] = jnp.full(3, 0.3)
    read = tree.apply(plan, params, learned, held)["kernel"]
    np.testing.assert_array_equal(read, layer.kernel.read())
    assert float(tree.cost(plan, learned, held)) == pytest.approx(float(js.cost(layer)))


def test_stacked_leaves() -> None:
    params = {"kernel": jax.random.normal(KEY, (3, 4, 6))}
    plan = tree.plan(params, ("kernel", js.Top(density=0.5, role=js.Role(stack=1))))
    masks = tree.mask(plan, params, *tree.init(plan, params, KEY))
    assert np.asarray(masks["kernel"]).sum(axis=(1, 2)).tolist() == [12, 12, 12]


def test_errors_name_the_path() -> None:
    params = {"dense": {"kernel": jnp.ones((3, 2)), "steps": jnp.array([1, 2])}}
    with pytest.raises(ValueError, match="nearest: dense/kernel"):
        tree.plan(params, ("dense/kernal", js.Keep()))
    plan = tree.plan(params, ("dense/steps", js.Keep()))
    with pytest.raises(TypeError, match="dense/steps: a rule needs a floating-point weight"):
        tree.init(plan, params, KEY)


def test_two_leaves_of_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        tree.plan({"a/b": jnp.ones((2, 2)), "a": {"b": jnp.ones((3, 3))}}, (".*", js.Keep()))


def test_other_params_than_planned_are_refused() -> None:
    params = {"kernel": jnp.ones((2, 2))}
    plan = tree.plan(params, ("kernel", js.Keep()))
    with pytest.raises(ValueError, match="params have no 'kernel'"):
        tree.apply(plan, {"weight": jnp.ones((2, 2))}, *tree.init(plan, params, KEY))
