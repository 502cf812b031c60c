"""Packed layers that are stacked for nnx.scan and nnx.vmap, or share their kernel."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsparse as js
from jsparse._variables import store
from jsparse.export import blocks, csr, left_dense, pack, pick, unpack
from jsparse.export._packing.structure import CsrSizes

LAYERS, WIDE = 3, 24


def _stack(make, layers=LAYERS, axis=0):
    keys = jax.random.split(jax.random.key(0), layers)
    return nnx.vmap(lambda key: make(nnx.Rngs(key)), out_axes=axis)(keys)


class Deep(nnx.Module):
    """Three layers under nnx.scan, and one after them."""

    def __init__(self):
        self.blocks = _stack(lambda rngs: nnx.LinearGeneral(WIDE, (4, 6), rngs=rngs))
        self.head = nnx.Linear(WIDE, 5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(layer, x):
            return nnx.relu(layer(x)).reshape(x.shape)

        return self.head(run(self.blocks, x))


class Parts(nnx.Module):
    """Modules by name."""

    def __init__(self, **parts):
        for name, part in parts.items():
            setattr(self, name, part)


def _sparse():
    """The layers keep 10 %, half as much, and nothing."""
    model = Deep()
    kernel = np.array(model.blocks.kernel[...])
    kernel[np.random.default_rng(0).random(kernel.shape) > 0.1] = 0.0
    kernel[1, : WIDE // 2] = kernel[2] = 0.0
    model.blocks.kernel[...] = jnp.asarray(kernel)
    return js.fold(js.sparsify(model, ("head/kernel", js.Top(density=0.2))))


@nnx.jit
def _outputs_and_gradients(model, x):
    return model(x), nnx.grad(lambda model: (model(x) ** 2).sum())(model)


def test_a_scanned_model_is_packed_trained_saved_and_restored(tmp_path):
    model, x = _sparse(), jax.random.normal(jax.random.key(2), (4, WIDE))
    packed = pack(model, csr())
    kernel = np.asarray(model.blocks.kernel[...])
    kept = np.count_nonzero(kernel.reshape(LAYERS, -1), axis=1)
    assert packed.blocks.values.shape == (LAYERS, kept.max()) and packed.blocks.kept == kept.sum()
    assert js.summary(packed).rows["blocks/values"].kept == kept.sum()
    (expected, dense), (y, ours) = (_outputs_and_gradients(m, x) for m in (model, packed))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(unpack(packed).blocks.kernel[...], kernel)
    np.testing.assert_allclose(ours["blocks"]["bias"][...], dense["blocks"]["bias"][...], atol=1e-4)
    gradients = pack(model, csr()).blocks
    gradients.values[...] = ours["blocks"]["values"][...]
    wanted = np.where(kernel != 0, dense["blocks"]["kernel"][...], 0).reshape(LAYERS, WIDE, WIDE)
    np.testing.assert_allclose(gradients.kernel_matrix(), wanted, atol=1e-4)
    js.export.save(tmp_path / "a", packed, x)
    for template in (Deep(), packed):
        again = js.export.restore(tmp_path / "a", template)
        assert again.blocks.stack == (LAYERS,)
        np.testing.assert_array_equal(again.blocks.values[...], packed.blocks.values[...])
    np.testing.assert_allclose(js.export.load(tmp_path / "a")(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"blocks is packed in the file, .*; it is of another"):
        js.export.restore(
            tmp_path / "a",
            Parts(blocks=nnx.Linear(WIDE, WIDE, rngs=nnx.Rngs(0)), head=model.head),
        )


def test_an_ensemble_under_vmap_is_packed():
    members = _stack(lambda rngs: nnx.Linear(WIDE, 5, rngs=rngs))
    members.kernel[...] = jnp.where(abs(members.kernel[...]) > 0.3, members.kernel[...], 0)
    call = nnx.jit(nnx.vmap(lambda member, x: member(x), in_axes=(0, None)))
    packed, x = pack(members, csr()), jax.random.normal(jax.random.key(2), (4, WIDE))
    np.testing.assert_allclose(call(packed, x), call(members, x), atol=1e-5)


@pytest.mark.parametrize("make", [lambda model: csr()(js.fold(model)), lambda model: model])
def test_a_stack_of_which_only_parameters_are_taken_apart_is_refused(make):
    members = _stack(lambda rngs: nnx.Linear(LAYERS, 5, rngs=rngs))
    made = make(js.sparsify(members, ("kernel", js.Held())))
    axes = nnx.StateAxes({nnx.Param: 0, ...: None})
    call = nnx.vmap(lambda member, x: member(x), in_axes=(axes, None))
    with pytest.raises(ValueError, match=r"all variables on one axis, as nnx\.StateAxes"):
        call(made, jnp.ones((4, LAYERS)))


def test_a_stack_without_layers_has_arrays_of_the_usual_types():
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    for part in (layer.kernel, layer.bias):
        store(part, jnp.zeros((0, *part.shape)))
    arrays = csr()(layer).arrays(jnp.zeros((0, 0)))
    assert [(one.dtype.name, one.shape) for one in arrays] == [
        ("float32", (0, 0)),
        ("uint16", (0, 0)),
        ("int32", (0, 4)),
    ]


def test_pick_measures_one_layer_of_a_stack():
    choice = pick(_sparse(), jnp.ones((4, WIDE)), formats={"csr": csr()}).layers[0]
    assert (choice.path, choice.shape, choice.rows) == ("blocks", (LAYERS, WIDE, 4, 6), 4)
    assert set(choice.seconds) == {"dense", "csr"}


def test_what_stacks_are_not_taken_is_said():
    with pytest.raises(ValueError, match=r"blocks: blocks are for one matrix, and it is a stack"):
        pack(_sparse(), blocks((6, 6)), "blocks")
    with pytest.raises(ValueError, match=r"a stack of \(3,\) layers was called"):
        pack(_sparse(), csr()).blocks(jnp.ones((4, WIDE)))
    turned = _stack(lambda rngs: nnx.Linear(4, 5, rngs=rngs), axis=1)
    assert "is [4, 3, 5]; only those that end in [4, 5]" in left_dense(turned)[""]
    for wrong in (-1, (2, 1.5)):
        with pytest.raises((TypeError, ValueError), match="stack must be a whole number"):
            js.export.Csr(4, 5, kept=3, width=4, stack=wrong)


def test_links_of_stacks_and_shared_kernels_do_not_move():
    tx = js.revise(optax.sgd(0.1), (".*kernel", js.SET(last=1000)))
    with pytest.raises(ValueError, match=r"blocks/kernel: a stack of \(3,\) layers"):
        js.PackedOptimizer(pack(_sparse(), csr()), tx)
    with pytest.raises(ValueError, match="one/kernel: its kernel is shared with other"):
        js.PackedOptimizer(pack(Shared(), csr()), tx)


@pytest.mark.parametrize(
    ("name", "at", "value", "error"),
    [
        ("starts", (1, -1), 3, "starts end at 3, expected 0 to 2"),
        ("starts", (1, 1), 2, "starts do not rise from 0 to 1"),
        ("indices", (0, 1), 4, r"indices\[1\] is 4, expected 0 to 3"),
    ],
)
def test_a_damaged_stack_is_refused(name, at, value, error):
    arrays = {
        "values": np.ones((2, 2), np.float32),
        "indices": np.array([[0, 3], [1, 0]], np.uint16),
        "starts": np.array([[0, 1, 2], [0, 1, 1]], np.int32),
    }
    sizes = CsrSizes(4, 2, 2, 4, (2,))
    sizes.check_arrays(arrays)
    arrays[name][at] = value
    with pytest.raises(ValueError, match=error):
        sizes.check_arrays(arrays)
    with pytest.raises(
        ValueError, match=re.escape("starts is float32[2, 3], expected int32[2, 3]")
    ):
        sizes.check_arrays(arrays | {"starts": np.full((2, 3), np.inf, np.float32)})
    with pytest.raises(ValueError, match=re.escape("values is float32[2], expected")):
        sizes.check_arrays(arrays | {"values": arrays["values"][0]})


class Shared(nnx.Module):
    """Two layers with one kernel, and one layer in two places."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.one, self.other, self.twice = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
        for layer in (self.one, self.twice):
            layer.kernel[...] = jnp.where(abs(layer.kernel[...]) > 0.4, layer.kernel[...], 0)
        self.other.kernel, self.again = self.one.kernel, self.twice
        self.other.bias[...] += 1.0

    def __call__(self, x):
        return self.again(nnx.relu(self.twice(nnx.relu(self.other(nnx.relu(self.one(x)))))))


def test_what_is_shared_stays_shared_in_a_file_too(tmp_path):
    model, x = Shared(), jax.random.normal(jax.random.key(2), (4, 8))
    packed = pack(model, csr())
    js.export.save(tmp_path / "a", packed, x)
    for made in (packed, js.export.restore(tmp_path / "a", Shared()), unpack(packed)):
        kernel = "values" if hasattr(made.one, "values") else "kernel"
        assert getattr(made.one, kernel) is getattr(made.other, kernel)
        assert made.one.bias is not made.other.bias and made.again is made.twice
        np.testing.assert_allclose(made(x), model(x), atol=1e-5)


def test_layers_that_share_a_kernel_have_one_format():
    width = iter([4, 8, 4])
    with pytest.raises(ValueError, match=r"other: it shares its kernel with .* use one format"):
        pack(Shared(), lambda layer: csr(next(width))(layer))


def test_convolutions_that_share_a_kernel_may_differ_in_strides():
    rngs = nnx.Rngs(0)
    one = nnx.Conv(3, 3, (3, 3), rngs=rngs)
    other = nnx.Conv(3, 3, (3, 3), strides=2, kernel_dilation=2, rngs=rngs)
    one.kernel[...] = jnp.where(abs(one.kernel[...]) > 0.25, one.kernel[...], 0)
    other.kernel = one.kernel
    model, x = nnx.Sequential(one, other), jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    packed = pack(model, csr())
    assert packed.layers[0].values is packed.layers[1].values
    np.testing.assert_allclose(packed(x), model(x), atol=1e-5)


def test_a_kernel_that_something_dense_shares_stays():
    with pytest.raises(ValueError, match="one: its kernel is shared with other, which stays"):
        pack(Shared(), csr(), "one")
    tied = Parts(embed=nnx.Embed(8, 8, rngs=nnx.Rngs(0)), head=Shared().one)
    tied.embed.embedding = tied.head.kernel
    assert left_dense(tied) == {"head": "its kernel is shared with embed, which stays"}
    read = Parts(one=Shared().one, other=nnx.Einsum("bi,oi->bo", (8, 8), rngs=nnx.Rngs(0)))
    read.other.kernel = read.one.kernel
    assert "which reads it another way" in left_dense(read)["one"]
