"""Many devices: state lies where its weight does, and training there is training on one device.

Devices add the same numbers in another order, so losses and weights differ by rounding, about 1e-7
of their size. A mask differs only where a weight lies that near to its threshold or to the cut, or
a random number to its probability. `test_no_weight_is_on_an_edge` checks that none of the run's
weights ever does, by far; 3000 random numbers do so with a chance of 3e-4, and are always the same.
"""

import collections
import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding

import jsparse as js
from jsparse._paths import path_of
from tests.support.cases import RULES
from tests.support.sampled import one_in
from tests.support.sharded import (
    AXES,
    LAYOUTS,
    SEED,
    STEPS,
    Net,
    Run,
    data,
    dense,
    on_mesh,
    start,
    step,
    train,
)

P = jax.P
KINDS = ("Auto", "Explicit")


def mesh_of(kind: str) -> Mesh:
    return jax.make_mesh((4, 2), AXES, axis_types=(getattr(AxisType, kind),) * 2)


def lies(x: Array, mesh: Mesh, spec: P) -> bool:
    return x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim)


# Where state lies.

WEIGHT = P("y", "x")  # of a kernel [8, 16]
STATES = {
    "held": {"mask": WEIGHT},
    "threshold": {"threshold": P("x"), "alpha": P()},
    "threshold whole": {"threshold": P(), "alpha": P()},
    "threshold each": {"threshold": WEIGHT, "alpha": P()},
    "threshold filter": {"threshold": P("x"), "alpha": P()},
    "threshold channel": {"threshold": P("y", None), "alpha": P()},
    # units of 2 x 3: 4 of 8 rows fit on two devices, 6 of 16 columns do not on four
    "threshold block": {"threshold": P("y", None), "alpha": P()},
    "hard concrete channel": {"logits": P("y", None), "price": P(), "draw": P()},
    "soft movement": {"scores": WEIGHT},
    "powerpropagation": {},
    "gibbs block": {"draw": P(), "cut": P()},
}


def linear(mesh: Mesh) -> nnx.Linear:
    layer = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(jax.device_put(layer.kernel[...], NamedSharding(mesh, WEIGHT)))
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", STATES)
def test_state_lies_where_its_weight_does(rule: str, kind: str) -> None:
    mesh = mesh_of(kind)
    kernel = js.sparsify(linear(mesh), ("kernel", RULES[rule])).kernel
    assert set(kernel.state) == set(STATES[rule])
    for name, spec in STATES[rule].items():
        assert lies(kernel.state[name], mesh, spec), (name, kernel.state[name].sharding)
    assert lies(kernel.weight[...], mesh, WEIGHT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", one_in(2, ["threshold filter", "gibbs filter"]))
def test_hold_and_fold_keep_placements(rule: str, kind: str) -> None:
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        model = js.sparsify(linear(mesh), ("kernel", RULES[rule]))
        held = js.hold(model).kernel
        given = js.hold(model, {"kernel": jnp.ones((8, 16))}).kernel
        folded = js.fold(model).kernel
    for x in (held.mask, held.weight, given.mask, given.weight, folded):
        assert lies(x[...], mesh, WEIGHT)
    np.testing.assert_array_equal(folded[...], held.read())


@pytest.mark.parametrize("spec", [P(None, "y", "x"), P("x", "y", None), P("x")])
def test_stacked_layers(spec: P) -> None:
    @nnx.split_rngs(splits=4)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(8, 16, rngs=rngs)

    mesh = mesh_of("Auto")
    layers = make(nnx.Rngs(0))
    layers.kernel = nnx.Param(jax.device_put(layers.kernel[...], NamedSharding(mesh, spec)))
    names = (*spec, *(None,) * (3 - len(spec)))
    threshold = js.sparsify(layers, ("kernel", js.Threshold())).kernel
    assert lies(threshold.threshold[...], mesh, P(names[0], names[2]))
    assert lies(threshold.alpha[...], mesh, P())
    assert lies(js.sparsify(layers, ("kernel", js.Held())).kernel.mask[...], mesh, spec)


def test_a_unit_that_only_just_fills_its_axis() -> None:
    # were the axis longer, there would be two units, each alone in its scope, which is refused
    mesh = mesh_of("Auto")
    rule = js.Top(density=0.5, unit=js.Block((1, 8)), scope=js.PerOutput())
    kernel = jax.device_put(jnp.ones((1, 8)), NamedSharding(mesh, P(None, "x")))
    layer = nnx.Linear(1, 8, rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(kernel)
    assert lies(js.sparsify(layer, ("kernel", rule)).kernel.weight[...], mesh, P(None, "x"))


def test_states_of_a_tree() -> None:
    mesh = mesh_of("Auto")
    params = {"kernel": linear(mesh).kernel[...], "other": jnp.ones((3, 4))}
    plan = js.tree.plan(params, (".*", js.Threshold()))
    learned, held = js.tree.init(plan, params, jax.random.key(0))
    assert lies(learned["kernel"]["threshold"], mesh, P("x"))
    assert lies(held["kernel"]["alpha"], mesh, P())
    assert not isinstance(learned["other"]["threshold"].sharding, NamedSharding)


# Names of axes, as Flax keeps them.


def named(names: tuple, rule: js.Rule, **more) -> nnx.Linear:
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), names, **more)
    layer = nnx.Linear(8, 16, kernel_init=init, use_bias=False, rngs=nnx.Rngs(0))
    return js.sparsify(layer, ("kernel", rule))


def specs(model: nnx.Module) -> dict[str, P]:
    leaves = jax.tree_util.tree_leaves_with_path(
        nnx.get_partition_spec(nnx.state(model)), is_leaf=lambda x: isinstance(x, P)
    )
    return {path_of(path): spec for path, spec in leaves}


ON_EXPLICIT = hasattr(nnx, "use_eager_sharding")  # Flax 0.11 places by names on Auto meshes only


@pytest.mark.parametrize("kind", KINDS if ON_EXPLICIT else ["Auto"])
@pytest.mark.parametrize("rule", ["held", "threshold", "threshold block", "soft movement"])
def test_the_stock_recipe_shards_the_state(rule: str, kind: str) -> None:
    @nnx.jit
    def create() -> nnx.Linear:
        model = named(("y", "x"), RULES[rule])
        state = nnx.state(model)
        placed = jax.lax.with_sharding_constraint(state, nnx.get_partition_spec(state))
        nnx.update(model, placed)
        return model

    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        kernel = create().kernel
    assert lies(kernel.weight[...], mesh, WEIGHT)
    for name, spec in STATES[rule].items():
        assert lies(kernel.state[name], mesh, spec), (name, kernel.state[name].sharding)


def test_names_stand_for_axes_of_a_mesh() -> None:
    rules = (("in", None), ("out", "x"))
    with jax.set_mesh(mesh_of("Auto")):
        model = named(("in", "out"), js.Threshold(), sharding_rules=rules)
        blocks = named(("in", "out"), RULES["threshold block"], sharding_rules=rules)
    assert specs(model)["kernel/threshold"] == P("x")
    assert specs(model)["kernel/alpha"] == P()
    assert specs(blocks)["kernel/threshold"] == P(None, None)  # 6 columns of units


@pytest.mark.parametrize("rule", ["held", "threshold", "threshold block"])
def test_rules_are_put_on_names_without_a_mesh(rule: str) -> None:
    with jax.set_mesh(mesh_of("Auto")):
        layer = named(("y", "x"), js.Keep())
    model = js.sparsify(layer, ("kernel", RULES[rule]))
    if rule == "threshold block":  # how many units fit on a device is seen where the weight lies
        placed = isinstance(layer.kernel.weight[...].sharding, NamedSharding)
        expected = {"threshold": P("y", None) if placed else P(), "alpha": P()}
    else:
        expected = STATES[rule]
    assert {k: specs(model)[f"kernel/{k}"] for k in expected} == expected
    held = js.hold(model)
    assert specs(held)["kernel/mask"] == specs(held)["kernel/weight"] == WEIGHT
    assert specs(js.fold(model))["kernel"] == WEIGHT


@pytest.mark.parametrize("rule", ["threshold", "held", "gibbs"])
def test_names_of_stacked_layers_survive_a_scan(rule: str) -> None:
    on_axis = {nnx.PARTITION_NAME: "y"}

    @nnx.split_rngs(splits=2)
    @nnx.vmap(transform_metadata=on_axis)
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "x"))
        return nnx.Linear(8, 8, kernel_init=init, use_bias=False, rngs=rngs)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry, transform_metadata=on_axis)
    def forward(layer: nnx.Linear, x: Array) -> Array:
        return layer(x)

    with jax.set_mesh(mesh_of("Auto")):
        layers = js.sparsify(make(nnx.Rngs(0)), ("kernel", RULES[rule]))
        before = specs(layers)
        for _ in range(2):
            forward(layers, jnp.ones((4, 8)))
    expected = {
        "threshold": {"threshold": P("y", "x"), "alpha": P()},
        "held": {"mask": P("y", None, "x")},
        "gibbs": {"draw": P("y", None)},
    }
    assert before == specs(layers)
    assert {k: before[f"kernel/{k}"] for k in expected[rule]} == expected[rule]


# Training.


@cache
def one_device() -> tuple[list[float], dict[str, np.ndarray]]:
    return train(start(Net(LAYOUTS["data parallel"], nnx.Rngs(SEED)), *map(jnp.asarray, data())))


@nnx.jit
def rooms(net: Net) -> tuple[Array, Array, Array]:
    """How near a weight is to its threshold, and to the cut of `top`; the thresholds' density."""
    size, top = jnp.abs(net.threshold.weight[...]), jnp.abs(net.top.weight[...])
    kept = net.top.read_mask() > 0
    gap = jnp.where(kept, top, jnp.inf).min() - jnp.where(kept, 0.0, top).max()
    room = jnp.abs(size - net.threshold.threshold[...][None]).min()
    return room, gap, net.threshold.read_mask().mean()


def test_no_weight_is_on_an_edge() -> None:
    run = start(Net(LAYOUTS["data parallel"], nnx.Rngs(SEED)), *map(jnp.asarray, data()))
    found = []
    for _ in range(STEPS):
        step(*run)
        found.append([float(x) for x in rooms(run.net)])
    room, gap, density = zip(*found, strict=True)
    assert min(room) > 1e-4 and min(gap) > 1e-4
    assert density[0] > density[-1] + 0.1  # the masks do move


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        pytest.param(layout, kind, marks=[pytest.mark.slow] if (n + m) % 2 else [])
        for n, layout in enumerate(LAYOUTS)
        for m, kind in enumerate(KINDS)
    ],
)
def test_eight_devices_train_as_one(layout: str, kind: str) -> None:
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        run = start(*on_mesh(LAYOUTS[layout], mesh))
        before = jax.tree.map(lambda x: x.sharding, nnx.state(run.net))
        losses, masks = train(run)
    np.testing.assert_allclose(losses, one_device()[0], rtol=2e-6)
    for name, mask in one_device()[1].items():
        np.testing.assert_array_equal(masks[name], mask, err_msg=name)
    assert all(
        x.sharding.is_equivalent_to(there, x.ndim)
        for x, there in zip(
            jax.tree.leaves(nnx.state(run.net)), jax.tree.leaves(before), strict=True
        )
    )


# What devices tell one another.


def exchanged(run: Run) -> collections.Counter:
    """The collectives of a compiled train step: kind and shape of each array in them."""
    text = step.lower(*run).compile().as_text()
    kinds = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    calls = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    shapes = [
        (kind, shape) for result, kind in calls for shape in re.findall(r"\w+\[[^]]*\]", result)
    ]
    return collections.Counter(shapes)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("data parallel", "Auto"),
        ("split weights", "Auto"),
        ("data and outputs", "Explicit"),
    ],
)
def test_masks_make_devices_exchange_little_more(layout: str, kind: str) -> None:
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        masked = exchanged(start(*on_mesh(LAYOUTS[layout], mesh)))
        plain = exchanged(dense(*on_mesh(LAYOUTS[layout], mesh)))
    more = masked - plain
    assert plain["all-reduce", "f32[16,16]"] >= 3 and not plain - masked
    if layout == "data parallel":
        # not even the thresholds' gradients: they follow from the weights', once those are added up
        assert not more
    else:
        # counts by which Top, Gibbs and TargetDensity choose, the cost, thresholds of half a layer
        assert {kind for kind, _ in more} == {"all-reduce"}
        assert max(numbers(shape) for _, shape in more) <= 8


def numbers(shape: str) -> int:
    """How many there are in an array that a compiled program calls f32[4,2]."""
    return math.prod(int(n) for n in re.findall(r"(?<=[\[,])\d+", shape))
