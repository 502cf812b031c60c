"""Truly sparse training: the masked run where all places are drawn, and never a dense array."""

import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse._slots import walk_modules
from jsparse.export import random_csr, save, trim
from jsparse.export._packing.layers import put_packed
from jsparse.export._saving.saving import packed_layers
from tests.support.cases import enable_x64
from tests.support.packing import needs_compiler

pytestmark = pytest.mark.standard_dtypes  # optax's Adam mixes them
KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (16, 24)), jax.random.randint(KEY, (16,), 0, 5)
ADAM = optax.adam(1e-2)
RIGL = js.RigL(last=9, every=2, fraction=0.6)


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(24, 16, rngs=rngs)
        self.out = nnx.LinearGeneral(16, (5, 1), rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))[..., 0]


def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    found = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, (nnx.Param, js.Mask)))(model)
    optimizer.update(model, found[1])
    return found[0]


train = nnx.jit(step)


def masked(by, inner=ADAM):
    model = js.sparsify(Net(), (".*/kernel", js.Held()))
    model = js.prune.random(model, density=0.3, key=jax.random.key(1))
    model = js.hold(model)
    tx = js.revise(inner, (".*/kernel", by), seed=3)
    return model, js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask))


def same(one, two) -> None:
    """Equal paths, and values up to rounding."""
    one, two = (dict(nnx.to_flat_state(nnx.state(m))) for m in (one, two))
    assert one.keys() == two.keys()
    for path, leaf in one.items():
        assert jnp.allclose(leaf[...], two[path][...], atol=1e-5), path


@pytest.mark.slow
def test_with_all_places_it_is_the_masked_run_and_goes_back():
    model, optimizer = masked(RIGL)
    train(model, optimizer, X, Y)
    packed, moving = js.pack_training(model, optimizer, candidates=math.inf)
    assert packed.hidden.values.shape == (int(js.masks(model)["hidden/kernel"].sum()),)
    before = packed.hidden.indices[...]
    for _ in range(6):
        one, two = train(model, optimizer, X, Y), train(packed, moving, X, Y)
        assert abs(one - two) < 1e-5
    assert (packed.hidden.indices[...] != before).any()  # links have moved
    packed.hidden.check()
    back, again = js.unpack_training(packed, moving)
    assert {path: mask.sum() for path, mask in js.masks(back).items()} == {
        path: mask.sum() for path, mask in js.masks(model).items()
    }
    assert all((js.masks(back)[path] == mask).all() for path, mask in js.masks(model).items())
    same(again, optimizer)
    for path, part in {"hidden": back.hidden, "out": back.out}.items():
        assert jnp.allclose(part.kernel[...], getattr(model, path).kernel[...], atol=1e-5)
    assert abs(train(back, again, X, Y) - train(model, optimizer, X, Y)) < 1e-5


def test_packed_again_it_is_the_same_run():
    model, optimizer = masked(js.SET(last=9, every=2))
    packed, moving = js.pack_training(model, optimizer)
    same(js.pack_training(*js.unpack_training(packed, moving))[0], packed)


def test_gradual_makes_room_and_trim_takes_it_out(tmp_path):
    model = nnx.Sequential(
        random_csr(24, 16, links=8, key=KEY), nnx.relu, nnx.Linear(16, 5, rngs=nnx.Rngs(0))
    )
    tx = js.revise(ADAM, (".*/kernel", js.Gradual(density=0.1, start=0.3, last=4, every=2)))
    optimizer = js.PackedOptimizer(model, tx)
    for _ in range(4):
        train(model, optimizer, X, Y)
    layer = model.layers[0]
    assert layer.values.shape == (128,) and layer.starts[...][-1] == 38
    assert (layer.values[...][38:] == 0).all()
    with pytest.raises(ValueError, match=r"layers/0 has room .*save jsparse.export.trim\(model\)"):
        save(tmp_path / "no", model, X)
    small = trim(model)
    assert small.layers[0].values.shape == (38,)
    assert jnp.allclose(small(X), model(X), atol=1e-6)
    assert jnp.allclose(small.layers[0].kernel_matrix(), layer.kernel_matrix())
    settings = packed_layers(dict(walk_modules(small)))  # as `restore` reads them from a file
    assert put_packed(model, settings).layers[0].values.shape == (38,)
    model.layers[0] = random_csr(24, 17, links=8, key=KEY)
    with pytest.raises(ValueError, match=r"16 features, .* packed layer from 24 to 17 features"):
        put_packed(model, settings)


@needs_compiler
@pytest.mark.parametrize(
    "by", [js.SET(last=9, every=2), RIGL, js.Below(quality=1.0, last=9, every=2)]
)
def test_no_array_has_the_size_of_a_dense_kernel(by):
    model = random_csr(3000, 2000, links=3, key=KEY)
    optimizer = js.PackedOptimizer(model, js.revise(ADAM, ("kernel", by)))
    graphdef, state = nnx.split((model, optimizer))

    @jax.jit
    def pure(state, x, y):
        both = nnx.merge(graphdef, state)
        return step(*both, x, y), nnx.state(both)

    text = pure.lower(state, jnp.ones((4, 3000)), jnp.zeros(4, int)).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)", text)
    sizes = [math.prod(int(n) for n in shape.split("x")[:-1]) for shape in shapes]
    assert max(sizes) < 40_000 < 3000 * 2000


WRONG = {
    "no packed layer": (lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)), RIGL, "no packed layers"),
    "dense phases": (
        lambda: random_csr(3, 2, links=2, key=KEY),
        js.ACDC(density=0.5, first=1, every=2, last=9),
        "ACDC trains or frees weights that are not kept",
    ),
    "a scope": (
        lambda: random_csr(3, 2, links=2, key=KEY),
        js.SET(last=9, every=2, scope=js.PerOutput()),
        "single weights compete in the whole layer",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_move_is_refused(name):
    make, by, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        js.PackedOptimizer(make(), js.revise(ADAM, ("kernel", by)))


def test_gradients_without_drawn_places_are_refused():
    model = random_csr(24, 5, links=3, key=KEY)
    optimizer = js.PackedOptimizer(model, js.revise(ADAM, ("kernel", RIGL)))
    grads = nnx.grad(lambda model: model(X).sum())(model)
    with pytest.raises(ValueError, match=r"no 'probe/drawn'.*DiffState\(0, \(nnx.Param, jsparse.M"):
        optimizer.update(model, grads)


def test_drawn_places_are_no_part_of_the_task_and_take_float32():
    model = random_csr(24, 5, links=3, key=KEY)
    js.PackedOptimizer(model, js.revise(ADAM, ("kernel", RIGL)))
    with enable_x64():
        wrt = nnx.DiffState(0, (nnx.Param, js.Mask))
        grads = nnx.grad(lambda model: model(X).sum(), argnums=wrt)(model)
    assert grads["probe"]["drawn"][...].dtype == jnp.float32
    assert js.optim.task_gradients(model, grads).keys() == {"bias", "values"}


def test_what_cannot_be_packed_is_named():
    model, _ = masked(RIGL)
    one = js.Optimizer(model, ADAM)
    with pytest.raises(TypeError, match=r"whose tx jsparse\.revise made"):
        js.pack_training(model, one)
    net = nnx.Conv(2, 4, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
    net = js.sparsify(net, ("kernel", js.Held()))
    tx = js.revise(ADAM, ("kernel", RIGL))
    with pytest.raises(ValueError, match="kernel: its links cannot be packed: its features"):
        js.pack_training(net, js.Optimizer(net, tx, wrt=(nnx.Param, js.Mask)))
    net = js.sparsify(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), (".*", js.Held()))
    tx = js.revise(ADAM, ("bias", RIGL))
    with pytest.raises(ValueError, match="bias: its links cannot be packed: it is not the kernel"):
        js.pack_training(net, js.Optimizer(net, tx, wrt=(nnx.Param, js.Mask)))
    factored = optax.adafactor(1e-2, min_dim_size_to_factor=4)
    with pytest.raises(ValueError, match=r"state at 0/v_row/hidden/values does not mirror"):
        js.pack_training(*masked(RIGL, factored))


def test_a_layer_in_two_places_stays_one():
    net = Net()
    net.hidden = nnx.Linear(24, 24, rngs=nnx.Rngs(0))
    net.again = net.hidden
    model = js.hold(js.sparsify(net, (".*/kernel", js.Held())))
    tx = js.revise(ADAM, (".*/kernel", RIGL))
    packed, moving = js.pack_training(model, js.Optimizer(model, tx, wrt=(nnx.Param, js.Mask)))
    assert packed.again is packed.hidden and packed.hidden.values.shape == (24 * 24,)
    back, optimizer = js.unpack_training(packed, moving)
    assert back.again is back.hidden and isinstance(back.hidden, nnx.Linear)
    same(js.pack_training(back, optimizer)[1], moving)


def test_state_goes_by_whole_paths():
    net = Net()
    net.inner = Net()  # inner/out ends as out does, and is not revised
    net = js.hold(js.sparsify(net, (".*/kernel", js.Held())))
    tx = js.revise(ADAM, ("out/kernel", RIGL))
    optimizer = js.Optimizer(net, tx, wrt=(nnx.Param, js.Mask))
    same(js.unpack_training(*js.pack_training(net, optimizer))[1], optimizer)
