import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.cases import Raw

RULE = js.Threshold(alpha=1e-2)


def test_a_held_mask_receives_the_dense_gradient() -> None:
    layer = js.Linear(2, 2, rule=js.Held(), rngs=nnx.Rngs(0))
    layer.kernel.mask[...] = jnp.zeros((2, 2))
    x = jnp.ones((1, 2))
    grads = jax.grad(lambda layer: layer(x).sum())(layer)
    assert (np.asarray(grads.kernel.mask[...]) == 1).all()
    assert (np.asarray(grads.kernel.weight[...]) == 0).all()


def test_sparse_answers_as_a_param_does() -> None:
    layer = js.Linear(4, 3, rule=js.Top(density=0.5), rngs=nnx.Rngs(0))
    kernel, dense = layer.kernel, np.asarray(layer.kernel.read())
    x = jnp.ones((2, 4))
    for got, want in [
        (kernel[...], dense),
        (kernel.value, dense),
        (kernel.get_value(), dense),
        (kernel[1:, 0], dense[1:, 0]),
        (x @ kernel, x @ dense),
        (kernel * 2, dense * 2),
        (2 - kernel, 2 - dense),
        (-kernel, -dense),
        (kernel + kernel, dense + dense),
        (kernel.T, dense.T),
        (kernel.sum(), dense.sum()),
        (jnp.einsum("bi,io->bo", x, kernel), x @ dense),
        (abs(kernel), abs(dense)),
        (kernel > 0, dense > 0),
    ]:
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (kernel.shape, kernel.ndim, kernel.size, len(kernel)) == ((4, 3), 2, 12, 4)
    assert kernel.dtype == jnp.float32
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kernel.nothing  # noqa: B018
    kernel.value = jnp.ones((4, 3))
    kernel[0, 0] = 5.0
    assert float(kernel.weight[0, 0]) == 5.0


def test_metadata_of_the_param_survives() -> None:
    init = nnx.with_metadata(nnx.initializers.lecun_normal(), note="mine")
    layer = nnx.Linear(4, 3, kernel_init=init, rngs=nnx.Rngs(0))
    layer = js.sparsify(layer, ("kernel", RULE))
    assert layer.kernel.weight.note == "mine"
    assert js.fold(layer).kernel.note == "mine"


def test_split_merge_and_a_pure_train_step() -> None:
    model = js.sparsify(Raw(nnx.Rngs(0)), ("w", js.Threshold(alpha=0.1)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    tx = optax.sgd(0.01)

    @jax.jit
    def step(params, rest, opt):
        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            return (model(jnp.ones((2, 4))) ** 2).mean() + js.cost(model)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        model = js.advance(nnx.merge(graphdef, optax.apply_updates(params, updates), rest))
        _, params, rest_ = nnx.split(model, nnx.Param, ...)
        return params, rest_, opt, value

    opt, losses = tx.init(params), []
    for _ in range(5):
        params, rest, opt, loss = step(params, rest, opt)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_grad_over_the_whole_model_works() -> None:
    for rule in (RULE, js.Held(), js.Top(density=0.5)):
        layer = js.Linear(4, 3, rule=rule, rngs=nnx.Rngs(0))
        grads = jax.grad(lambda layer: layer(jnp.ones((2, 4))).sum() + js.cost(layer))(layer)
        assert jax.tree.structure(grads) == jax.tree.structure(layer)


def test_remat_and_scan_over_time() -> None:
    layer = js.Linear(4, 4, rule=RULE, rngs=nnx.Rngs(0))

    def loss(layer, resolve):
        plain = js.resolve(layer) if resolve else layer
        step = jax.checkpoint(lambda x, _: (jnp.tanh(plain(x)), None))
        return jax.lax.scan(step, jnp.ones((2, 4)), None, length=5)[0].sum()

    a, b = (jax.grad(loss)(layer, r) for r in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), a, b)


def test_sparse_iterates_and_converts_as_a_param() -> None:
    kernel = js.Linear(4, 3, rule=js.Top(density=0.5), rngs=nnx.Rngs(0)).kernel
    assert len(list(kernel)) == 4
    np.testing.assert_array_equal(np.asarray(kernel), kernel[...])
    with pytest.raises(ValueError, match=r"got shape \(3,\); the weight has \(4, 3\)"):
        kernel.value = jnp.ones(3)


def test_an_abstract_model_has_shapes() -> None:
    layer = nnx.eval_shape(lambda: js.Linear(4, 3, rule=RULE, rngs=nnx.Rngs(0)))
    assert (layer.kernel.shape, layer.kernel.ndim) == ((4, 3), 2)


def test_layers_of_equal_rule_and_shape_are_traced_once() -> None:
    traced: list[tuple[int, ...]] = []

    class Told(js.Held):
        def apply(self, weight: jax.Array, state: dict) -> jax.Array:
            traced.append(weight.shape)
            return super().apply(weight, state)

    layers = [nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in [(3, 3)] * 4 + [(3, 2)]]
    model = js.sparsify(nnx.Sequential(*layers), (".*/kernel", Told()))
    graphdef, state = nnx.split(model)
    jax.jit(jax.grad(lambda state: nnx.merge(graphdef, state)(jnp.ones((1, 3))).sum())).lower(state)
    assert sorted(traced) == [(3, 2), (3, 3)]
