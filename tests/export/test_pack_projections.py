"""Layers over several axes, as the projections of attention, pack as the matrix that they are."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import jsparse as js
from jsparse.export import blocks, csr, int8, left_dense, load, pack, pick, restore, save, unpack
from jsparse.export._packing.dense import kernel_of
from jsparse.export._packing.layers import bytes_of
from tests.support.packing import draw, outputs_and_gradients

P = jax.P
LAYERS = {
    "into heads": (lambda **kw: nnx.LinearGeneral(24, (4, 5), **kw), (3, 24)),
    "out of heads": (
        lambda **kw: nnx.LinearGeneral((4, 6), 15, axis=(-2, -1), **kw),
        (2, 3, 4, 6),
    ),
    "equation": (lambda **kw: nnx.Einsum("btd, hdk -> bthk", (4, 24, 5), (4, 5), **kw), (2, 3, 24)),
    "equation out of heads": (
        lambda **kw: nnx.Einsum("...hk,hdk->...d", (4, 15, 6), **kw),
        (2, 4, 6),
    ),
}
FORMATS = {"csr": csr(), "blocks": blocks((7, 3))}


def made(name: str, **settings: Any) -> tuple[Any, jax.Array]:
    """A layer with a sparse kernel and a bias, and an input."""
    layer, shape = LAYERS[name][0](rngs=nnx.Rngs(0), **settings), LAYERS[name][1]
    kept = np.random.default_rng(1).random(layer.kernel.shape) < 0.2
    layer.kernel[...] = jnp.asarray(draw(*layer.kernel.shape) * kept, layer.kernel[...].dtype)
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(draw(*layer.bias.shape), layer.bias[...].dtype)
    return layer, jnp.asarray(draw(*shape, seed=4))


@pytest.mark.parametrize(
    ("name", "format"), [*((name, "csr") for name in LAYERS), ("out of heads", "blocks")]
)
def test_outputs_and_gradients_are_those_of_the_dense_layer(name, format):
    layer, x = made(name)
    packed = FORMATS[format](layer)

    found = []
    for model in (packed, layer):
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        found.append(outputs_and_gradients(tuple(state), graphdef, x))
    (ours, our_grads, our_dx), (dense, grads, dx) = found
    assert (ours.shape, ours.dtype) == (dense.shape, dense.dtype)
    packed.values[...] = our_grads["values"][...]
    kept = kernel_of(layer) != 0
    layer.kernel[...] = grads["kernel"][...]
    weights = [(np.asarray(packed.kernel_matrix())[kept], kernel_of(layer)[kept])]
    biases = [] if layer.bias is None else [(our_grads["bias"][...], grads["bias"][...])]
    for got, expected in [(ours, dense), (our_dx, dx), *weights, *biases]:
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(abs(expected).max()))


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", ["into heads", "equation out of heads"])
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"param_dtype": jnp.bfloat16}, jnp.float32),
        ({"dtype": jnp.bfloat16}, jnp.float32),
        ({"param_dtype": jnp.bfloat16}, jnp.bfloat16),
    ],
)
def test_dtypes_are_those_of_the_dense_layer(name, settings, given):
    layer, x = made(name, **settings)
    y, expected = csr()(layer)(x.astype(given)), layer(x.astype(given))
    assert y.dtype == expected.dtype
    size = float(abs(np.float32(expected)).max())
    np.testing.assert_allclose(np.float32(y), np.float32(expected), atol=2e-2 * size)


def attention() -> Any:
    """Attention that normalizes its queries, and a linear layer, with 15 % of their weights."""
    rngs = nnx.Rngs(0)
    part = nnx.MultiHeadAttention(4, 32, normalize_qk=True, decode=False, rngs=rngs)
    net = nnx.Sequential(part, nnx.Linear(32, 8, rngs=rngs))
    return js.sparsify(net, (".*/kernel", js.Top(density=0.15)))


def test_attention_is_saved_and_restored_in_any_format(tmp_path):
    model, x = attention(), jnp.asarray(draw(2, 5, 32))
    formats = {"query": csr(), "key": int8(csr()), "value": blocks((8, 4))}
    packed = js.fold(model)
    for name, format in (formats | {"out": int8(blocks((8, 4)))}).items():
        setattr(packed.layers[0], name, format(getattr(packed.layers[0], name)))
    y, plain, dense = jax.jit(lambda x: (packed(x), unpack(packed)(x), js.fold(model)(x)))(x)
    np.testing.assert_allclose(y, plain, atol=1e-5)
    np.testing.assert_allclose(y, dense, atol=2e-2 * float(abs(dense).max()))
    save(tmp_path / "model", packed, x)
    np.testing.assert_allclose(load(tmp_path / "model")(x), y, atol=1e-5)
    again = restore(tmp_path / "model", js.fold(model))
    assert type(again.layers[0].out) is type(packed.layers[0].out)
    assert again.layers[0].query.out_shape == (4, 8)
    np.testing.assert_allclose(jax.jit(again)(x), y, atol=1e-5)
    told = json.loads((tmp_path / "model/model.json").read_text())["packed"]["layers/0/out"]
    assert (told["in_features"], told["out_features"]) == ([4, 8], 32)
    heads = nnx.MultiHeadAttention(8, 32, decode=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"to \[\d, 8\] features, and the model has a kernel"):
        restore(tmp_path / "model", nnx.Sequential(heads, model.layers[1]))


def test_a_whole_model_gets_smaller_and_says_what_does_not():
    model, x = attention(), jnp.asarray(draw(2, 5, 32))
    packed, dense = pack(model, csr()), js.fold(model)
    assert not left_dense(model, csr())
    assert bytes_of(packed) < 0.6 * bytes_of(dense)
    assert {type(getattr(packed.layers[0], name)).__name__ for name in ("query", "out")} == {"Csr"}
    np.testing.assert_allclose(packed(x), dense(x), atol=1e-5)
    full = nnx.LinearGeneral(32, (4, 8), rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="left 1 of 1 layers dense: the model: packed it would"):
        assert pack(full, csr()) is not full
    chosen = {choice.path: choice for choice in pick(model, x).layers}
    assert chosen["layers/0/out"].rows == chosen["layers/0/query"].rows == 10


def test_what_is_no_matrix_is_left_with_the_reason():
    rngs = nnx.Rngs(0)
    own = lambda *args, **named: jnp.einsum(*args)
    general, einsum = nnx.LinearGeneral, nnx.Einsum
    equations = {
        "hbi,hio->bho": (2, 4, 3),  # a matrix for each head
        "bo,io->bo": (4, 3),
        "bi,io->ob": (4, 3),
        "bti,io->bot": (4, 3),
        "bi,ijo->bo": (4, 2, 3),  # adds up
        "bid,io->bdo": (4, 3),
        "...,ho->...ho": (4, 3),
    }
    wrong = [
        (r"axes \(1,\) of its input, not \(-1,\)", general(4, 3, axis=1, rngs=rngs)),
        (r"axes \(-1, -2\) of its", general((4, 2), 3, axis=(-1, -2), rngs=rngs)),
        (r"batch axes \{0: 2\}", general(4, 3, batch_axis={0: 2}, rngs=rngs)),
        ("a custom product", general(4, 3, dot_general=own, rngs=rngs)),
        ("a custom product", einsum("bi,io->bo", (4, 3), einsum_op=own, rngs=rngs)),
        (r"bias has shape \(12,\)", einsum("bi,iho->bho", (5, 4, 3), (12,), rngs=rngs)),
        *((re.escape(f"{one!r} is no"), einsum(one, s, rngs=rngs)) for one, s in equations.items()),
    ]
    for reason, layer in wrong:
        with pytest.raises(ValueError, match=reason):
            pack(layer, csr())


@pytest.mark.parametrize("features", [(4, (2, 3)), ((2, 2), 6)])
def test_layers_made_by_hand_take_several_axes(features):
    layer = js.export.Csr(*features, kept=3, width=4)
    assert (layer.in_features, layer.out_features) == (4, 6)
    assert layer(jnp.ones((5, *layer.in_shape))).shape == (5, *layer.out_shape)
    for sizes in ([], (2, -1), (2, True)):
        with pytest.raises((TypeError, ValueError), match="in_features"):
            js.export.Csr(sizes, 3, kept=1, width=1)
    takes = ", ".join(map(str, layer.in_shape))
    with pytest.raises(ValueError, match=rf"the layer takes \[\.\.\., {takes}\]"):
        layer(jnp.ones((4, 1)))


def test_outputs_on_a_mesh_are_laid_out_as_asked():
    layer, x = made("into heads")
    packed = csr()(layer)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    x = jnp.concatenate([x, x[:1]])
    with jax.set_mesh(mesh):
        graphdef, state = nnx.split(packed)
        state = jax.device_put(state, NamedSharding(mesh, P()))
        run = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x, out_sharding=P("data", None, None)))
        y = run(state, jax.device_put(x, NamedSharding(mesh, P())))
        assert y.sharding.spec[0] == "data"
        np.testing.assert_allclose(y, layer(x), atol=1e-5)
