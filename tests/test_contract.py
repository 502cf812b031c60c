"""Every rule on every layer keeps the same promises."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse.rules._rule import without_draw
from tests.support.cases import CELLS, LAYERS, RULES, WHOLE, enable_x64, parts, sparse

SCALING = (js.HardConcrete, js.SoftThreshold, js.Powerpropagation)
"""Rules that change the value of what they keep."""
# the first rule of each class faces every layer, its variants a few
FIRST = tuple({type(rule): name for name, rule in reversed(RULES.items())}.values())
FEW = ("linear", "grouped conv", "stacked")


def is_slow(rule: str, layer: str) -> bool:
    """By default "threshold" meets every layer, each class of rules FEW and a sixth of the rest."""
    if layer in WHOLE or rule == "threshold" or layer == "linear":
        return layer in WHOLE
    if rule not in FIRST or layer in FEW:
        return rule not in FIRST
    return layer in CELLS or (FIRST.index(rule) + list(LAYERS).index(layer)) % 6 > 0


PAIRS = [
    pytest.param(
        rule, layer, id=f"{rule}-{layer}", marks=[pytest.mark.slow] if is_slow(rule, layer) else []
    )
    for rule in RULES
    for layer, case in LAYERS.items()
    if (rule in FIRST or layer in FEW) and (case.groupable or "1:2" not in rule)
]


SGD = optax.sgd(1e-2)


def loss(model: nnx.Module, call: Callable[[Any], jax.Array]) -> jax.Array:
    return (call(model) ** 2).sum() + js.cost(model)


@pytest.mark.parametrize(("rule", "layer"), PAIRS)
def test_every_rule_on_every_layer(rule: str, layer: str) -> None:
    """Masks are 0/1; resolve, fold, hold give the masked pass; a train step does its work."""
    case, model = LAYERS[layer], sparse(rule, layer)
    assert len(parts(model)) == case.weights
    optimizer = js.Optimizer(model, SGD)
    before = jax.tree.map(np.array, nnx.state(model))

    @nnx.jit
    def run(model: nnx.Module, optimizer: js.Optimizer) -> tuple:
        drawn = [case.call(m) for m in (model, js.resolve(model))]
        reads = [(part.weight[...], part.read_mask(), part.read()) for part in parts(model)]
        model.eval()
        without_draw = [case.call(m) for m in (model, js.hold(model))]
        model.train()
        folded = js.fold(model)
        assert not parts(folded)
        without_draw.append(case.call(folded))
        grads = nnx.grad(loss)(model, case.call)
        optimizer.update(model, grads)
        return (drawn, without_draw), reads, grads

    outs, reads, grads = jax.device_get(run(model, optimizer))  # checked without compiling
    for weight, mask, read in reads:
        assert mask.shape == weight.shape
        assert set(np.unique(mask)) <= {0.0, 1.0}
        np.testing.assert_array_equal(read != 0, mask == 1)
        if not isinstance(RULES[rule], SCALING):
            np.testing.assert_array_equal(read, weight * mask)
    for same in outs:
        for other in same[1:]:
            np.testing.assert_allclose(other, same[0], rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert_only_learned_changed(before, nnx.state(model))


@pytest.mark.parametrize(
    ("rule", "layer"),
    [
        pytest.param(rule, "linear", marks=[] if rule in FIRST else [pytest.mark.slow])
        for rule in RULES
    ]
    + [("threshold", layer) for layer in LAYERS],
)
def test_gradients_flow_through_resolve(rule: str, layer: str) -> None:
    case, model = LAYERS[layer], sparse(rule, layer)
    of = nnx.jit(lambda m: nnx.grad(loss)(m, case.call))
    resolved = nnx.jit(lambda m: nnx.grad(loss)(m, lambda m: case.call(js.resolve(m))))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, *(nnx.to_pure_dict(grad(model)) for grad in (of, resolved)))


def assert_only_learned_changed(before: nnx.State, after: nnx.State) -> None:
    """A train step keeps masks and settings, moves what is learned, and keeps all types."""
    old, new = (dict(nnx.to_flat_state(state)) for state in (before, after))
    assert old.keys() == new.keys()
    for path in old:
        a, b = (np.asarray(nnx.to_pure_dict(nnx.State({0: v[path]}))[0]) for v in (old, new))
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if isinstance(old[path], js.Mask) or path[-1] == "alpha":
            np.testing.assert_array_equal(a, b)
        if isinstance(old[path], js.Learned) or path[-1] in ("weight", "draw", "step"):
            assert (a != b).any(), path


@pytest.mark.parametrize("rule", RULES)
def test_equal_rules_trace_once_and_jit_is_eager(rule: str) -> None:
    call, traces = LAYERS["linear"].call, 0

    @nnx.jit
    def jitted(model: nnx.Module) -> jax.Array:
        nonlocal traces
        traces += 1
        return call(model)

    for _ in range(2):
        model = sparse(rule, "linear")
        model.kernel.rule = dataclasses.replace(model.kernel.rule)
        np.testing.assert_allclose(jitted(model), call(model), rtol=1e-5, atol=1e-5)
    assert traces == 1


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize("rule", RULES)
def test_masks_read_again_compile_nothing(rule: str) -> None:
    """Outside jit, a loop in a rule's mask would be compiled at each call."""
    model = sparse(rule, "linear")
    js.masks(model)
    before = len(COMPILED)
    js.masks(model)
    assert len(COMPILED) == before
    jnp.ones(len(COMPILED) + 1000)  # a size that nothing had: this is seen
    assert len(COMPILED) > before


@pytest.mark.parametrize("rule", RULES)
def test_a_forward_pass_writes_nothing(rule: str) -> None:
    model = sparse(rule, "linear")
    before = jax.tree.map(np.array, nnx.state(model))
    LAYERS["linear"].call(model)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [(rule, hidden) for rule in RULES for hidden in (-1e-3, jnp.nan)]
    + [(rule, jnp.inf) for rule in ("held", "hard concrete", "movement", "soft movement")],
)
def test_a_masked_weight_reads_as_plus_zero(rule: str, hidden: float) -> None:
    model = sparse(rule, "linear")
    model.eval()
    part = model.kernel
    place = np.argwhere(np.asarray(part.read_mask()) == 0)[:1]
    if len(place):  # `Keep` masks nothing
        weight = np.array(part.weight[...])
        weight[tuple(place[0])] = hidden
        part.weight[...] = jnp.asarray(weight)
    off = np.asarray(part.read_mask()) == 0
    assert off.any() or not len(place)
    for form in (lambda model: model, js.fold, js.resolve, js.hold):
        read = np.asarray(form(model).kernel[...])[off]
        assert not read.any() and not np.signbit(read).any(), form


@pytest.mark.parametrize(
    ("rule", "layer"),
    [("threshold", layer) for layer in LAYERS]
    + [(rule, "linear") for rule in ("threshold each", "threshold filter", "keep", "held")],
)
def test_a_fresh_model_is_the_dense_one(rule: str, layer: str) -> None:
    case = LAYERS[layer]
    dense = case.make(nnx.Rngs(0))
    model = js.sparsify(dense, (case.pattern, RULES[rule]))
    np.testing.assert_allclose(case.call(model), case.call(dense), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "layer"),
    [(rule, "linear") for rule in RULES] + [("threshold", layer) for layer in LAYERS],
)
def test_saved_and_loaded(rule: str, layer: str) -> None:
    """The state as plain arrays, put into a model made anew, gives the same outputs."""
    case, model = LAYERS[layer], sparse(rule, layer)
    stored = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))
    fresh = js.sparsify(case.make(nnx.Rngs(9)), (case.pattern, RULES[rule]))
    state = nnx.state(fresh, nnx.Not(nnx.RngState))
    nnx.replace_by_pure_dict(state, stored)
    nnx.update(fresh, state)
    np.testing.assert_array_equal(case.call(fresh), case.call(model))


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16(rule: str) -> None:
    model = js.sparsify(
        nnx.Linear(4, 6, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
        ("kernel", RULES[rule]),
    )
    x = jnp.ones((2, 4), jnp.bfloat16)
    loss = lambda model: model(x).astype(jnp.float32).sum() + js.cost(model)
    run = nnx.jit(lambda model: (nnx.grad(loss)(model), model(x), model.kernel.read_mask()))
    grads, out, mask = run(model)
    assert out.dtype == mask.dtype == jnp.bfloat16
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("rule", RULES)
def test_float64_under_strict_promotion(rule: str) -> None:
    """Every type is that of the weight, and a loss in it can be added to the cost."""

    def step() -> nnx.Module:
        model = js.sparsify(
            nnx.Linear(4, 6, param_dtype=jnp.float64, dtype=jnp.float64, rngs=nnx.Rngs(0)),
            ("kernel", RULES[rule]),
        )
        grads = nnx.grad(lambda model: model(jnp.ones((2, 4))).sum() + js.cost(model))(model)
        js.Optimizer(model, SGD).update(model, grads)
        kinds = (model.kernel.read(), model.kernel.read_mask(), js.cost(model))
        assert [value.dtype for value in kinds] == [jnp.float64] * 3
        return js.hold(js.advance(model)) if rule != "keep" else model

    with enable_x64():
        nnx.eval_shape(step)


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if hasattr(rule, "score")])
def test_units_rank_alike_at_any_size(rule: str) -> None:
    made, weight = RULES[rule], jax.random.normal(jax.random.key(3), (3, 3, 4, 6))

    @jax.jit
    def mask(weight: jax.Array) -> jax.Array:
        state = made.init(weight, jax.random.key(0))
        weight = state.pop("weight", weight)
        return made.mask(weight, without_draw(state))

    want = mask(weight)
    for size in (1e20, 1e-25):
        np.testing.assert_array_equal(mask(weight * size), want)


@pytest.mark.parametrize("rule", RULES)
def test_stacked_layers_are_the_layers_one_by_one(rule: str) -> None:
    stacked = sparse(rule, "stacked").layers.kernel
    together = np.asarray(stacked.read())
    weights, states = jax.device_get((stacked.weight[...], stacked.state))
    for n in range(3):
        weight = jnp.asarray(weights[n])
        one = js.Sparse(nnx.Param(weight), RULES[rule], key=jax.random.key(0))
        one.weight[...] = weight  # a reparameterized weight would be taken twice
        one.set_state({name: jnp.asarray(value[n]) for name, value in states.items()})
        np.testing.assert_array_equal(one.read(), together[n])


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        pytest.param(rule, kind, marks=[pytest.mark.slow] if kind == "Auto" else [])
        for kind, rules in (("Explicit", RULES), ("Auto", FIRST))
        for rule in rules
    ],
)
def test_same_mask_on_eight_devices(rule: str, kind: str) -> None:
    weight, made = jax.random.normal(jax.random.key(0), (16, 24)), RULES[rule]
    mask = jax.jit(lambda weight: made.mask(weight, made.init(weight, jax.random.key(1))))
    one = mask(weight)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    for spec in (jax.P("x"), jax.P(None, "x")):
        with jax.set_mesh(mesh):
            sharded = jax.device_put(weight, jax.sharding.NamedSharding(mesh, spec))
            np.testing.assert_array_equal(mask(sharded), one)
