"""Links that move in packed convolutions: the masked run with the same links."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse.export import CsrConv, csr, load, pack, restore, save, trim
from jsparse.export._packing import convolution
from jsparse.export._packing.bilinear import dense_kernel
from jsparse.export._packing.formats import CsrArrays, as_matrix, csr_arrays, csr_places
from jsparse.export._packing.windows import geometry_from
from tests.support.packing import needs_compiler

pytestmark = pytest.mark.standard_dtypes  # optax's Adam mixes them
KEY = jax.random.key(0)
INNER = {"sgd": optax.sgd(0.1, momentum=0.9), "adam": optax.adam(1e-2)}
SET = js.SET(last=9, every=2, fraction=0.5)
RIGL = js.RigL(last=9, every=3, fraction=0.6)  # after one step of Adam new links are all alike
BELOW = js.Below(quality=0.7, last=9, every=2)
DRAWN = {
    "set": SET,
    "set by sign": js.SET(last=9, every=2, fraction=0.5, by_sign=True),
    "gradual": js.Gradual(density=0.1, start=0.3, last=8, every=2),
}
MASKED_GRADIENTS = nnx.DiffState(0, (nnx.Param, js.Mask))


class Net(nnx.Module):
    """Two windows, one over an odd number of features in groups of two, and a linear layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        uneven = {"strides": (2, 1), "padding": ((1, 1), (1, 0)), "kernel_dilation": (1, 2)}
        self.second = nnx.Conv(5, 4, (3, 2), use_bias=False, **uneven, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        return self.head(x.mean((1, 2)))


def images(batch: int) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(KEY, (batch, 6, 5, 2)), jnp.arange(batch) % 3


@nnx.jit
def train(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    found = nnx.value_and_grad(loss, argnums=MASKED_GRADIENTS)(model)
    optimizer.update(model, found[1])
    return found[0]


def masked(by, inner=INNER["adam"]):
    model = js.sparsify(Net(), (".*/kernel", js.Held()))
    model = js.prune.random(model, density=0.3, key=jax.random.key(1))
    model = js.hold(model)
    tx = js.revise(inner, (".*/kernel", by), seed=3)
    return model, js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))


def kernels(model) -> dict[str, np.ndarray]:
    """What each layer multiplies with."""
    paths = ("first", "second", "head")
    return {path: np.asarray(getattr(model, path).kernel[...]) for path in paths}


def same(one, two, atol=1e-5) -> None:
    one, two = (dict(nnx.to_flat_state(nnx.state(m))) for m in (one, two))
    assert one.keys() == two.keys()
    for path, leaf in one.items():
        assert jnp.allclose(leaf[...], two[path][...], atol=atol), path


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 17])  # each layout of images
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("by", [RIGL, BELOW], ids=["rigl", "below"])
def test_with_all_places_it_is_the_masked_run_and_goes_back(by, inner, batch):
    x, y = images(batch)
    model, optimizer = masked(by, INNER[inner])
    train(model, optimizer, x, y)
    packed, moving = js.pack_training(model, optimizer, width=12, candidates=math.inf)
    assert type(packed.first) is type(packed.second) is CsrConv and packed.second.width == 2
    links = {path: int(mask.sum()) for path, mask in js.masks(model).items()}
    assert packed.second.values.shape == (links["second/kernel"],)
    before = js.masks(model)
    for _ in range(9):
        assert abs(train(model, optimizer, x, y) - train(packed, moving, x, y)) < 1e-5
    assert any((before[path] != mask).any() for path, mask in js.masks(model).items())
    trim(packed).second.check()
    back, again = js.unpack_training(packed, moving)
    assert isinstance(back.first, nnx.Conv)
    for path, mask in js.masks(model).items():
        assert (js.masks(back)[path] == mask).all()
    same(again, optimizer)
    for path, kernel in kernels(model).items():
        assert np.allclose(kernels(back)[path], kernel, atol=1e-5)
    assert abs(train(back, again, x, y) - train(model, optimizer, x, y)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", DRAWN)
def test_chosen_links_train_as_masked_ones(name, inner):
    """A masked run without revisions is given the links of the packed one at each change."""
    x, y = images(4)
    packed, moving = js.pack_training(*masked(DRAWN[name], INNER[inner]))
    model, optimizer = js.unpack_training(packed, moving)
    optimizer = js.Optimizer(model, INNER[inner])
    moves = 0
    for _ in range(7):
        assert abs(train(packed, moving, x, y) - train(model, optimizer, x, y)) < 1e-5
        trim(packed).first.check()
        found = js.masks(js.unpack_training(packed, moving)[0])
        for path in ("first", "second", "head"):
            mask = found[f"{path}/kernel"]
            moves += (mask != getattr(model, path).kernel.mask[...]).any()
            give_links(model, optimizer, path, mask)
        wanted = moments(optimizer)
        for path, moment in moments(js.unpack_training(packed, moving)[1]).items():
            assert jnp.allclose(moment, wanted[path], atol=1e-5), path
    assert 6 < moves <= 9


def moments(optimizer) -> dict[tuple, jax.Array]:
    """By name and path."""
    flat = nnx.to_flat_state(nnx.state(optimizer.opt_state))
    starts = {path: [path.index(n) for n in ("mu", "nu", "trace") if n in path] for path, _ in flat}
    return {path[starts[path][0] :]: leaf[...] for path, leaf in flat if starts[path]}


def give_links(model, optimizer, path: str, mask: jax.Array) -> None:
    """Set a mask in place, with new weights and moments at 0."""
    part = getattr(model, path).kernel
    both = mask * part.mask[...]
    part.mask[...], part.weight[...] = mask, part.weight[...] * both
    for name in ("mu", "nu", "trace"):
        if moments := getattr(optimizer.opt_state[0], name, None):
            moments[path]["kernel"]["weight"][...] *= both


def test_set_on_a_convolution_from_pack_keeps_its_number_of_links():
    layer = nnx.Conv(5, 4, (3, 2), rngs=nnx.Rngs(0))
    layer.kernel[...] *= jax.random.bernoulli(KEY, 0.3, layer.kernel.shape)
    layer = pack(layer, csr())
    before, kept = layer.kernel_matrix(), layer.kept
    optimizer = js.PackedOptimizer(layer, js.revise(INNER["adam"], ("kernel", SET)))
    x = jax.random.normal(KEY, (3, 6, 5, 5))
    update = nnx.jit(lambda layer, optimizer: optimizer.update(layer, nnx.grad(total)(layer, x)))
    for _ in range(2):
        update(layer, optimizer)
    layer.check()  # each link once
    born = layer.values[...] == 0
    assert layer.kept == kept == layer.values.size and 0 < born.sum() <= kept // 2
    places = csr_places(layer.arrays(layer.values[...]), 4, layer.sizes.width)
    assert ((before[places] == 0) == born).all()
    for moments in (optimizer.opt_state[0].mu, optimizer.opt_state[0].nu):
        assert (moments["values"][...][born] == 0).all()
        assert (moments["values"][...][~born] != 0).all()


def total(layer, x):
    return (layer(x) ** 2).sum()


@pytest.mark.parametrize("name", ["conv_gradients_at", "plain_outer"])
def test_gradients_at_places_are_those_of_a_dense_kernel(name):
    geometry = geometry_from((3, 2), (2, 1), ((1, 1), (1, 0)), (1, 2))
    window = geometry.window((6, 5), geometry.padding, features=5, outputs=4, width=2)
    x = jax.random.normal(KEY, (3, 6, 5, 5))
    arrays = csr_arrays(np.float32(np.random.default_rng(0).random((30, 4)) < 0.3), 12)
    kept = 2 * int(arrays.starts[-1])
    twice = CsrArrays(arrays.values, jnp.repeat(arrays.indices, 2), 2 * arrays.starts)
    places = csr_places(twice, 4, 12)
    kernel = dense_kernel(arrays, window)
    product = lambda kernel: jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y, back = jax.vjp(product, kernel)
    dy = jax.random.normal(jax.random.key(1), y.shape)
    wanted = as_matrix(back(dy)[0])[places]
    with_room = jnp.pad(twice.indices, (0, 3))
    given = (with_room, twice.starts, x, dy) if "at" in name else (x, dy, with_room, twice.starts)
    found = jax.jit(getattr(convolution, name), static_argnums=0)(window, *given)
    assert np.allclose(found[:kept], wanted, atol=1e-5) and (found[kept:] == 0).all()


@needs_compiler
@pytest.mark.parametrize("by", [SET, RIGL])
def test_no_array_has_the_size_of_a_dense_kernel(by):
    features, outputs, kept = 300, 200, 900
    layer = CsrConv(features, outputs, (3, 3), kept=kept, width=30)
    dense = features * outputs * 9
    optimizer = js.PackedOptimizer(layer, js.revise(INNER["adam"], ("kernel", by)))
    graphdef, state = nnx.split((layer, optimizer))

    @jax.jit
    def pure(state, x):
        layer, optimizer = nnx.merge(graphdef, state)
        optimizer.update(layer, nnx.grad(total, argnums=MASKED_GRADIENTS)(layer, x))
        return nnx.state((layer, optimizer))

    text = pure.lower(state, jnp.ones((2, 3, 3, features))).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)", text)
    sizes = [math.prod(int(n) for n in shape.split("x")[:-1]) for shape in shapes]
    assert max(sizes) < 10_000 < dense


@functools.cache
def trained():
    """A packed net with room and drawn places."""
    packed, optimizer = js.pack_training(*masked(BELOW))
    for _ in range(2):
        train(packed, optimizer, *images(3))
    return packed, optimizer


@pytest.mark.slow
def test_trim_takes_room_out_and_files_hold_the_links(tmp_path):
    model, (x, _) = trained()[0], images(3)
    room = model.first.values.size - model.first.kept
    assert room > 0 and (model.first.values[...][-room:] == 0).all()
    with pytest.raises(ValueError, match=r"first has room .*save jsparse.export.trim\(model\)"):
        save(tmp_path / "no", model, x)
    small = trim(model)
    assert small.first.values.size == small.first.kept == model.first.kept
    assert jnp.allclose(small(x), model(x), atol=1e-6)
    save(tmp_path / "links", small, x)
    assert jnp.allclose(load(tmp_path / "links")(x), small(x), atol=1e-6)
    restored = restore(tmp_path / "links", Net())
    same(restored, small, 0)


def test_a_probe_is_trimmed_and_reads_gradients():
    layer = CsrConv(4, 3, (3,), kept=9, width=2, padding="CAUSAL")
    js.PackedOptimizer(layer, js.revise(INNER["sgd"], ("kernel", RIGL)))
    x = jax.random.normal(KEY, (2, 5, 4))
    assert layer.loose
    grads = nnx.grad(lambda layer: layer(x).sum())(layer)
    optimizer = js.PackedOptimizer(layer, js.revise(INNER["sgd"], ("kernel", RIGL)))
    with pytest.raises(ValueError, match=r"no 'probe/drawn'.*DiffState\(0, \(nnx.Param, jsparse.M"):
        optimizer.update(layer, grads)
    assert trim(layer).probe is None


def test_stacked_and_shared_convolutions_are_refused_by_name():
    held = (".*kernel", js.Held())

    def refused(layer, why):
        model = js.sparsify(layer, held)
        tx = js.revise(INNER["sgd"], (".*kernel", SET), roles=js.roles(model))
        optimizer = js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))
        with pytest.raises(ValueError, match=rf"kernel: its links cannot be packed: {why}"):
            js.pack_training(model, optimizer)

    stack = nnx.Conv(2, 3, (3,), rngs=nnx.Rngs(0))
    stack.kernel = nnx.Param(jnp.stack([stack.kernel[...]] * 2))
    refused(stack, "a stack of convolutions")
    net = Net()
    net.second = nnx.Conv(2, 5, (3, 3), rngs=nnx.Rngs(0))
    net.second.kernel = net.first.kernel
    refused(net, "its kernel is shared by first/kernel and second/kernel")
    net.second.kernel[...] *= net.second.kernel[...] > 0.1
    tx = js.revise(INNER["sgd"], ("first/kernel", SET))
    with pytest.raises(ValueError, match="first/kernel: its kernel is shared with second"):
        js.PackedOptimizer(pack(net, csr(), "first|second"), tx)
