"""Many devices: state lies where its weight does, and training there is training on one device.

Devices add the same numbers in another order, so losses and weights differ by rounding, about 1e-7
of their size. A mask differs only where a weight lies that near to its threshold or to the cut, or
a random number to its probability. `test_no_weight_is_on_an_edge` checks that none of the run's
weights ever does, by far; 3000 random numbers do so with a chance of 3e-4, and are always the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding

import jsparse as js
from tests.cases import RULES
from tests.sharded import AXES

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
@pytest.mark.parametrize("rule", ["threshold block", "gibbs filter"])
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
    return {js.tree.path_of(path): spec for path, spec in leaves}


@pytest.mark.parametrize("kind", KINDS)
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
