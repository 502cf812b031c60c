from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from tests.support.cases import Raw, Shared, parts

RULE = js.Threshold(alpha=1e-2)
CURVE = js.schedule.cubic(1.0, 0.1, first=0, last=9)


class Net(nnx.Module):
    """A convolution, batch norm, dropout and a list of dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        layers = [nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers
        self.count = nnx.Param(jnp.array(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop(self.norm(self.conv(x)))
        x = nnx.relu(x).reshape(len(x), -1)
        for layer in self.layers:
            x = layer(x)
        return x


X = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))


def net() -> Net:
    return Net(nnx.Rngs(0))


def test_paths_and_first_match_wins() -> None:
    model = js.sparsify(net(), ("layers/1/kernel", js.Keep()), (".*/kernel", RULE))
    rules = {path: row.rule for path, row in js.summary(model).rows.items()}
    assert rules == {
        "conv/kernel": "Threshold",
        "layers/0/kernel": "Threshold",
        "layers/1/kernel": "Keep",
    }


class Keyed(nnx.Module):
    def __init__(self) -> None:
        layers = {"01": nnx.Linear(4, 3, rngs=nnx.Rngs(0))}
        self.layers = nnx.Dict(layers) if hasattr(nnx, "Dict") else layers


def test_keys_of_digits_keep_their_leading_zeros() -> None:
    model = js.sparsify(Keyed(), ("layers/01/kernel", RULE))
    assert isinstance(model.layers["01"].kernel, js.Sparse)


def test_the_model_given_is_left_alone() -> None:
    model = net()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    sparse = js.sparsify(model, (".*/kernel", RULE))
    sparse.conv.kernel.weight[...] = jnp.zeros((3, 3, 1, 4))
    assert isinstance(model.conv.kernel, nnx.Param)
    jax.tree.map(
        np.testing.assert_array_equal, nnx.state(model, nnx.Param), nnx.state(net(), nnx.Param)
    )
    assert jax.tree.structure(before) == jax.tree.structure(nnx.state(model))


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        ([], ValueError, "rules: none given"),
        ([(".*/kernle", RULE)], ValueError, "matches no parameter; nearest: .*conv/kernel"),
        ([("(", RULE)], ValueError, "not a regular expression"),
        ([RULE], ValueError, "each is a pair"),
        ([("count", RULE)], TypeError, "count: a rule needs a floating-point weight, got int32"),
        (
            [("conv/kernel", js.Top(density=0.5, scope=js.Groups(3)))],
            ValueError,
            "conv/kernel: axis 2",
        ),
        (
            [("norm/scale", js.Top(density=0.5, scope=js.Groups(2)))],
            ValueError,
            "needs an input axis",
        ),
    ],
)
def test_bad_patterns(rules, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        js.sparsify(net(), *rules)


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"got dict; for Linen params .* jsparse\.tree"):
        js.sparsify({"kernel": jnp.ones((2, 2))}, ("kernel", RULE))  # type: ignore[type-var]


def test_a_pattern_finds_a_kernel_at_the_top() -> None:
    model = js.sparsify(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), (".*/kernel", RULE))
    assert isinstance(model.kernel, js.Sparse)


def test_shared_weights_stay_shared_and_count_once() -> None:
    for pattern in ("first/kernel", "second/kernel", ".*/kernel"):
        model = js.sparsify(Shared(nnx.Rngs(0)), (pattern, RULE))
        assert model.first.kernel is model.second.kernel
        assert js.summary(model).size == 16
        assert float(js.cost(model)) == pytest.approx(4 * 1e-2)
        for other in (js.fold(model), js.resolve(model), js.hold(model), js.advance(model)):
            assert other.first.kernel is other.second.kernel


def test_the_earlier_rule_wins_for_a_shared_weight() -> None:
    model = js.sparsify(Shared(nnx.Rngs(0)), ("second/.*kernel", js.Keep()), ("first/kernel", RULE))
    assert isinstance(model.first.kernel.rule, js.Keep)


def test_a_sparse_model_can_get_other_rules() -> None:
    model = js.sparsify(net(), (".*/kernel", RULE))
    again = js.sparsify(model, ("conv/kernel", js.Top(density=0.5)))
    assert isinstance(again.conv.kernel.rule, js.Top)
    assert isinstance(again.layers[0].kernel.rule, js.Threshold)
    np.testing.assert_array_equal(again.conv.kernel.weight[...], model.conv.kernel.weight[...])
    model.eval()  # the mode is that of the model, not of the rule
    for other in (js.sparsify(model, ("conv/kernel", js.HardConcrete(lam=1.0))), js.hold(model)):
        assert other.conv.kernel.deterministic


def test_a_role_given_by_the_user_stays() -> None:
    role = js.Role(outputs=(-2,), inputs=(-1,))
    model = js.sparsify(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel", js.Threshold(role=role)))
    assert model.kernel.threshold.shape == (4,)


@pytest.mark.parametrize(
    ("layer", "path", "shape"),
    [
        (lambda r: nnx.Linear(4, 3, rngs=r), "kernel", (3,)),
        (lambda r: nnx.LinearGeneral((2, 4), (3, 5), axis=(-2, -1), rngs=r), "kernel", (3, 5)),
        (lambda r: nnx.LinearGeneral(4, 3, batch_axis={0: 2}, rngs=r), "kernel", (2, 3)),
        (lambda r: nnx.Conv(2, 6, 3, rngs=r), "kernel", (6,)),
        (lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r), "kernel", (6,)),
        (lambda r: nnx.ConvTranspose(6, 2, (3,), transpose_kernel=True, rngs=r), "kernel", (2,)),
        (lambda r: nnx.Einsum("bi,hio->bho", (2, 4, 3), rngs=r), "kernel", (2, 3)),
        (lambda r: nnx.Embed(6, 4, rngs=r), "embedding", (4,)),
        (lambda r: nnx.MultiHeadAttention(2, 4, decode=False, rngs=r), "query/kernel", (2, 2)),
        (lambda r: nnx.MultiHeadAttention(2, 4, decode=False, rngs=r), "out/kernel", (4,)),
    ],
)
def test_one_threshold_an_output_unit(layer, path: str, shape: tuple) -> None:
    (part,) = parts(js.sparsify(layer(nnx.Rngs(0)), (path, js.Threshold())))
    assert part.threshold.shape == shape


def test_resolve_shares_what_a_pass_writes() -> None:
    model = js.sparsify(net(), (".*/kernel", RULE))
    before = np.asarray(model.norm.mean[...])
    js.resolve(model)(X)
    assert (np.asarray(model.norm.mean[...]) != before).any()


def test_fold_is_independent_and_plain() -> None:
    model = js.sparsify(net(), (".*/kernel", js.Top(density=0.3)))
    model.eval()
    folded = js.fold(model)
    np.testing.assert_allclose(folded(X), model(X), atol=1e-6)
    assert type(folded.conv.kernel) is nnx.Param and type(folded.conv) is nnx.Conv
    folded.conv.kernel[...] = jnp.zeros((3, 3, 1, 4))
    assert (np.asarray(model.conv.kernel.weight[...]) != 0).all()


def test_copies_of_a_layer_that_was_never_cloned() -> None:
    """Its attributes are in the order of definition, a clone's are sorted."""
    layer = js.Linear(8, 6, rule=js.Top(density=0.5), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 8))
    for copy in (js.fold(layer), js.resolve(layer), js.hold(layer), js.advance(layer)):
        assert copy.bias.shape == (6,)
        np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(copy, x), layer(x), rtol=1e-5)


def test_no_compare_is_left_in_a_folded_layer() -> None:
    layer = js.Linear(8, 6, rule=js.Threshold(), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 8))
    text = lambda layer: jax.jit(lambda m, x: m(x)).lower(layer, x).compile().as_text()
    assert " compare(" in text(layer)
    assert " compare(" not in text(js.fold(layer))


def test_masks_are_named_by_path() -> None:
    masks = js.masks(js.sparsify(net(), ("layers/.*/kernel", js.Top(density=0.5))))
    assert {path: float(m.mean()) for path, m in masks.items()} == {
        "layers/0/kernel": 0.5,
        "layers/1/kernel": 0.5,
    }


def test_hold_keeps_the_present_or_the_given_mask() -> None:
    model = js.sparsify(Raw(nnx.Rngs(0)), ("w", js.Top(density=0.5)))
    mask = jnp.zeros((4, 6)).at[0].set(1.0)
    np.testing.assert_array_equal(js.hold(model).w.mask[...], js.masks(model)["w"])
    np.testing.assert_array_equal(js.hold(model, {"w": mask}).w.mask[...], mask)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"v": jnp.ones((4, 6))}, "'v' is not a sparse weight; available: w"),
        ({"w": jnp.ones((4, 5))}, r"mask of shape \(4, 5\)"),
        ({"w": jnp.full((4, 6), 0.5)}, "only 0 and 1"),
    ],
)
def test_hold_refuses(new: dict, words: str) -> None:
    model = js.sparsify(Raw(nnx.Rngs(0)), ("w", js.Top(density=0.5)))
    with pytest.raises(ValueError, match=words):
        js.hold(model, new)


class Odd(nnx.Module):
    """A private attribute, and parameters in a tuple."""

    def __init__(self, rngs: nnx.Rngs):
        self._hidden = nnx.Linear(4, 4, rngs=rngs)
        self.pair = nnx.data((nnx.Param(jnp.eye(4)), nnx.Param(jnp.ones((4, 4)))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._hidden(x) @ self.pair[0] @ self.pair[1]


def test_private_attributes_and_tuples_of_parameters() -> None:
    dense = Odd(nnx.Rngs(0))
    model = js.sparsify(dense, (".*", js.Top(density=0.5)))
    assert set(js.masks(model)) == {"_hidden/kernel", "_hidden/bias", "pair/0", "pair/1"}
    x = jnp.ones((2, 4))
    for copy in (js.fold(model), js.resolve(model), js.hold(model)):
        np.testing.assert_allclose(copy(x), model(x), rtol=1e-6)
    assert not parts(js.fold(model)) and len(parts(js.hold(model))) == 4
    np.testing.assert_allclose(js.fold(dense)(x), dense(x))


class Pair(NamedTuple):
    w: nnx.Param
    b: nnx.Param


class Held(nnx.Pytree):
    def __init__(self):
        self.w = nnx.Param(jnp.ones((4, 4)))
        self.pair = nnx.data(Pair(nnx.Param(jnp.ones((4, 3))), nnx.Param(jnp.ones(3))))


class Holder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.held, self.dropout = Held(), nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(x @ self.held.w @ self.held.pair.w * self.held.pair.b[None])


def test_pytrees_and_named_tuples_of_parameters() -> None:
    dense = Holder(nnx.Rngs(0))
    model = js.sparsify(dense, (".*w", js.Threshold()), ("held/pair/.*", js.Threshold()))
    assert set(js.masks(model)) == {"held/w", "held/pair/0", "held/pair/1"}
    x = jnp.ones((2, 4))
    for copy in (model, js.fold(model), js.resolve(model)):
        np.testing.assert_allclose(copy(x), dense(x))
    assert not parts(js.fold(model))


def test_a_copy_survives_a_donated_step() -> None:
    dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    model = js.sparsify(dense, ("kernel", RULE))
    copies = [dense, js.fold(model), js.hold(model), js.advance(model)]
    jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)(nnx.state(model))
    for copy in copies:
        assert np.isfinite(np.asarray(copy(jnp.ones((2, 4))))).all()


def test_the_bias_of_a_stack_has_its_own_state_a_layer() -> None:
    @nnx.split_rngs(splits=5)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> nnx.Conv:
        return nnx.Conv(2, 4, (3,), rngs=rngs)

    model = js.sparsify(make(nnx.Rngs(0)), ("bias", js.Threshold()))
    assert model.bias.threshold.shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: js.sparsify(net(), (".*/kernel", js.Threshold)), TypeError, "is not a rule"),
        (lambda: js.sparsify(net(), (".*/kernel", 0.5)), TypeError, "is not a rule"),
        (
            lambda: js.Threshold(scope=js.Groups(2)),
            ValueError,
            "groups and whole models cannot share a threshold",
        ),
        (lambda: js.Top(density=0.1, scope=js.Each()), ValueError, "Top would keep all"),
        (lambda: js.Top(density="0.5"), ValueError, r"in \(0, 1\]"),
        (
            lambda: js.Top(density=CURVE),
            ValueError,
            r"got cubic\(.*For a curve, use Gradual",
        ),
        (lambda: js.Threshold(alpha=CURVE), ValueError, "is a number, .* such as TargetDensity"),
        (lambda: js.Groups("4"), ValueError, "size must be a whole number, 1 or more; got '4'"),
        (
            lambda: js.sparsify(net(), (".*/kernel", js.Threshold(unit="filter"))),
            TypeError,
            r"unit is 'filter', not a unit; pass one, such as Filter\(\)",
        ),
        (
            lambda: js.sparsify(net(), (".*/kernel", js.Threshold(scope="output"))),
            TypeError,
            "scope is 'output', not a scope",
        ),
        (
            lambda: js.sparsify(net(), (".*/kernel", RULE), rngs=0),
            TypeError,
            "rngs must be nnx.Rngs, .*; got 0",
        ),
        (
            lambda: js.sparsify(nnx.eval_shape(net), (".*/kernel", RULE)),
            TypeError,
            "the weight is abstract, .* nnx.eval_shape",
        ),
        (
            lambda: js.TargetDensity(density=0.5, steps="9"),
            ValueError,
            "steps must be a whole number, .*'9'",
        ),
        (lambda: js.Role(outputs=(1,)), ValueError, "count axes from the last"),
        (lambda: js.Block(4), ValueError, "must be a tuple"),
        (lambda: js.Threshold(alpha=float("inf")), ValueError, "got inf"),
        (
            lambda: js.TargetDensity(density=0.5, steps=9, every=0),
            ValueError,
            "every must be .*; got 0",
        ),
        (
            lambda: js.TargetDensity(density=0.5, steps=9, gain=-1),
            ValueError,
            "gain must be a number above 0",
        ),
        (lambda: js.hold(net(), jnp.ones(3)), TypeError, "masks by path"),
        (
            lambda: js.sparsify(net(), (".*/kernel", js.Threshold(role=js.Role(stack=2)))),
            ValueError,
            "give the role a smaller stack",
        ),
        (
            lambda: js.sparsify(
                net(), (".*/kernel", type("Own", (js.Held,), {"__hash__": None})())
            ),
            TypeError,
            "a rule must be a frozen dataclass .* unhashable type: 'Own'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        make()
