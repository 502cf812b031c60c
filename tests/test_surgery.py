import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from tests.cases import Raw, Shared, parts

RULE = js.Threshold(alpha=1e-2)


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
    rules = {path: row.rule for path, row in js.report(model).rows.items()}
    assert rules == {
        "conv/kernel": "Threshold",
        "layers/0/kernel": "Threshold",
        "layers/1/kernel": "Keep",
    }


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
        ([], ValueError, "no rules given"),
        ([(".*/kernle", RULE)], ValueError, "matches no parameter; nearest: .*conv/kernel"),
        ([("(", RULE)], ValueError, "not a regular expression"),
        ([RULE], ValueError, "each rule is a pair"),
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
        assert js.report(model).size == 16
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
        ({"v": jnp.ones((4, 6))}, "'v' is no sparse weight; there are: w"),
        ({"w": jnp.ones((4, 5))}, r"mask of shape \(4, 5\)"),
        ({"w": jnp.full((4, 6), 0.5)}, "0 and 1 only"),
    ],
)
def test_hold_refuses(new: dict, words: str) -> None:
    model = js.sparsify(Raw(nnx.Rngs(0)), ("w", js.Top(density=0.5)))
    with pytest.raises(ValueError, match=words):
        js.hold(model, new)


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


def test_layers_made_under_vmap() -> None:
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return js.Linear(4, 5, rule=RULE, rngs=rngs)

    layers = make(nnx.Rngs(0))
    assert layers.kernel.threshold.shape == (3, 5)
    assert js.fold(layers).kernel.shape == (3, 4, 5)
    assert js.report(layers).size == 60


def test_layers_with_a_rule_are_stock_layers() -> None:
    made = {
        js.Linear: (4, 3),
        js.LinearGeneral: ((4,), (3,)),
        js.Conv: (2, 4, (3,)),
        js.ConvTranspose: (2, 4, (3,)),
        js.Einsum: ("bi,io->bo", (4, 3)),
        js.Embed: (6, 4),
        js.MultiHeadAttention: (2, 4),
        js.LSTMCell: (4, 3),
        js.OptimizedLSTMCell: (4, 3),
        js.GRUCell: (4, 3),
    }
    for make, arguments in made.items():
        layer = make(*arguments, rule=RULE, rngs=nnx.Rngs(0))
        assert type(layer) is getattr(nnx, make.__name__)
        assert parts(layer)
        assert not parts(js.fold(layer))


def test_remat_and_scan_over_time() -> None:
    layer = js.Linear(4, 4, rule=RULE, rngs=nnx.Rngs(0))

    def loss(layer, resolve):
        plain = js.resolve(layer) if resolve else layer
        step = jax.checkpoint(lambda x, _: (jnp.tanh(plain(x)), None))
        return jax.lax.scan(step, jnp.ones((2, 4)), None, length=5)[0].sum()

    a, b = (jax.grad(loss)(layer, r) for r in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), a, b)


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


def test_a_copy_survives_a_donated_step() -> None:
    dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    model = js.sparsify(dense, ("kernel", RULE))
    copies = [dense, js.fold(model), js.hold(model), js.advance(model)]
    jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)(nnx.state(model))
    for copy in copies:
        assert np.isfinite(np.asarray(copy(jnp.ones((2, 4))))).all()


def test_sparse_iterates_and_converts_as_a_param() -> None:
    kernel = js.Linear(4, 3, rule=js.Top(density=0.5), rngs=nnx.Rngs(0)).kernel
    assert len(list(kernel)) == 4
    np.testing.assert_array_equal(np.asarray(kernel), kernel[...])
    with pytest.raises(ValueError, match=r"got shape \(3,\); the weight has \(4, 3\)"):
        kernel.value = jnp.ones(3)


def test_an_abstract_model_has_shapes() -> None:
    layer = nnx.eval_shape(lambda: js.Linear(4, 3, rule=RULE, rngs=nnx.Rngs(0)))
    assert (layer.kernel.shape, layer.kernel.ndim) == ((4, 3), 2)


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
        (lambda: js.sparsify(net(), (".*/kernel", js.Threshold)), TypeError, "is no rule"),
        (lambda: js.sparsify(net(), (".*/kernel", 0.5)), TypeError, "is no rule"),
        (lambda: js.Threshold(scope=js.Groups(2)), ValueError, "groups share no threshold"),
        (lambda: js.Top(density=0.1, scope=js.Each()), ValueError, "Top would keep all"),
        (lambda: js.Top(density="0.5"), ValueError, r"in \(0, 1\]"),
        (lambda: js.Role(outputs=(1,)), ValueError, "count axes from the last"),
        (lambda: js.Block(4), ValueError, "give a tuple"),
        (lambda: js.Threshold(alpha=float("inf")), ValueError, "got inf"),
        (lambda: js.TargetDensity(density=0.5, steps=9, every=0), ValueError, "every=0"),
        (lambda: js.TargetDensity(density=0.5, steps=9, gain=-1), ValueError, "gain is above 0"),
        (lambda: js.hold(net(), jnp.ones(3)), TypeError, "masks by path"),
        (
            lambda: js.sparsify(net(), (".*/kernel", js.Threshold(role=js.Role(stack=2)))),
            ValueError,
            "give a smaller stack",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        make()
