"""What the optimizer says, and decay that does not reach what rules learn."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.sampled import one_in
from tests.support.stacks import takes_masked

pytestmark = pytest.mark.standard_dtypes
DECAY = 0.5
decayed = lambda tx: optax.chain(tx, optax.add_decayed_weights(DECAY), optax.scale(-1e-3))
by = lambda name: lambda: getattr(optax, name)(1e-3, weight_decay=DECAY)
NAMES = ("adadelta", "adamaxw", "adamw", "adan", "lion", "nadamw", "novograd")
SPARED = {name: by(name) for name in NAMES} | {
    "radam": lambda: decayed(optax.scale_by_radam()),
    "sgd": lambda: decayed(optax.trace(0.9)),
    "coupled": lambda: optax.chain(optax.add_decayed_weights(DECAY), optax.adam(1e-3)),
    "late": lambda: optax.chain(optax.add_decayed_weights(DECAY), optax.rprop(1e-3)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), by("adamw")()),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(1e-3, weight_decay=DECAY),
    "accumulated": lambda: optax.MultiSteps(by("adamw")(), 1),
    "warm": lambda: optax.adamw(optax.linear_schedule(0.0, 1e-3, 9), weight_decay=DECAY),
}
TOLD = {
    "lamb": by("lamb"),
    "lars": by("lars"),
    "adafactor": lambda: optax.adafactor(1e-3, weight_decay_rate=DECAY),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-3, weight_decay=DECAY),
    "prodigy": lambda: optax.contrib.prodigy(1.0, weight_decay=DECAY),
}


def net(rule: js.Rule | None = None) -> nnx.Module:
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    rule = rule or js.Threshold(alpha=1e-3)
    model = js.sparsify(model, (".*/kernel", rule))
    for part in [model.layers[0].kernel]:
        for name in part.rule.learned:
            learned = getattr(part, name)
            learned[...] = jnp.full_like(learned[...], 0.3)
    return model


def after(tx: optax.GradientTransformation, rule: js.Rule | None = None) -> nnx.Module:
    """The model after three steps with gradients of 0."""
    model = net(rule)
    js.cost(model)
    optimizer = js.Optimizer(model, tx)
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    for _ in range(3):
        optimizer.update(model, zeros)
    return model


@pytest.mark.parametrize("name", one_in(2, SPARED))
def test_decay_reaches_weights_and_not_what_rules_learn(name: str) -> None:
    kernel, start = after(SPARED[name]()).layers[0].kernel, net().layers[0].kernel
    np.testing.assert_array_equal(kernel.threshold[...], np.full(3, 0.3, np.float32))
    assert (jnp.abs(kernel.weight[...]) < jnp.abs(start.weight[...])).all()


@pytest.mark.parametrize("rule", [js.Movement(density=0.5), js.HardConcrete(lam=1e-3)], ids=str)
def test_scores_and_gates_are_spared_too(rule: js.Rule) -> None:
    kernel = after(by("adamw")(), rule).layers[0].kernel
    for name in rule.learned:
        assert (np.asarray(getattr(kernel, name)[...]) == np.float32(0.3)).all()


@pytest.mark.parametrize("name", TOLD)
def test_decay_that_cannot_be_taken_out_is_said(name: str) -> None:
    with pytest.warns(UserWarning, match=r"decays what rules learn .*jsparse\.route") as told:
        js.Optimizer(net(), TOLD[name]())
    assert told[0].filename == __file__


def test_route_decays_on_purpose() -> None:
    model = net()
    kernel = after(js.route(model, optax.sgd(1e-3), by("adamw")())).layers[0].kernel
    assert (kernel.threshold[...] < 0.3).all()


def test_the_transform_stays_as_it_is_without_decay() -> None:
    tx = optax.adam(1e-3)
    assert js.Optimizer(net(), tx).tx is tx


def test_decay_after_many_accumulated_steps_is_found() -> None:
    tx = optax.MultiSteps(by("adamw")(), 130)
    assert js.Optimizer(net(), tx).tx is not tx


@pytest.mark.parametrize("name", ["madgrad", "prodigy"])
def test_neither_rounding_nor_a_rate_of_0_over_0_is_decay(name: str) -> None:
    """An update of x0 + 0 - x that is not quite 0; one that is NaN without any gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        js.Optimizer(net(), getattr(optax.contrib, name)(1e-3))


def test_a_cost_left_out_is_said_and_one_read_is_not() -> None:
    rule = js.Threshold(alpha=0.00123)  # of no other test: what was read is remembered
    model = net(rule)
    optimizer = js.Optimizer(model, optax.adam(1e-3))
    grads = nnx.grad(lambda model: model(jnp.ones((2, 4))).sum())(model)
    js.cost(model)  # printed, not added to a loss
    with pytest.warns(UserWarning, match=r"layers/0/kernel.*loss \+ jsparse\.cost\(model\)"):
        optimizer.update(model, grads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nnx.grad(js.cost)(model)
        optimizer.update(model, grads)


def test_a_rule_without_a_cost_needs_none() -> None:
    for rule in (js.Threshold(alpha=0.0), js.Movement(density=0.5), js.Top(density=0.5)):
        assert js.Optimizer(net(rule), optax.adam(1e-3)).due == ()


STOCK = {"reset": js.Threshold(alpha=0.1), "draw": js.Gibbs(density=0.5, beta=2.0)}


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_optimizer_is_told_of_events(name: str) -> None:
    words = r"layers/0/kernel have events.*jsparse\.Optimizer"
    with pytest.warns(UserWarning, match=words) as told:
        nnx.Optimizer(net(STOCK[name]), optax.adam(1e-3), wrt=nnx.Param)
    assert told[0].filename == __file__


def test_a_stock_optimizer_without_events_is_told_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (net(js.Top(density=0.5)), nnx.Linear(4, 3, rngs=nnx.Rngs(0))):
            nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)


def test_masks_are_not_trained_like_weights() -> None:
    model, wrt = net(js.Held()), (nnx.Param, js.Mask)
    words = r"wrt has layers/0/kernel/mask, .* leave jsparse.Mask out"
    with pytest.raises(ValueError, match=words):
        js.Optimizer(model, optax.adam(1e-3), wrt=wrt)
    with pytest.warns(UserWarning, match=words):
        nnx.Optimizer(model, optax.adam(1e-3), wrt=wrt)
    tx = js.revise(optax.adam(1e-3), (".*", js.RigL(last=9, every=3)))
    for kind in (js.Optimizer, nnx.Optimizer):
        kind(model, optax.MultiSteps(tx, 2), wrt=wrt)


def test_what_a_filter_by_type_leaves_out_of_a_rule_is_said() -> None:
    lora = nnx.LoRA(4, 2, 3, base_module=nnx.Linear(4, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    model = js.sparsify(lora, ("lora_b", js.Threshold()))
    with pytest.warns(UserWarning, match=r"trains lora_b, but not what .*nnx.LoRAParam, jsparse.L"):
        js.Optimizer(model, optax.adam(1e-3), wrt=nnx.LoRAParam)
    js.Optimizer(model, optax.adam(1e-3), wrt=(nnx.LoRAParam, js.Learned))


@pytest.mark.parametrize(("steps", "says"), [(50, True), (500, False)])
def test_a_target_out_of_reach_is_announced_with_numbers(steps: int, says: bool) -> None:
    control = js.TargetDensity(density=0.1, steps=steps)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        js.Optimizer(net(), optax.adam(2e-3), controls=(control,))
    messages = [str(one.message) for one in seen if "TargetDensity" in str(one.message)]
    assert bool(messages) == says
    assert not says or "in 50 steps this optimizer moves a threshold by 0.1 at most" in messages[0]


@pytest.mark.parametrize("tx", [optax.adafactor(1e-2), optax.lamb(1e-2)], ids=["factor", "lamb"])
def test_steps_that_grow_with_a_threshold_are_followed_from_0(tx) -> None:
    """They reached 0.88 where 0.1 was asked, and nothing was said."""
    control = js.TargetDensity(density=0.1, steps=300)
    with pytest.warns(UserWarning, match=r"in 300 steps .* a threshold by 0\.[01]\d+ at most"):
        js.Optimizer(net(), tx, controls=(control,))


@takes_masked
def test_what_a_transform_freezes_is_not_steered() -> None:
    model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2)))
    model = js.sparsify(model, (".*/kernel", js.Threshold(alpha=0.1)))
    label = lambda path, _: "frozen" if path[1].key == 0 else "trained"
    parts = {"frozen": optax.set_to_zero(), "trained": optax.adam(1e-3)}
    tx = optax.partition(parts, lambda tree: jax.tree.map_with_path(label, tree))
    assert js.Optimizer(model, tx).trained == {"layers/1/kernel/threshold"}


@takes_masked
@pytest.mark.parametrize("rest", [optax.adam(1e-3), optax.MultiSteps(optax.sgd(0.1), 2)])
def test_masks_that_no_revision_takes_are_refused_unless_frozen(rest: Any) -> None:
    model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2)))
    model = js.sparsify(model, (".*/kernel", js.Held()))
    label = lambda path, _: "rest" if path[1].key == 0 else "revised"
    labels = lambda tree: jax.tree.map_with_path(label, tree)
    parts = {"revised": js.revise(optax.sgd(0.1), (".*", js.SET(last=9, every=1)))}
    wrt = (nnx.Param, js.Mask)
    with pytest.raises(ValueError, match=r"no revision takes layers/0/kernel/mask"):
        js.Optimizer(model, optax.partition(parts | {"rest": rest}, labels), wrt=wrt)
    frozen = optax.partition(parts | {"rest": optax.set_to_zero()}, labels)
    whole = optax.MultiSteps(frozen, 2)
    for _ in range(2):  # what JAX keeps of the first trace does not hide the second
        js.Optimizer(model, whole, wrt=wrt)


def test_a_cost_that_is_first_read_after_units_went_is_known() -> None:
    rule = js.Threshold(alpha=1.2345e-3, unit=js.Filter(), scope=js.Each())  # in no other test
    model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2)))
    model = js.sparsify(model, ("layers/0/kernel", rule))
    kernel, x = model.layers[0].kernel, jnp.ones((2, 4))
    kernel.weight[...] = kernel.weight[...].at[:, 2].set(0.0)
    kernel.threshold[...] = jnp.full_like(kernel.threshold[...], 1e-3)
    small, optimizer, record = js.shrink_training(model, js.Optimizer(model, optax.sgd(0.1)), x)
    assert record.cuts
    grads = nnx.grad(lambda model: (model(x) ** 2).mean() + js.cost(model))(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.update(small, grads)


def test_held_keeps_the_mask_of_a_sparse_weight() -> None:
    for rule in (js.Top(density=0.5), js.Threshold(alpha=0.1), js.SoftThreshold()):
        model = net(rule)
        held = js.sparsify(model, (".*/kernel", js.Held()))
        for want in (model, js.sparsify(held, (".*/kernel", js.Held()))):
            np.testing.assert_array_equal(held.layers[0].kernel[...], want.layers[0].kernel[...])
        mask = model.layers[0].kernel.read_final_mask()
        np.testing.assert_array_equal(held.layers[0].kernel.mask[...], mask)
