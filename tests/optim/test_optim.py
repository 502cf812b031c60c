import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

X = jax.random.normal(jax.random.key(1), (64, 16))
Y = (X[:, :1] * X[:, 1:2] > 0).astype(jnp.int32)[:, 0]


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(16, 64, rngs=rngs)
        self.fc2 = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.relu(self.fc1(x)))


def sparse_net(alpha: float = 1e-3) -> Net:
    return js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Threshold(alpha=alpha)))


@nnx.jit
def gradients(model: Net) -> tuple[nnx.State, jax.Array]:
    def loss(model):
        task = optax.softmax_cross_entropy_with_integer_labels(model(X), Y).mean()
        return task + js.cost(model), task

    return nnx.grad(loss, has_aux=True)(model)


@nnx.jit
def step(model: Net, optimizer: nnx.Optimizer) -> jax.Array:
    grads, task = gradients(model)
    optimizer.update(model, grads)
    return task


def labels(params: nnx.State) -> nnx.State:
    """Thresholds to adam, the rest to sgd."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "learned" if "threshold" in jax.tree_util.keystr(path) else "weight",
        params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )


TRANSFORMS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adam": lambda: optax.adam(1e-2),
    "lamb": lambda: optax.lamb(1e-2),
    "clipped adamw": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": lambda: optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
    "partitioned": lambda: optax.partition(
        {"learned": optax.adam(1e-2), "weight": optax.sgd(0.1)}, labels
    ),
}
if hasattr(nnx, "as_pure"):  # before it nnx.Optimizer itself fails under muon, as it partitions
    TRANSFORMS["muon"] = lambda: optax.contrib.muon(1e-2)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_transform_trains(name: str) -> None:
    model = sparse_net()
    optimizer = js.Optimizer(model, TRANSFORMS[name]())
    losses = [float(step(model, optimizer)) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert int(optimizer.step[...]) == 30
    assert float(jnp.abs(model.fc1.kernel.threshold[...]).max()) > 0


@pytest.mark.standard_dtypes
def test_without_events_it_is_nnx_optimizer() -> None:
    ours, theirs = sparse_net(), sparse_net()
    one, two = (
        js.Optimizer(ours, optax.adam(1e-2)),
        nnx.Optimizer(theirs, optax.adam(1e-2), wrt=nnx.Param),
    )
    for _ in range(5):  # op by op, as two programs may round differently
        one.update(ours, gradients(ours)[0])
        two.update(theirs, gradients(theirs)[0])
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours), nnx.state(theirs))


def test_update_resets_a_dead_layer_and_only_that() -> None:
    model = sparse_net()
    model.fc1.kernel.threshold[...] = jnp.full(64, 9.0)
    model.fc2.kernel.threshold[...] = jnp.full(2, 0.01)
    js.Optimizer(model, optax.sgd(0.0)).update(model, nnx.grad(js.cost)(model))
    assert (np.asarray(model.fc1.kernel.threshold[...]) == 0).all()
    assert (np.asarray(model.fc2.kernel.threshold[...]) == np.float32(0.01)).all()


@pytest.mark.standard_dtypes
def test_accumulated_gradients_move_weights_only_every_other_step() -> None:
    model = sparse_net()
    optimizer = js.Optimizer(model, optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2))
    seen = [np.asarray(model.fc1.kernel.weight[...])]
    for _ in range(2):
        step(model, optimizer)
        seen.append(np.asarray(model.fc1.kernel.weight[...]))
    assert (seen[0] == seen[1]).all() and (seen[1] != seen[2]).any()


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("target", [0.5, 0.2])
def test_target_density_is_reached(target: float) -> None:
    steps = 600
    model = sparse_net()
    control = js.TargetDensity(density=target, steps=steps)
    optimizer = js.Optimizer(model, optax.sgd(0.05, momentum=0.9), controls=(control,))
    graphdef, state = nnx.split((model, optimizer))

    @jax.jit
    def run(state: nnx.State) -> nnx.State:
        def body(state: nnx.State, _: None) -> tuple:
            model, optimizer = nnx.merge(graphdef, state)
            step(model, optimizer)
            return nnx.state((model, optimizer)), None

        return jax.lax.scan(body, state, None, length=steps)[0]

    nnx.update((model, optimizer), run(state))
    assert js.summary(model).density == pytest.approx(target, rel=0.1)


def test_target_density_needs_thresholds_with_an_alpha() -> None:
    control = js.TargetDensity(density=0.1, steps=10)
    for model in (Net(nnx.Rngs(0)), sparse_net(alpha=0.0)):
        with pytest.raises(ValueError, match=r"alpha > 0.*Top\(density="):
            js.Optimizer(model, optax.sgd(0.1), controls=(control,))


def test_a_layer_at_its_reset_is_not_pushed() -> None:
    model = sparse_net()
    weight = jnp.zeros((16, 64)).at[0, :10].set(1.0)  # 10 of 1024 kept: 0.98 %
    model.fc1.kernel.weight[...] = weight
    model.fc1.kernel.threshold[...] = jnp.full(64, 0.5)
    control = js.TargetDensity(density=0.001, steps=10, ramp=0.1)
    control.apply(model, control.init(model), jnp.array(10))
    assert float(model.fc1.kernel.alpha[...]) == 0.0
    assert float(model.fc2.kernel.alpha[...]) > 0.0


def test_the_goal_starts_at_one_and_ends_at_the_target() -> None:
    control = js.TargetDensity(density=0.05, steps=100, ramp=0.5)
    assert [round(float(control.goal(jnp.array(s))), 3) for s in (0, 50, 100)] == [1.0, 0.05, 0.05]
