"""Structure is an argument: each unit and scope works for each rule, or the rule names another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js

WEIGHT = jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
KEY = jax.random.key(1)
UNITS = [js.Weight(), js.Kernel(), js.Filter(), js.Channel(), js.Block((2, 2)), js.Head()]
COMPETING = {
    "top": lambda **structure: js.Top(density=0.5, **structure),
    "gibbs": lambda **structure: js.Gibbs(density=0.5, beta=1e6, sweeps=1, **structure),
    "movement": lambda **structure: js.Movement(density=0.5, **structure),
    "powerpropagation": lambda **structure: js.Powerpropagation(density=0.5, **structure),
    "sr-ste": lambda **structure: js.SRSTE(density=0.5, **structure),
}
SHARING = {"threshold": js.Threshold, "soft threshold": js.SoftThreshold}
ALONE = {
    "hard concrete": lambda **structure: js.HardConcrete(lam=1e-3, **structure),
    "soft movement": lambda **structure: js.SoftMovement(lam=1e-3, **structure),
}


def mask(rule: js.Rule) -> np.ndarray:
    state = rule.init(WEIGHT, KEY)
    return np.asarray(jax.jit(rule.mask)(state.pop("weight", WEIGHT), state))


@pytest.mark.parametrize("unit", UNITS, ids=repr)
@pytest.mark.parametrize("make", [*COMPETING.values(), *SHARING.values(), *ALONE.values()])
def test_every_unit_falls_together(make: Callable, unit) -> None:
    """All weights of a unit share the mask; heads are taken to be numbered by the last axis."""
    role = js.Role(heads=(-1,)) if unit == js.Head() else js.Role()
    kept = mask(make(unit=unit, role=role))
    together = {
        js.Weight(): kept.reshape(-1, 1),
        js.Kernel(): kept.reshape(9, 24).T,
        js.Filter(): kept.reshape(36, 6).T,
        js.Head(): kept.reshape(36, 6).T,
        js.Channel(): kept.transpose(2, 0, 1, 3).reshape(4, -1),
        js.Block((2, 2)): kept.reshape(9, 2, 2, 3, 2).transpose(0, 1, 3, 2, 4).reshape(54, 4),
    }[unit]
    assert (together == together[:, :1]).all()


@pytest.mark.parametrize(
    ("scope", "axes"),
    [(js.Whole(), ()), (js.WholeModel(), ()), (js.PerOutput(), (3,)), (js.Groups(2), None)],
    ids=repr,
)
@pytest.mark.parametrize("make", COMPETING.values(), ids=COMPETING)
def test_half_is_kept_in_every_scope(make: Callable, scope, axes) -> None:
    kept = mask(make(scope=scope))
    if axes is None:
        np.testing.assert_array_equal(kept.reshape(3, 3, 2, 2, 6).sum(axis=3), 1)
    else:
        others = tuple(a for a in range(4) if a not in axes)
        np.testing.assert_array_equal(kept.mean(axis=others), 0.5)


@pytest.mark.parametrize("make", COMPETING.values(), ids=COMPETING)
def test_units_that_are_alone_in_their_scope_are_refused(make: Callable) -> None:
    for scope in (js.PerOutput(), js.Groups(1)):
        with pytest.raises(ValueError, match=r"each unit is alone .* use Whole\(\), WholeModel"):
            make(unit=js.Filter(), scope=scope).init(WEIGHT, KEY)


REFUSED = [
    *(
        (make, js.Each(), "no unit competes, so .* would keep all; use Whole")
        for make in COMPETING.values()
    ),
    *((make, js.Groups(2), "use PerOutput.* or Top") for make in SHARING.values()),
    *((make, js.WholeModel(), "use PerOutput.* or Top") for make in SHARING.values()),
    *((ALONE["hard concrete"], scope, "Top") for scope in (js.Whole(), js.Groups(2))),
]


@pytest.mark.parametrize(("make", "scope", "words"), REFUSED)
def test_what_makes_no_sense_is_refused_with_a_way_out(make: Callable, scope, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(scope=scope)


def test_a_class_in_place_of_a_unit_is_refused() -> None:
    with pytest.raises(TypeError, match=r"unit is the class Filter; pass an instance: Filter\(\)"):
        js.Top(density=0.5, unit=js.Filter)


def test_heads_need_an_axis_of_heads() -> None:
    with pytest.raises(ValueError, match=r"Head\(\) needs an axis of attention heads"):
        js.Top(density=0.5, unit=js.Head()).init(WEIGHT, KEY)
    with pytest.raises(ValueError, match=r"kernel: Head\(\) needs"):
        js.sparsify(
            nnx.Linear(4, 4, rngs=nnx.Rngs(0)), ("kernel", js.Top(density=0.5, unit=js.Head()))
        )


def test_heads_of_attention() -> None:
    """Query, key and value number their heads among the outputs, the last projection its inputs."""
    layer = nnx.MultiHeadAttention(4, 8, decode=False, rngs=nnx.Rngs(0))
    masks = js.masks(js.sparsify(layer, (".*/kernel", js.Top(density=0.25, unit=js.Head()))))
    for path, kept in masks.items():
        axis = 0 if path.startswith("out") else 1
        alive = np.asarray(kept).mean(axis=tuple(a for a in range(3) if a != axis))
        assert sorted(alive) == [0, 0, 0, 1], path


def test_a_whole_model_keeps_the_largest_of_all_layers() -> None:
    """As magnitude pruning over all weights together, also after a train step and in a tree."""
    layers = [nnx.Linear(6, 8, rngs=nnx.Rngs(n)) for n in range(3)]
    layers[2].kernel[...] *= 5.0
    model = js.sparsify(
        nnx.Sequential(*layers), (".*/kernel", js.Top(density=0.2, scope=js.WholeModel()))
    )
    for moved in (model, _scaled(model)):
        weights = np.concatenate([np.ravel(p.weight[...]) for p in _parts(moved)])
        kept = np.concatenate([np.ravel(m) for m in js.masks(moved).values()])
        largest = np.sort(np.abs(weights))[-round(0.2 * weights.size) :]
        np.testing.assert_array_equal(np.sort(np.abs(weights[kept > 0])), largest)
    params = {p: part.weight[...] for p, part in zip("abc", _parts(model), strict=True)}
    plan = js.tree.plan(params, (".*", js.Top(density=0.2, scope=js.WholeModel())))
    planned = js.tree.mask(plan, params, *js.tree.init(plan, params, KEY))
    for ours, other in zip(js.masks(model).values(), planned.values(), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_layers_that_were_joined_are_cut_together_by_the_optimizer() -> None:
    rule = js.Top(density=0.1, scope=js.WholeModel())
    layers = [js.Linear(20, 20, rule=rule, rngs=nnx.Rngs(n)) for n in range(2)]
    layers[1].kernel.weight[...] *= 5.0
    model = nnx.Sequential(*layers)
    js.Optimizer(model, optax.sgd(0.1))
    first, second = (float(mask.mean()) for mask in js.masks(model).values())
    assert first + second == pytest.approx(0.2) and second > 0.15


def test_first_scores_know_nothing_of_the_weights() -> None:
    """Though models and rules start from the same default keys."""
    kernel = js.sparsify(
        nnx.Linear(100, 100, rngs=nnx.Rngs(0)), ("kernel", js.Movement(density=0.1))
    ).kernel
    scores, weight = np.ravel(kernel.scores[...]), np.ravel(kernel.weight[...])
    assert abs(np.corrcoef(scores / 1e-20, weight)[0, 1]) < 0.05  # 5 deviations of 10,000 pairs


def test_a_reparameterized_weight_cannot_be_set_as_a_weight() -> None:
    layer = js.Linear(3, 3, rule=js.Powerpropagation(), rngs=nnx.Rngs(0))
    for setter in (
        lambda: layer.kernel.__setitem__(..., 1.0),
        lambda: setattr(layer.kernel, "value", jnp.ones((3, 3))),
    ):
        with pytest.raises(ValueError, match="set the weight before sparsify"):
            setter()


def _parts(model: nnx.Module) -> list[js.Sparse]:
    return [layer.kernel for layer in model.layers]


def _scaled(model: nnx.Module) -> nnx.Module:
    """Other weights, then the events of a train step."""
    model = js.advance(model)
    _parts(model)[0].weight[...] *= 9.0
    return js.advance(model)


@pytest.mark.parametrize("weights", ["bfloat16", "zeros"])
def test_a_whole_model_keeps_exactly_its_density_of_equal_weights(weights: str) -> None:
    layer = lambda n: nnx.Linear(64, 32, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(n))
    model = nnx.Sequential(layer(0), layer(1))
    if weights == "zeros":
        model.layers[0].kernel[...] *= 0
        model.layers[1].kernel[...] *= (jnp.arange(32) < 1)[None].astype(
            jnp.bfloat16
        )  # 64 weights that are not
    model = js.sparsify(model, (".*/kernel", js.Top(density=0.05, scope=js.WholeModel())))
    kept = js.masks(js.advance(model))
    assert sum(int(mask.sum()) for mask in kept.values()) == round(0.05 * 4096)
    if weights == "zeros":
        assert kept["layers/1/kernel"][:, 0].all()


def test_a_count_of_steps_refuses_to_stop() -> None:
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Movement(density=0.5)))
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model)))
    with pytest.raises(
        TypeError, match=r"step of a rule has become bfloat16.*cast only the parameters"
    ):
        js.advance(model)


def test_curves_are_checked_at_their_ends() -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 1.5"):
        js.Movement(density=js.schedule.cubic(1.5, 0.1, 0, 9))
    with pytest.raises(ValueError, match="beta must be a number, 0 or more; got -1"):
        js.Gibbs(density=0.1, beta=js.schedule.constant(-1.0))
