"""Packed layers give what the dense ones give, on every path, and train on as they do."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import jsparse as js
from jsparse.export import blocks, csr, left_dense, pack, unpack
from jsparse.export._packing import compiled, formats
from jsparse.export._packing.block import block_dot, plain_dot
from jsparse.export._packing.csr import Plan, gradients_at
from jsparse.export._packing.formats import (
    block_arrays,
    block_matrix,
    csr_arrays,
    csr_matrix,
    csr_places,
    group_width,
)
from jsparse.export._packing.layers import bytes_of
from jsparse.report import costs
from tests.support.packing import (
    FORMATS,
    draw,
    linear,
    matrix,
    needs_compiler,
    outputs_and_gradients,
)

P = jax.P


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda: False)


@pytest.mark.parametrize("width", [70, 16, 1])
def test_csr_arrays_hold_the_matrix(width):
    kernel = matrix(70, 37)
    arrays = csr_arrays(kernel, width)
    assert arrays.values.size == np.count_nonzero(kernel)
    np.testing.assert_array_equal(csr_matrix(arrays, (70, 37), width), kernel)


@pytest.mark.parametrize("block", [(8, 4), (7, 5), (100, 100), (1, 1)])
def test_block_arrays_hold_the_matrix(block):
    kernel = matrix(70, 37) * np.kron(np.eye(2), np.ones((35, 19)))[:, :37].astype(np.float32)
    arrays = block_arrays(kernel, block)
    np.testing.assert_array_equal(block_matrix(arrays, (70, 37)), kernel)
    assert bool((arrays.values != 0).any((1, 2)).all())


def test_groups_are_for_weights_that_are_many_enough():
    assert group_width(draw(1024, 64)) == 256
    assert group_width(matrix(1024, 64, 0.04)) == 512
    assert group_width(matrix(100, 64, 0.3)) == 100
    assert group_width(np.zeros((100_000, 2), np.float32)) == 65536


CASES = [(name, "float32") for name in FORMATS] + [("csr", "bfloat16"), ("blocks", "bfloat16")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_outputs_and_gradients_are_those_of_the_dense_layer(name, dtype):
    layer = linear(matrix(70, 37), param_dtype=dtype)
    packed, x = pack(layer, FORMATS[name]), jnp.asarray(draw(2, 5, 70, seed=4), dtype)
    found = []
    for model in (packed, layer):
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        found.append(outputs_and_gradients(tuple(state), graphdef, x))
    (ours, our_grads, our_dx), (dense, grads, dx) = found
    assert (ours.dtype, ours.shape) == (dense.dtype, dense.shape)
    kept = (layer.kernel[...] != 0).astype(dtype)
    packed.values[...] = our_grads["values"][...]
    for got, expected in [
        (ours, dense),
        (our_dx, dx),
        (our_grads["bias"][...], grads["bias"][...]),
        (packed.kernel_matrix() * kept, grads["kernel"][...] * kept),
    ]:
        got, expected = np.float32(got), np.float32(expected)
        small = {"float32": 1e-5, "bfloat16": 3e-2}[dtype] * abs(expected).max()
        np.testing.assert_allclose(got, expected, atol=small)


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_gradients_of_gradients(name):
    layer = linear(matrix(16, 12), use_bias=False)
    x, found = jnp.asarray(draw(5, 16)), []
    for model in (pack(layer, FORMATS[name]), layer):
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        call = lambda p, x, g=graphdef, s=state: (nnx.merge(g, p, *s[1:])(x) ** 3).sum()
        penalty = lambda p, x, call=call: (jax.grad(call, 1)(p, x) ** 2).sum()
        found.append(jax.jit(jax.grad(penalty, (0, 1)))(state[0], x))
    (ours, dx), (dense, expected) = found
    np.testing.assert_allclose(dx, expected, rtol=1e-3, atol=1e-3)
    packed = pack(layer, FORMATS[name])
    packed.values[...] = ours["values"][...]
    kept = np.asarray(layer.kernel[...] != 0)
    got, expected = (np.asarray(m)[kept] for m in (packed.kernel_matrix(), dense["kernel"][...]))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_a_vector_alone_and_no_rows_at_all(name):
    layer = linear(matrix(30, 21))
    packed, x = pack(layer, FORMATS[name]), jnp.asarray(draw(30))
    np.testing.assert_allclose(packed(x), layer(x), atol=1e-5)
    assert packed(jnp.zeros((0, 30))).shape == (0, 21)
    assert jax.vmap(packed)(jnp.zeros((0, 4, 30))).shape == (0, 4, 21)


@pytest.mark.parametrize("density", [0.3, 0.0])
@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_inputs_of_another_width_are_refused(name, density):
    packed = pack(linear(matrix(30, 21, density)), FORMATS[name])
    for shape in [(4, 28), (4, 60), (30, 2), ()]:
        with pytest.raises(ValueError, match=r"the layer takes \[\.\.\., 30\]"):
            packed(jnp.ones(shape))


def test_more_weights_than_can_be_counted_are_refused(monkeypatch):
    monkeypatch.setattr(formats, "MOST_KEPT", 7)
    kernel = np.ones((4, 2), np.float32)
    for make in (lambda: csr_arrays(kernel, 4), lambda: block_arrays(kernel, (1, 1))):
        with pytest.raises(ValueError, match="keeps 8 weights or blocks, allowed are 7"):
            make()


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_a_layer_without_inputs_gives_its_bias(name):
    layer = linear(np.zeros((0, 5), np.float32))
    x = jnp.zeros((4, 0))
    np.testing.assert_array_equal(FORMATS[name](layer)(x), layer(x))


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_a_layer_of_zeros_gives_its_bias(name):
    layer = linear(np.zeros((12, 5), np.float32))
    packed = pack(layer, FORMATS[name])
    assert packed.values.size == 0
    x = jnp.asarray(draw(4, 12))
    np.testing.assert_array_equal(packed(x), layer(x))
    grads = nnx.grad(lambda m: m(x).sum())(packed)
    np.testing.assert_array_equal(grads["bias"][...], jnp.full(5, 4.0))


def test_derivatives_forwards():
    """Along values and inputs at once, and of a gradient."""
    layer = linear(matrix(30, 21))
    packed, x = pack(layer, csr()), jnp.asarray(draw(4, 30))
    graphdef, values, places = nnx.split(packed, nnx.Param, ...)
    call = lambda values, x: nnx.merge(graphdef, values, places)(x)
    along = jax.tree.map(jnp.ones_like, values)
    y, tangent = jax.jit(lambda x: jax.jvp(call, (values, x), (along, x)))(x)
    np.testing.assert_allclose(y, layer(x), atol=1e-5)
    kept = np.asarray(packed.kernel_matrix() != 0, np.float32)
    expected = x @ packed.kernel_matrix() + x @ kept + 1.0
    np.testing.assert_allclose(tangent, expected, atol=1e-5)
    curved = lambda y: (jnp.tanh(y) ** 2).sum()
    hessians = [
        jax.jit(jax.hessian(lambda x, call=call: curved(call(x))))(x[0])
        for call in (functools.partial(call, values), layer)
    ]
    np.testing.assert_allclose(*hessians, atol=1e-5)


@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_vmap(name):
    layer = linear(matrix(30, 21), use_bias=False)
    graphdef, values, places = nnx.split(pack(layer, FORMATS[name]), nnx.Param, ...)
    x = jnp.asarray(draw(3, 4, 30))
    call = lambda values, x: nnx.merge(graphdef, values, places)(x)
    grad = jax.grad(lambda values, x: (call(values, x) ** 2).sum())
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), values)

    @jax.jit
    def run(x):
        rows = jax.vmap(call, (None, 1), 1)(values, x)
        return rows, jax.vmap(grad, (None, 0))(values, x), jax.vmap(call, (0, None))(two, x[0])

    rows, grads, models = run(x)
    np.testing.assert_allclose(rows, layer(x), atol=1e-5)
    alone = grad(values, x[1])["values"][...]
    np.testing.assert_allclose(grads["values"][...][1], alone, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(models[1], 2 * layer(x[0]), atol=1e-4)


@pytest.mark.parametrize("name", ["csr", "ragged"])
def test_without_a_compiler(name, without_compiler):
    layer = linear(matrix(30, 21))
    packed, x = pack(layer, FORMATS[name]), jnp.asarray(draw(4, 30))
    np.testing.assert_allclose(packed(x), layer(x), atol=1e-5)
    tangent = jax.jvp(packed, (x,), (x,))[1]  # plain JAX: any transformation
    np.testing.assert_allclose(tangent, layer(x) - layer.bias[...][None], atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_on_a_mesh(name, kind):
    layer = linear(matrix(32, 16))
    packed, x = pack(layer, FORMATS[name]), jnp.asarray(draw(8, 32))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P("data")))
        graphdef, state = nnx.split(packed)
        state = jax.device_put(state, NamedSharding(mesh, P()))
        run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
        np.testing.assert_allclose(run(state, split), layer(x), atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_gradients_at_places_on_a_mesh(kind, monkeypatch):
    if kind is AxisType.Explicit and jax.version.__version_info__ < (0, 10):
        pytest.skip("older versions cannot transpose a product with a batch over devices")
    monkeypatch.setattr(compiled, "load", lambda: pytest.fail("the kernels run on one device"))
    kernel = matrix(32, 16)
    arrays, plan = csr_arrays(kernel, 32), Plan(32, 16, 32)
    x, dy = jnp.asarray(draw(8, 32)), jnp.asarray(draw(8, 16))
    wanted = (x.T @ dy)[csr_places(arrays, 16, 32)]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        rows = jax.device_put((x, dy), NamedSharding(mesh, P("data")))
        structure = jax.device_put(arrays[1:], NamedSharding(mesh, P()))
        run = jax.jit(functools.partial(gradients_at, plan))
        np.testing.assert_allclose(run(*structure, *rows), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_blocks_in_plain_jax_add_up_in_float32(dtype):
    wide = block_arrays(np.ones((4096, 4), np.float32), (4, 4))
    long = block_arrays(np.ones((4, 4096), np.float32), (4, 4))
    narrow = lambda arrays: arrays._replace(values=jnp.asarray(arrays.values, dtype))
    assert plain_dot(narrow(wide), jnp.ones((1, 4096), dtype), 4).tolist() == [[4096.0] * 4]
    total = lambda x: plain_dot(narrow(long), x, 4096).astype(jnp.float32).sum()
    assert jax.grad(total)(jnp.ones((1, 4), dtype)).tolist() == [[4096.0] * 4]


def test_blocks_in_plain_jax_are_the_matrix():
    kernel = matrix(30, 21) * np.kron(np.eye(2), np.ones((15, 11)))[:, :21].astype(np.float32)
    arrays, x = block_arrays(kernel, (8, 4)), jnp.asarray(draw(5, 30))
    np.testing.assert_allclose(plain_dot(arrays, x, 21), x @ kernel, atol=1e-5)
    np.testing.assert_allclose(block_dot(arrays, x, 21), x @ kernel, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("name", ["csr", "blocks"])
def test_costs_are_those_of_what_is_kept(name):
    packed = pack(linear(matrix(32, 20, 0.1)), FORMATS[name])
    found = costs(packed, jnp.ones((5, 32)))
    assert found.flops == 2 * 5 * packed.values.size < 2 * 5 * 32 * 20


def test_csr_lowers_for_any_platform():
    packed = pack(linear(matrix(30, 21)), csr())
    exported = jax.export.export(jax.jit(packed), platforms=("tpu", "cuda"))(jnp.ones((2, 30)))
    assert "jsparse_csr" not in exported.mlir_module()


class Net(nnx.Module):
    """A layer in two places, a shared kernel, a window of 1 and one of 3."""

    def __init__(self, rngs):
        self.point = nnx.Conv(4, 6, (1, 1), rngs=rngs)
        self.window = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.twice = (
            [nnx.Linear(6, 6, rngs=rngs)]
            if not hasattr(nnx, "List")
            else nnx.List([nnx.Linear(6, 6, rngs=rngs)])
        )
        self.again = self.twice[0]
        self.one, self.other = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.other.kernel = self.one.kernel

    def __call__(self, x):
        x = self.again(self.twice[0](self.window(self.point(x))))
        return self.other(self.one(x))


def test_a_whole_model():
    net = js.sparsify(Net(nnx.Rngs(0)), (".*/kernel", js.Top(density=0.25)))
    packed = pack(net, csr())
    x = jnp.asarray(draw(2, 5, 5, 4))
    back = unpack(packed)
    ours, backs, dense = jax.jit(lambda x: (packed(x), back(x), js.fold(net)(x)))(x)
    np.testing.assert_allclose(ours, dense, atol=1e-5)
    np.testing.assert_allclose(backs, dense, atol=1e-5)
    assert packed.again is packed.twice[0]
    assert type(packed.point).__name__ == "Csr" and type(packed.window).__name__ == "CsrConv"
    assert not left_dense(net)
    assert packed.one.values is packed.other.values and packed.one.bias is not packed.other.bias
    assert back.one.kernel is back.other.kernel
    assert type(back.again) is nnx.Linear and back.again is back.twice[0]


def test_a_layer_that_would_not_be_smaller_stays_dense():
    """Single weights in bfloat16 take 4 bytes, dense ones 2."""
    kernel = draw(40, 30)
    kernel[:20, :15] = 0.0
    half = linear(kernel, param_dtype=jnp.bfloat16)
    net = nnx.Sequential(linear(matrix(40, 30, 0.1)), half, linear(draw(30, 20)))
    why = left_dense(net, csr())
    assert set(why) == {"layers/1", "layers/2"} and not left_dense(net)
    assert left_dense(net, csr(), blocks((20, 15))).keys() == {"layers/2"}
    with pytest.warns(UserWarning, match=r"left 2 of 3 layers dense: layers/1: packed it would"):
        packed = pack(net, csr())
    assert [type(layer).__name__ for layer in packed.layers] == ["Csr", "Linear", "Linear"]
    sizes = re.findall(r"[\d,]+", why["layers/2"])
    assert [int(size.replace(",", "")) for size in sizes if size != ","] == [
        bytes_of(csr()(net.layers[2])),
        bytes_of(net.layers[2]),
    ]
    with pytest.warns(UserWarning, match="left 1 of 1 layers dense: the model: packed"):
        assert type(pack(net.layers[2], csr())) is nnx.Linear
    assert type(csr()(net.layers[2])).__name__ == "Csr"  # asked for, whatever its size


def test_a_format_refuses_a_layer_that_it_cannot_hold():
    layer = nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Conv cannot be packed: its features are in 2 groups"):
        csr()(layer)


@pytest.mark.slow
@pytest.mark.standard_dtypes
def test_packed_layers_train_with_their_mask_fixed():
    import optax

    layer = linear(matrix(12, 8))
    model, x = pack(layer, csr()), jnp.asarray(draw(16, 12))
    optimizer = js.Optimizer(model, optax.sgd(1e-2))
    loss = lambda model: ((model(x) - 1.0) ** 2).mean()
    before = float(loss(model))
    for _ in range(5):
        optimizer.update(model, nnx.grad(loss)(model))
    assert float(loss(model)) < before
    kept = np.asarray(unpack(model).kernel[...]) != 0
    np.testing.assert_array_equal(kept, np.asarray(layer.kernel[...]) != 0)


def test_what_cannot_be_packed_is_said():
    rngs = nnx.Rngs(0)
    stack = nnx.vmap(lambda rngs: nnx.Conv(2, 2, (1, 1), rngs=rngs), in_axes=0)
    own = lambda arrays, *, dtype: arrays
    odd = nnx.Sequential(
        stack(rngs.split(3)) if hasattr(nnx.Rngs, "split") else stack(rngs.fork(split=3)),
        nnx.ConvTranspose(2, 2, (1,), rngs=rngs),
        nnx.Linear(2, 2, promote_dtype=own, rngs=rngs),
    )
    why = [left_dense(odd)[f"layers/{n}"] for n in range(3)]
    assert "5 axes" in why[0] and "ConvTranspose, not" in why[1] and "dtype promotion" in why[2]
    with pytest.raises(ValueError, match=r"no layer at 'b.*' can be packed"):
        pack(Net(nnx.Rngs(0)), csr(), "b.*")
    with pytest.raises(ValueError, match=r"window is \(3, 3\); csr\(\) takes it"):
        pack(nnx.Sequential(nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0))), blocks((1, 1)))
    with pytest.raises(ValueError, match="sizes, 1 or more"):
        blocks((0, 4))
    with pytest.raises(ValueError, match="width must be a whole number, 1 or more"):
        js.export.Csr(4, 3, kept=1, width=0)
    with pytest.raises(ValueError, match="allowed are 1 to 65536"):
        js.export.Csr(4, 3, kept=1, width=65537)
