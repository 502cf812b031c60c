"""What people try first works, or they are told the right word."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.support.zoo import MLP

pytestmark = pytest.mark.standard_dtypes


class Masked(nnx.Module):
    """Has an input by name, and a setting by name; 3 of 8 hidden units are alive."""

    def __init__(self) -> None:
        self.a = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(8, 3, rngs=nnx.Rngs(1))
        self.a.kernel[...] = self.a.kernel[...].at[:, 3:].set(0.0)

    def __call__(self, x: jax.Array, *, mask: jax.Array, double: bool = False) -> jax.Array:
        y = self.b(nnx.relu(self.a(x)) * mask)
        return 2.0 * y if double else y


class Einsum(nnx.Module):
    """A module of people's own, as in Gemma."""

    def __init__(self, einsum_str: str, shape: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.einsum_str = einsum_str
        self.w = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.einsum(self.einsum_str, x, self.w[...])


X, MASK = jnp.ones((4, 6)), jnp.array([[1.0], [0.0], [1.0], [1.0]])
PAIRS = [("a/kernel", js.Keep()), (".*/kernel", js.Threshold())]


@pytest.mark.parametrize("rules", [PAIRS, dict(PAIRS), tuple(PAIRS)], ids=["list", "dict", "tuple"])
def test_rules_come_as_a_list_or_a_dict(rules: Any) -> None:
    model = MLP(nnx.Rngs(0))
    kinds = {slot: type(js.sparsify(model, rules).a.kernel.rule) for slot in ("a",)}
    assert kinds == {"a": js.Keep}
    assert str(js.summary(js.sparsify(model, rules))) == str(js.summary(js.sparsify(model, *PAIRS)))
    params = {name: {"kernel": jnp.ones((3, 4))} for name in "ab"}
    assert js.tree.plan(params, rules) == js.tree.plan(params, *PAIRS)


def test_revisions_come_as_a_dict() -> None:
    by = js.SET(last=9, every=1)
    assert js.revise(optax.sgd(0.1), {".*": by}).revisions == ((".*", by),)


SPARSITY: dict[str, Callable[..., Any]] = {
    "rule": js.Top,
    "curve": js.Movement,
    "revision": lambda **named: js.Gradual(last=9, **named),
    "control": lambda **named: js.TargetDensity(steps=9, **named),
    "pruning": lambda **named: js.prune.magnitude(
        js.sparsify(MLP(nnx.Rngs(0)), (".*/kernel", js.Held())), **named
    ),
}


@pytest.mark.parametrize("kind", SPARSITY)
def test_a_sparsity_is_told_its_density(kind: str) -> None:
    with pytest.raises(TypeError, match=r"the fraction kept, not the sparsity: pass density=0\.1$"):
        SPARSITY[kind](sparsity=0.9)


def test_gibbs_is_annealed_by_default() -> None:
    rule = js.Gibbs(density=0.2)
    assert rule == js.Gibbs(density=0.2, beta=js.schedule.geometric(1.0, 1e4, 0, 10_000))


SHAPES: dict[str, tuple[Any, ...]] = {
    "array": (X,),
    "shape": ((4, 6),),
    "struct": (jax.ShapeDtypeStruct((4, 6), jnp.float32),),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_inputs_are_arrays_or_their_shapes(kind: str, tmp_path) -> None:
    model = MLP(nnx.Rngs(0))
    model.a.kernel[...] = model.a.kernel[...].at[:, 2:].set(0.0)
    small, record = js.shrink(model, *SHAPES[kind])
    assert small.a.out_features == 2 and "a/kernel" in record.cuts
    assert js.report.costs(model, *SHAPES[kind]).flops == js.report.costs(model, X).flops
    js.export.save(tmp_path / "model", small, *SHAPES[kind])
    np.testing.assert_allclose(js.export.load(tmp_path / "model")(X), model(X), rtol=1e-4)


def test_whole_numbers_are_zeros_where_only_their_shape_is_given() -> None:
    model = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
    small, _ = js.shrink(model, jax.ShapeDtypeStruct((2, 3), jnp.int32))
    assert small.embedding.shape == (5, 4)


def test_inputs_by_name_are_inputs_and_not_constants(tmp_path) -> None:
    model = Masked()
    expected = model(X, mask=MASK, double=True)
    small, record = js.shrink(model, X, mask=jnp.zeros((4, 1)), double=True)  # 0 is no constant
    assert type(small) is Masked and record.cuts["a/kernel"].left == (6, 3)
    np.testing.assert_allclose(small(X, mask=MASK, double=True), expected, rtol=1e-5)
    flops = js.report.costs(model, X, mask=MASK).flops
    assert flops == 2 * 4 * (6 * 8 + 8 * 3)
    js.export.save(tmp_path / "model", small, X, mask=MASK, double=True, record=record)
    loaded = js.export.load(tmp_path / "model")
    np.testing.assert_allclose(loaded(X, MASK), expected, rtol=1e-5)
    assert np.abs(loaded(X, 1 - MASK) - expected).max() > 0.1
    with pytest.raises(TypeError, match=r"inputs by position, .*; got mask, double by name"):
        loaded(X, mask=MASK, double=True)
    assert loaded.about["layers"][""]["class"].endswith("Masked")
    restored = js.export.restore(tmp_path / "model", Masked())
    np.testing.assert_allclose(restored(X, mask=MASK, double=True), expected, rtol=1e-5)


def test_groups_and_their_removal_take_inputs_by_name() -> None:
    model, x = Masked(), jax.random.normal(jax.random.key(0), X.shape)
    assert js.groups(model, X, mask=MASK, double=True)["a/kernel:1"].width == 8

    def importance(model: Any, groups: Any) -> list[np.ndarray]:
        (group,) = groups
        assert model(X, mask=MASK).shape == (4, 3)  # in its own way
        return [np.arange(group.width)]

    small, _ = js.prune.units(model, X, mask=MASK, double=True, density=0.5, importance=importance)
    model.b.kernel[...] = model.b.kernel[...].at[:4].set(0.0)
    assert type(small) is Masked and small.a.out_features == 4
    expected = model(x, mask=MASK, double=True)
    np.testing.assert_allclose(small(x, mask=MASK, double=True), expected, rtol=1e-5)
    cost = js.prune.costs.flops(X, mask=MASK, double=True)
    fewer, _ = js.prune.units(model, X, mask=MASK, double=True, budget=0.6, cost=cost)
    assert fewer.a.out_features == 4


def test_every_call_with_example_inputs_takes_them_by_name() -> None:
    by_name = {"mask": MASK, "double": True}
    scope = js.Groups(4, skip=True)
    ordered, _ = js.prune.permute(Masked(), X, density=0.5, scope=scope, **by_name)
    assert type(ordered) is Masked
    np.testing.assert_allclose(ordered(X, **by_name), Masked()(X, **by_name), rtol=1e-4, atol=1e-6)
    model = js.sparsify(Masked(), (".*kernel", js.Held()))
    of = lambda units: jnp.arange(8)[None] < units
    some, all_units = (
        js.prune.synflow_scores(model, (1, 6), mask=of(units), double=True)["b/kernel"]
        for units in (2, 8)
    )
    np.testing.assert_allclose(some, np.where(of(2).T, all_units, 0.0), rtol=1e-6)
    assert js.prune.synflow(model, (1, 6), density=0.5, rounds=1, **by_name)
    model = js.hold(model, {"a/kernel": jnp.ones((6, 8)).at[:, :2].set(0.0)})
    optimizer = js.Optimizer(model, optax.sgd(0.1))
    small, _, _ = js.shrink_training(model, optimizer, X, **by_name)
    assert type(small) is Masked and small.a.kernel.weight.shape == (6, 1)


class Clashing(Masked):
    """Arguments of a call have the names of settings."""

    def __call__(self, x: jax.Array, keep: Any = 1.0, mend: Any = 1.0, shapes: Any = 1.0) -> Any:
        return super().__call__(x, mask=jnp.ones((1, 8))) * keep * mend * shapes


CLASHES = {
    "shrink keep": lambda: js.shrink(Clashing(), X, keep=MASK),
    "groups mend": lambda: js.groups(Clashing(), X, mend=MASK),
    "units keep": lambda: js.prune.units(Clashing(), X, density=0.5, keep=MASK),
    "permute weights": lambda: js.prune.permute(
        Clashing(), X, density=0.5, scope=js.Groups(4), weights=MASK
    ),
    "shrink_training mend": lambda: js.shrink_training(Clashing(), None, X, mend=MASK),
    "pick formats": lambda: js.export.pick(Clashing(), X, formats=MASK),
    "save shapes": lambda: js.export.save("model", Clashing(), X, shapes=MASK),
    "stablehlo shapes": lambda: js.export.stablehlo(Clashing(), X, shapes=MASK),
    "onnx shapes": lambda: js.export.onnx("model.onnx", Clashing(), X, shapes=MASK),
}


@pytest.mark.parametrize("name", CLASHES)
def test_an_input_with_the_name_of_a_setting_goes_by_position(name: str) -> None:
    setting = name.split()[1]
    hint = r"; pass an input of the model with that name by position$"
    with pytest.raises(TypeError, match=rf"^{setting} (must|holds) .*{hint}"):
        CLASHES[name]()


def test_by_position_it_is_an_input() -> None:
    assert js.groups(Clashing(), X, MASK)["a/kernel:1"].width == 8


SIZED = {
    "shrink": lambda: js.shrink(MLP(nnx.Rngs(0)), x=(4, 6)),
    "groups": lambda: js.groups(MLP(nnx.Rngs(0)), x=(4, 6)),
    "units": lambda: js.prune.units(MLP(nnx.Rngs(0)), x=(4, 6), density=0.5),
    "flops": lambda: js.prune.costs.flops(x=(4, 6))(MLP(nnx.Rngs(0))),
    "latency": lambda: js.prune.costs.latency(x=(4, 6))(MLP(nnx.Rngs(0))),
}


@pytest.mark.parametrize("name", SIZED)
def test_a_shape_by_name_goes_by_position(name: str) -> None:
    with pytest.raises(TypeError, match=r"got x=\(4, 6\) by name.* give the shape by position"):
        SIZED[name]()


def test_a_shape_without_a_size_for_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has sizes of 0 or more; got \(-1, 6\)"):
        js.groups(MLP(nnx.Rngs(0)), (-1, 6))


def test_timed_inputs_by_name_are_inputs_and_not_constants() -> None:
    traced = []

    class Noting(Masked):
        def __call__(self, x: jax.Array, **named: Any) -> jax.Array:
            traced.append(isinstance(named["mask"], jax.core.Tracer))
            return super().__call__(x, **named)

    seconds = js.prune.costs.latency(X, mask=MASK, double=True, calls=1)(Noting())
    assert seconds > 0 and traced == [True]


def test_pick_takes_inputs_by_name_and_shows_sizes(monkeypatch) -> None:
    from jsparse.export._packing import autotune

    monkeypatch.setattr(autotune, "seconds_of", lambda models, *_: dict.fromkeys(models, 1e-3))
    picked = js.export.pick(Masked(), X, mask=MASK, double=True)
    assert type(picked.model) is Masked
    assert picked.bytes == {"dense": 4 * (48 + 8 + 24 + 3), "shrunk": 4 * (18 + 3 + 9 + 3)}
    assert picked.layers[0].bytes["dense"] == 4 * (18 + 3)
    assert "KiB" in str(picked) and "must be 1.1x as fast" in str(picked)


def test_a_saved_model_is_replaced_on_request_alone(tmp_path) -> None:
    folder, model = tmp_path / "model", MLP(nnx.Rngs(0))
    js.export.save(folder, model, X)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        js.export.save(folder, model, X)
    other = MLP(nnx.Rngs(1))
    js.export.save(folder, other, X, overwrite=True)
    np.testing.assert_allclose(js.export.load(folder)(X), other(X), rtol=1e-5)
    with pytest.raises(TypeError, match="inputs must be what a call of the model takes"):
        js.export.save(folder, other, jnp.ones((4, 5)), overwrite=True)
    np.testing.assert_allclose(js.export.load(folder)(X), other(X), rtol=1e-5)
    with pytest.raises(FileExistsError, match="holds no model that `save` wrote"):
        js.export.save(tmp_path, other, X, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_groups_that_fit_leave_a_stem_dense() -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Conv(8, 8, (3, 3), rngs=rngs))
    with pytest.raises(ValueError, match=r"length 3, .*Groups\(4, skip=True\)"):
        js.sparsify(model, (".*/kernel", js.Top(density=0.5, scope=js.Groups(4))))
    rule = js.Top(density=0.5, scope=js.Groups(4, skip=True))
    sparse = js.sparsify(model, (".*/kernel|.*/bias", rule))
    rules = {path: type(part).__name__ for path, part in rules_of(sparse).items()}
    assert rules == {
        "layers/0/bias": "Keep",
        "layers/0/kernel": "Keep",
        "layers/1/bias": "Keep",
        "layers/1/kernel": "Top",
    }
    shapes = {"stem": jnp.ones((3, 3, 3, 8)), "body": jnp.ones((3, 3, 8, 8))}
    plan = js.tree.plan(shapes, (".*", rule))
    assert {path: type(one).__name__ for path, one in plan.items()} == {
        "body": "Top",
        "stem": "Keep",
    }


def rules_of(model: nnx.Module) -> dict[str, js.Rule]:
    from jsparse._slots import sparse_parts

    return {path: part.rule for path, part in sparse_parts(model).items()}


EQUATIONS = {
    "BTD,NDH->BTNH": ((2, 4, 3), (-3, -1), (-2,), 0),
    "BTNH,NHD->BTD": ((2, 3, 4), (-1,), (-3, -2), 0),
    "BSD,CKDH->CBSKH": ((2, 2, 4, 3), (-4, -3, -1), (-2,), 0),
    "...d, df -> ...f": ((4, 3), (-1,), (-2,), 0),
    "bd,df->bf": ((5, 4, 3), (-1,), (-2,), 1),  # a stack of five
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_modules_of_people_get_their_role_from_the_equation(equation: str) -> None:
    shape, outputs, inputs, stack = EQUATIONS[equation]
    module = js.sparsify(Einsum(equation, shape, nnx.Rngs(0)), ("w", js.Threshold()))
    role = module.w.rule.role
    assert (role.outputs, role.inputs, role.stack) == (outputs, inputs, stack)


@pytest.mark.parametrize("equation", ["x", "ab", "ab,bc,cd->ad", "a,abcde->e"])
def test_what_is_no_equation_of_a_kernel_leaves_the_usual_role(equation: str) -> None:
    module = js.sparsify(Einsum(equation, (4, 3), nnx.Rngs(0)), ("w", js.Threshold()))
    assert module.w.rule.role == js.Role()


@pytest.mark.parametrize("kind", [np.ones((3, 3)), nnx.Linear, lambda: 0, {"w": np.ones((3, 3))}])
def test_what_is_no_model_is_told_so(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"nnx\.Module"):
        js.sparsify(kind, ("w", js.Held()))


def test_a_dense_state_is_refused_by_flax_and_taken_by_fill() -> None:
    rule = (".*/kernel", js.Top(density=0.5, scope=js.WholeModel()))
    dense, other = (nnx.Sequential(nnx.Linear(6, 4, rngs=nnx.Rngs(n))) for n in (0, 1))
    model = js.sparsify(other, rule)
    with pytest.raises(ValueError, match=r"Expected a subgraph for 'kernel', but got: Param"):
        nnx.update(model, nnx.state(dense))
    kernel = np.float64(dense.layers[0].kernel[...])  # type: ignore[union-attr]
    by_path = {"layers/0/kernel": kernel, "layers/0/bias": jnp.zeros(4, jnp.bfloat16)}
    again = js.sparsify(dense, rule)  # with the cut of these weights, not of the old ones
    for weights in (dense, nnx.state(dense), nnx.to_pure_dict(nnx.state(dense)), by_path, again):
        filled = js.fill(model, weights)
        for one, right in zip(*map(jax.tree.leaves, map(nnx.state, (filled, again))), strict=True):
            np.testing.assert_array_equal(one, right)
            assert one.dtype == right.dtype
    masked = js.sparsify(other, (".*/kernel", js.Held()))
    masked = js.hold(masked, {"layers/0/kernel": jnp.eye(6, 4)})
    kept = js.masks(js.fill(masked, dense))["layers/0/kernel"]
    np.testing.assert_array_equal(kept, np.eye(6, 4))


def test_fill_knows_shared_weights_and_lists_what_differs() -> None:
    class Tied(nnx.Module):
        def __init__(self, seed: int) -> None:
            self.a = self.b = nnx.Linear(3, 3, rngs=nnx.Rngs(seed))
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(seed))

    model = js.sparsify(Tied(0), ("a/kernel", js.Held()))
    for name in ("a", "b"):
        paths = {f"{name}/kernel": np.eye(3), f"{name}/bias": np.ones(3)}
        norm = {"norm/scale": np.ones(3), "norm/bias": np.zeros(3)}  # without its statistics
        filled = js.fill(model, paths | norm)
        assert filled.a.kernel is filled.b.kernel
        np.testing.assert_array_equal(filled.b.kernel[...], np.eye(3))
    other = Tied(1)
    one, right = (nnx.state(m.drop) for m in (js.fill(model, nnx.state(other)), other))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, right))
    with pytest.raises(ValueError) as error:
        js.fill(model, {"a/kernel": np.eye(4), "c": np.ones(3), "a/bias": np.ones(3, int)})
    for fault in ("a/kernel: got float32[4, 4], expected float32[3, 3]", "c: unexpected",
                  "a/bias: got int64[3], expected float32[3]", "norm/scale: missing"):  # fmt: skip
        assert fault in str(error.value)
    powers = js.sparsify(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), ("kernel", js.Powerpropagation()))
    with pytest.raises(ValueError, match="kernel: Powerpropagation holds a parameter"):
        js.fill(powers, nnx.Linear(3, 3, rngs=nnx.Rngs(1)))


@pytest.mark.parametrize("value", [None, "x", [1.0], 0.5])
def test_a_param_without_an_array_is_named(value: Any) -> None:
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    model.kernel = nnx.Param(value)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="kernel"):
        js.sparsify(model, ("kernel", js.Held()))


WRONG = {
    "value and gradients": lambda loss, model: nnx.value_and_grad(loss)(model),
    "the loss": lambda loss, model: loss(model),
    "a dict": lambda loss, model: nnx.to_pure_dict(nnx.grad(loss)(model)),
    "of the dense model": lambda loss, model: nnx.grad(loss)(nnx.Linear(6, 4, rngs=nnx.Rngs(0))),
    "nothing": lambda loss, model: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_gradients_of_the_model_is_refused(name: str) -> None:
    model = js.sparsify(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), ("kernel", js.Threshold()))
    optimizer = js.Optimizer(model, optax.sgd(0.1))

    def loss(model: nnx.Linear) -> jax.Array:
        return jnp.square(model(jnp.ones((2, 6)))).sum() + js.cost(model)

    with pytest.raises(TypeError, match=r"^grads must be the gradients of this model, as `grads"):
        optimizer.update(model, WRONG[name](loss, model))


def test_the_state_of_another_rule_is_refused() -> None:
    """Its mask was loaded beside the threshold, and ignored."""
    dense = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    held, learned = (js.sparsify(dense, ("kernel", rule)) for rule in (js.Held(), js.Threshold()))
    with pytest.raises(ValueError, match=r"has weight, .* and no mask, .* another"):
        nnx.update(learned, nnx.state(held))
    nnx.update(held, nnx.state(js.sparsify(dense, ("kernel", js.Held()))))


def test_gradients_of_fewer_variables_than_are_trained_are_refused() -> None:
    model = js.sparsify(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), ("kernel", js.Threshold()))
    optimizer = js.Optimizer(model, optax.sgd(0.1))
    some = nnx.DiffState(0, nnx.All(nnx.Param, nnx.Not(js.Learned)))
    grads = nnx.grad(lambda model: model(jnp.ones((2, 6))).sum(), argnums=some)(model)
    with pytest.raises(TypeError, match=r"^grads lack those of kernel/threshold, .*argnums=nnx"):
        optimizer.update(model, grads)


def test_a_model_with_nothing_to_train_takes_its_empty_gradients() -> None:
    model = nnx.Sequential(nnx.relu)
    optimizer = js.Optimizer(model, optax.sgd(0.1))
    optimizer.update(model, nnx.grad(lambda model: model(jnp.ones(3)).sum())(model))
    assert int(optimizer.step[...]) == 1


HINTED = {
    "a glob": (
        lambda: js.sparsify(MLP(nnx.Rngs(0)), ("*kernel", js.Held())),
        r"a pattern is a regular expression for the whole path, such as '\.\*/kernel'$",
    ),
    "a list as a shape": (
        lambda: js.shrink(MLP(nnx.Rngs(0)), [4, 6]),
        r"for a shape give a tuple: \(4, 6\)",
    ),
    "a format as a str": (
        lambda: js.export.pack(MLP(nnx.Rngs(0)), "csr"),
        r"^format must be a function, as jsparse\.export\.csr\(\) gives; got 'csr'$",
    ),
}


@pytest.mark.parametrize("name", HINTED)
def test_near_misses_are_told_what_to_write(name: str) -> None:
    wrong, hint = HINTED[name]
    with pytest.raises((TypeError, ValueError), match=hint):
        wrong()
