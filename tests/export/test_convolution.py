"""Packed convolutions compute what dense ones do, with every kernel and without."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jsparse._slots import walk_modules
from jsparse._storage import manifest
from jsparse.export import (
    CsrConv,
    DamagedModel,
    blocks,
    csr,
    int8,
    left_dense,
    load,
    pack,
    restore,
    save,
    unpack,
)
from jsparse.export._packing import compiled, convolution
from jsparse.export._packing.autotune import FORMATS, _worth_trying
from jsparse.export._packing.bilinear import dense_kernel
from jsparse.export._packing.formats import CsrArrays, as_matrix, csr_arrays, csr_places
from jsparse.export._packing.layers import put_packed
from jsparse.export._saving.saving import packed_layers
from tests.support import convolving
from tests.support.packing import draw, needs_compiler, outputs_and_gradients

pytestmark = pytest.mark.standard_dtypes


def conv(*sizes, density: float = 0.3, seed: int = 0, **settings) -> nnx.Conv:
    layer = nnx.Conv(*sizes, rngs=nnx.Rngs(seed), **settings)
    kept = np.random.default_rng(seed).random(layer.kernel.shape) < density
    layer.kernel[...] *= jnp.asarray(kept, layer.kernel[...].dtype)
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(draw(sizes[1]), layer.bias[...].dtype)
    return layer


@needs_compiler
@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 5), marks=pytest.mark.slow)])
def test_every_kernel_against_numpy(seed):
    assert compiled.load()
    for one in seed if isinstance(seed, range) else [seed]:
        compare_with_numpy(random.Random(one))


def compare_with_numpy(choice: random.Random) -> None:
    for n in range(5):
        window, batch = convolving.window(choice), choice.choice(convolving.BATCHES)
        drawn = np.random.default_rng(n)
        kernel = drawn.standard_normal((*window.size, window.features, window.outputs))
        kernel = np.float32(kernel * (drawn.random(kernel.shape) < choice.choice([0.1, 0.5, 1.0])))
        arrays = csr_arrays(as_matrix(kernel), window.width * window.taps)
        np.testing.assert_array_equal(dense_kernel(arrays, window), kernel)
        x = np.float32(drawn.standard_normal((batch, *window.image, window.features)))
        y = convolving.forward(window, kernel, x)
        dy = np.float32(drawn.standard_normal(y.shape))
        dx, dkernel = convolving.backward(window, kernel, x, dy)
        *found, places = jax.jit(products, static_argnums=0)(window, arrays, x, dy)
        dvalues = as_matrix(dkernel)[places]
        for got, expected in zip(found, (y, dx, dvalues), strict=True):
            small = 1e-5 * max(1.0, np.abs(expected).max(initial=0.0))
            np.testing.assert_allclose(got, expected, atol=small, rtol=1e-4, err_msg=str(window))


@needs_compiler
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_images_of_any_side(lanes):
    """Planes that many weights read are copied, shifted, in one of two ways or not at all."""
    assert compiled.load()
    drawn = np.random.default_rng(lanes)
    for side, stride, size in [(1, 1, 3), (2, 1, 3), (4, 1, 3), (7, 2, 3), (8, 1, 5), (33, 1, 3)]:
        around = ((size // 2, size // 2),) * 2
        sides = (side, side), (size, size), (stride, stride), (1, 1)
        window = convolving.Window(6, 40, 4, *sides, around, lanes)
        kernel = np.float32(drawn.standard_normal((size, size, 6, 40)))
        kernel *= drawn.random(kernel.shape) < 0.9
        arrays = csr_arrays(as_matrix(kernel), 4 * size**2)
        x = np.float32(drawn.standard_normal((2, side, side, 6)))
        y = convolution._product(window, arrays.values, x, arrays.indices, arrays.starts)
        np.testing.assert_allclose(y, convolving.forward(window, kernel, x), atol=2e-4)


def products(window: convolving.Window, arrays: CsrArrays, x, dy) -> tuple:
    """y, dx, the gradient of the values, and their places; in one program."""
    structure = arrays.indices, arrays.starts
    return (
        convolution._product(window, arrays.values, x, *structure),
        convolution._transposed(window, arrays.values, dy, *structure),
        convolution._outer(window, x, dy, *structure),
        csr_places(arrays, window.outputs, window.width * window.taps),
    )


@needs_compiler
def test_what_is_not_finite_stays_where_it_is_read():
    layer = csr()(conv(3, 20, (3, 3), use_bias=False))
    for batch in (1, 16):
        x = draw(batch, 9, 9, 3)
        x[0, 4, 4, 1], x[-1, 0, 8, 2] = np.nan, np.inf
        y = np.asarray(layer(jnp.asarray(x)))
        reached = np.asarray(conv_of_ones(layer)(jnp.asarray(~np.isfinite(x), jnp.float32))) > 0
        assert not np.isfinite(y[reached]).any() and np.isfinite(y[~reached]).all()


@needs_compiler
def test_gradients_of_weights_are_finite_where_they_read_nothing_else():
    """Zeros that a kernel puts between rows, times inf, made NaN of them."""
    layer = csr()(conv(6, 9, (3, 3), use_bias=False))
    graph, weights, rest = nnx.split(layer, nnx.Param, ...)
    run = jax.jit(lambda weights, x: nnx.merge(graph, weights, rest)(x).sum())
    for batch, at in ((2, (0, 0, 0, 0)), (2, (1, 8, 7, 5)), (17, (3, 4, 0, 2))):
        x = draw(batch, 9, 8, 6)
        x[at] = np.inf
        grads = jax.grad(run)(weights, jnp.asarray(x))
        reads = jax.grad(run)(weights, jnp.asarray(np.isinf(x), jnp.float32))
        for got, read in zip(jax.tree.leaves(grads), jax.tree.leaves(reads), strict=True):
            np.testing.assert_array_equal(np.isposinf(got), read > 0)
            assert not np.isnan(got).any() and 0 < (read > 0).sum() < read.size


def conv_of_ones(layer: CsrConv) -> nnx.Conv:
    dense = unpack(layer)
    dense.kernel[...] = jnp.asarray(dense.kernel[...] != 0, jnp.float32)
    return dense


LAYERS = {
    "same": ((6, 9, (3, 3)), {}, (2, 9, 8, 6)),
    "valid, strides": ((6, 9, (5, 3)), {"strides": 2, "padding": "VALID"}, (17, 9, 8, 6)),
    "circular, dilated": ((6, 9, (3, 2)), {"padding": "CIRCULAR", "kernel_dilation": 2}, (9, 8, 6)),
    "causal": ((6, 9, (3,)), {"padding": "CAUSAL", "kernel_dilation": 2}, (3, 2, 9, 6)),
    "shortcut": ((6, 9, (1, 1)), {"strides": (2, 2), "use_bias": False}, (1, 7, 7, 6)),
    "lower case": ((6, 9, (2, 4)), {"padding": "same"}, (2, 5, 4, 6)),
    "pads": ((6, 9, (2, 4)), {"padding": ((2, 0), (1, 3))}, (2, 5, 4, 6)),
    "bfloat16": ((6, 9, (3, 3)), {"param_dtype": jnp.bfloat16}, (20, 4, 4, 6)),
}


def test_outputs_are_those_of_the_dense_layer():
    layers = [conv(*sizes, **settings) for sizes, settings, _ in LAYERS.values()]
    packed = [csr(30)(layer) for layer in layers]
    inputs = [jnp.asarray(draw(*shape)) for _, _, shape in LAYERS.values()]
    inputs[-1] = inputs[-1].astype(jnp.bfloat16)
    run = lambda xs: [
        [one(x) for one, x in zip(side, xs, strict=True)] for side in (packed, layers)
    ]
    for got, expected in zip(*jax.jit(run)(inputs), strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        small = 1e-5 if got.dtype == jnp.float32 else 3e-2
        np.testing.assert_allclose(np.float32(got), np.float32(expected), atol=small, rtol=small)


@pytest.mark.parametrize(
    "name", [n if n == "pads" else pytest.param(n, marks=pytest.mark.slow) for n in LAYERS]
)
def test_gradients_are_those_of_the_dense_layer(name):
    sizes, settings, shape = LAYERS[name]
    layer = conv(*sizes, **settings)
    dtype = layer.kernel[...].dtype
    packed, x = csr(30)(layer), jnp.asarray(draw(*shape, seed=4), dtype)
    found = []
    for model in (packed, layer):
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        found.append(outputs_and_gradients(tuple(state), graphdef, x))
    (_, our_grads, our_dx), (_, grads, dx) = found
    kept = (layer.kernel[...] != 0).astype(dtype)
    packed.values[...] = our_grads["values"][...]
    pairs = [(our_dx, dx), (packed.kernel() * kept, grads["kernel"][...] * kept)]
    if layer.bias is not None:
        pairs.append((our_grads["bias"][...], grads["bias"][...]))
    for got, expected in pairs:
        got, expected = np.float32(got), np.float32(expected)
        small = {"float32": 1e-5, "bfloat16": 3e-2}[dtype.name] * max(1.0, abs(expected).max())
        np.testing.assert_allclose(got, expected, atol=small)


@pytest.mark.slow
def test_gradients_of_gradients_and_vmap():
    layer = conv(3, 4, (3, 3), strides=2, use_bias=False)
    x, found = jnp.asarray(draw(2, 3, 5, 6, 3)), []
    for model in (csr()(layer), layer):
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        call = lambda p, x, g=graphdef, s=state: (nnx.merge(g, p, *s[1:])(x) ** 3).sum()
        penalty = lambda p, x, call=call: (jax.grad(call, 1)(p, x) ** 2).sum()
        forwards = lambda p, x, call=call: jax.jvp(jax.grad(call, 1), (p, x), (p, x))[1]
        two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), state[0])
        run = lambda p, two, x, call=call, penalty=penalty, forwards=forwards: (
            jax.vmap(call, (None, 0))(p, x),
            jax.vmap(jax.grad(call, 1), (0, None))(two, x[0]),
            jax.grad(penalty, (0, 1))(p, x[0]),
            forwards(p, x[0]),
        )
        found.append(jax.jit(run)(state[0], two, x))
    (ours, our_dx, (by_values, by_x), ahead), (dense, dx, (expected, expected_x), along) = found
    close = lambda got, wanted: np.testing.assert_allclose(
        got, wanted, rtol=1e-4, atol=1e-4 * float(abs(wanted).max())
    )
    close(ours, dense)
    close(our_dx, dx)
    close(ahead, along)
    close(by_x, expected_x)
    packed = csr()(layer)
    packed.values[...] = by_values["values"][...]
    close(packed.kernel(), jnp.where(layer.kernel[...] != 0, expected["kernel"][...], 0))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda: False)
    layer = conv(4, 7, (3, 3), strides=2)
    packed, x = csr()(layer), jnp.asarray(draw(2, 8, 8, 4))
    np.testing.assert_allclose(packed(x), layer(x), atol=1e-5)
    tangent = jax.jvp(packed, (x,), (x,))[1]
    np.testing.assert_allclose(tangent, layer(x) - layer.bias[...][None, None, None], atol=1e-5)


def test_it_lowers_for_any_platform():
    packed = csr()(conv(4, 7, (3, 3)))
    lowered = jax.export.export(jax.jit(packed), platforms=("tpu", "cuda"))(jnp.ones((2, 8, 8, 4)))
    assert "jsparse_conv" not in lowered.mlir_module()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh(kind):
    layer = conv(3, 4, (3, 3))
    packed, x = csr()(layer), jnp.asarray(draw(8, 5, 5, 3))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P("data")))
        graphdef, state = nnx.split(packed)
        state = jax.device_put(state, NamedSharding(mesh, P()))
        run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
        np.testing.assert_allclose(run(state, split), layer(x), atol=1e-5)


class Net(nnx.Module):
    """Convolutions that can be packed, two that cannot, and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, 12, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(12, 12, (3, 3), feature_group_count=12, rngs=rngs)
        self.wide = nnx.Conv(12, 8, (5, 5), strides=2, padding="VALID", rngs=rngs)
        self.cube = nnx.Conv(4, 4, (2, 2, 2), rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.wide(nnx.relu(self.depthwise(nnx.relu(self.first(x))))))
        return self.head(x.mean((-3, -2)))


def sparse_net() -> nnx.Module:
    net, drawn = Net(nnx.Rngs(0)), np.random.default_rng(0)
    for layer in (net.first, net.depthwise, net.wide, net.cube, net.head):
        layer.kernel[...] *= jnp.asarray(drawn.random(layer.kernel.shape) < 0.2, jnp.float32)
    return net


def test_a_whole_model():
    net = sparse_net()
    with pytest.warns(UserWarning, match=r"left 2 of 5 .*cube: .*3 axes.*depthwise: .*12 groups"):
        packed = pack(net, csr())
    kinds = {name: type(getattr(packed, name)).__name__ for name in ("first", "wide", "head")}
    assert kinds == {"first": "CsrConv", "wide": "CsrConv", "head": "Csr"}
    back = unpack(packed)
    assert type(back.wide) is nnx.Conv and back.wide.strides == (2, 2)
    np.testing.assert_array_equal(back.wide.kernel[...], net.wide.kernel[...])
    settings = packed_layers(dict(walk_modules(packed)))
    settings = json.loads(json.dumps(settings))  # as a file has them
    empty = put_packed(Net(nnx.Rngs(1)), settings)
    nnx.update(empty, nnx.state(packed))
    empty.wide.check()
    np.testing.assert_array_equal(empty.wide.kernel(), net.wide.kernel[...])
    other = Net(nnx.Rngs(1))
    other.wide = nnx.Conv(12, 8, (5, 5), padding="VALID", rngs=nnx.Rngs(0))
    said = r"8 features, kernel_size .*strides \[2, 2\].*strides \[1, 1\].*of another model"
    with pytest.raises(ValueError, match=said):
        put_packed(other, settings)
    other.wide, other.head = Net(nnx.Rngs(1)).wide, nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"from 8 to 4 features, .*kernel \[3, 3, 8, 4\]"):
        put_packed(other, settings)


@pytest.mark.slow
def test_a_packed_model_is_saved_and_restored(tmp_path):
    net, x = sparse_net(), jnp.asarray(draw(3, 12, 12, 3))
    with pytest.warns(UserWarning, match="left 2 of 5"):
        packed = pack(net, csr())
    expected = np.asarray(net(x))
    save(tmp_path / "net", packed, x)
    loaded = load(tmp_path / "net")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-5)
    many = jnp.asarray(draw(17, 12, 12, 3))  # another batch, in the same program
    np.testing.assert_allclose(loaded(many), net(many), atol=1e-5)
    again = restore(tmp_path / "net", Net(nnx.Rngs(1)))
    np.testing.assert_allclose(again(x), expected, atol=1e-5)
    about = json.loads((tmp_path / "net" / "model.json").read_text())
    for field, wrong in (("kernel_size", [5, 0]), ("padding", "MIRROR"), ("strides", [2, 2, 2])):
        changed = json.loads(json.dumps(about))
        changed["packed"]["wide"][field] = wrong
        (tmp_path / "net" / "model.json").write_text(json.dumps(changed))
        (tmp_path / "net" / "manifest.json").unlink()
        manifest.write(tmp_path / "net", {"format": "jsparse.model", "version": 1})
        with pytest.raises(DamagedModel, match=f"wide.*{field} must be"):
            load(tmp_path / "net")


def test_formats_for_matrices_leave_windows_dense_and_say_so():
    net = sparse_net()
    for format, what in ((blocks((2, 2)), "blocks are"), (int8(csr()), "8-bit weights are")):
        why = left_dense(net, format)
        assert what in why["first"] and "csr() takes it" in why["wide"]
        with pytest.warns(UserWarning, match="left [45] of 5 layers dense"):
            assert type(pack(net, format).wide) is nnx.Conv
    with pytest.raises(ValueError, match="csr\\(\\) takes it"):
        pack(net, blocks((2, 2)), "first|wide")


def test_pick_tries_the_formats_that_hold_a_window():
    made = _worth_trying(conv(40, 9, (3, 3)), FORMATS)
    assert {name: one.width for name, one in made.items()} == {"csr": 32, "csr, no groups": 40}


def test_what_is_damaged_is_refused():
    layer, x = csr(18)(conv(4, 3, (3, 3))), jnp.ones((1, 4, 4, 4))
    layer.indices[...] = layer.indices[...].at[0].set(60000)
    with pytest.raises(ValueError, match=r"indices\[0\] is 60000, expected 0 to 17"):
        layer.check()
    if convolution.has_kernel(x):
        with pytest.raises(Exception, match="an index is outside its group"):
            jax.block_until_ready(layer(x))
    for shape in [(4, 4, 3), (4, 4), (1, 4, 4, 8)]:
        with pytest.raises(ValueError, match=r"the layer takes \[\.\.\., 4\] with 2 axes"):
            layer(jnp.ones(shape))
    for wrong, said in [
        ({"kernel_size": (3, 0)}, "kernel_size must be a tuple of sizes, 1 or more"),
        ({"kernel_size": (3, 3, 3)}, "one or two sizes"),
        ({"strides": (1, 2, 3)}, "strides must be a tuple of 2 sizes"),
        ({"padding": "MIRROR"}, "padding must be one of SAME"),
        ({"padding": ((1, 2), (3,))}, "padding must be one of SAME"),
        ({"width": 7282}, "width, groups of 7282 .* 65538 inputs.*allowed are 1 to 65536"),
        ({"kept": 37}, "37 weights"),
    ]:
        given = {"kernel_size": (3, 3), "kept": 2, "width": 4} | wrong
        with pytest.raises(ValueError, match=said):
            CsrConv(2, 2, **given)


def test_nothing_is_kept_and_nothing_is_given():
    layer = conv(4, 3, (3, 3), density=0.0)
    packed, x = csr()(layer), jnp.asarray(draw(2, 5, 5, 4))
    np.testing.assert_array_equal(packed(x), layer(x))
    full = csr()(conv(4, 3, (3, 3)))
    assert full(x[:0]).shape == (0, 5, 5, 3)


def test_a_wide_window_is_packed_whatever_it_keeps():
    layer = nnx.Conv(3, 4, (7, 7), rngs=nnx.Rngs(0))
    kernel = np.random.default_rng(0).standard_normal((7, 7, 3, 4), np.float32)
    for kept in (kernel, kernel * (abs(kernel) > 0.7)):
        layer.kernel[...] = jnp.asarray(kept)
        np.testing.assert_array_equal(csr()(layer).kernel(), kept)
