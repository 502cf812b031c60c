"""Models as ONNX files: by other operations, in onnxruntime, without zeros."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jsparse as js
from jsparse.export._saving import conversion
from jsparse.export._saving.functional import check_outputs_agree
from jsparse.export._saving.operations import decomposed, every, without_unused
from tests.support.saved import draw, net
from tests.support.zoo_cases import CASES, outputs

pytestmark = pytest.mark.standard_dtypes  # stock layers divide by integers


def same(function: Any, *inputs: Any) -> set[str]:
    """The operations of the plainer function, whose values and dtypes must be the same."""
    plain = decomposed(without_unused(function, inputs))
    for one, other in zip(jax.tree.leaves(function(*inputs)), plain(*inputs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=1e-2, atol=1e-3)
    return {eqn.primitive.name for eqn, _ in every(jax.make_jaxpr(plain)(*inputs))}


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: nnx.max_pool(x, (2, 2), (2, 2)),
        lambda x: nnx.min_pool(x, (3, 2), (2, 1), "SAME"),
        lambda x: nnx.avg_pool(x, (3, 3), (2, 2), ((2, 1), (0, 1))),
        lambda x: nnx.max_pool(x.astype(jnp.int32), (4, 5), (3, 3), "SAME"),
        lambda x: jax.lax.reduce_window(
            x, 0.0, jax.lax.add, (1, 2, 3, 1), (1, 2, 1, 1), "VALID", (1, 2, 1, 1), (1, 1, 2, 1)
        ),
    ],
    ids=["max", "min", "average", "whole numbers", "with gaps"],
)
def test_a_pooling_is_made_of_slices(pool) -> None:
    kinds = same(pool, 9 * draw(2, 9, 8, 3))
    assert "slice" in kinds and not any(name.startswith("reduce_window") for name in kinds)


def test_wrappers_are_opened_in_loops_too() -> None:
    def function(x: Array) -> Array:
        step = lambda carry, row: (nnx.relu(carry) + nnx.gelu(row), carry.sum())
        carry, sums = jax.lax.scan(step, x[0], x)
        x = jax.lax.cond(sums[0] > 0, nnx.relu, lambda x: -nnx.silu(x), x + carry[None])
        return jax.lax.fori_loop(0, 3, lambda _, x: nnx.elu(x) - 1, x)

    kinds = same(function, draw(5, 4))
    assert kinds >= {"scan", "cond"} and not kinds & {"jit", "pjit", "custom_jvp_call"}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_few_bits_are_computed_in_float32(dtype) -> None:
    def function(x: Array, w: Array) -> Array:
        y = jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, 3)[0]
        return y + jnp.arange(4, dtype=dtype)[None] + nnx.softmax(y)

    x, w = draw(3, 4).astype(dtype), draw(4, 4, seed=1).astype(dtype)
    same(function, x, w)
    plain = decomposed(without_unused(function, (x, w)))
    for eqn, _ in every(jax.make_jaxpr(plain)(x, w)):
        few = [one.aval.dtype == dtype for one in (*eqn.invars, *eqn.outvars)]
        assert not any(few) or eqn.primitive.name == "convert_element_type"


def test_unused_random_keys_are_left_out() -> None:
    def function(x: Array) -> Array:
        return x + 0 * jax.random.split(jax.random.key(0)).shape[0]

    assert not {"random_split", "random_wrap"} & same(function, draw(2))


def test_a_change_of_dtype_is_refused() -> None:
    x = draw(3).astype(jnp.bfloat16)
    with pytest.raises(ValueError, match="onnxruntime gives float32 where the model gives bfloat"):
        check_outputs_agree(x, [x.astype(jnp.float32)], "onnxruntime")
    with pytest.raises(ValueError, match="off by"):
        check_outputs_agree(draw(3), [draw(3) * 1.01], "onnxruntime")
    check_outputs_agree(draw(3), [draw(3) * 1.01], "onnxruntime", [x])


def test_what_is_not_installed_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match="with its extra onnx"):
        js.export.onnx(tmp_path / "model.onnx", net(), draw(2, 6))
    with pytest.raises(TypeError, match=r"sparse must be True or False; got 0\.05"):
        js.export.onnx(tmp_path / "model.onnx", net(), draw(2, 6), sparse=0.05)


def written(path: Path, model: nnx.Module, *inputs: Any, **settings: Any) -> Any:
    """The file, as what onnx reads."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    js.export.onnx(path, model, *inputs, **settings)
    return onnx.load(path)


def ran(path: Path, *inputs: Any) -> np.ndarray:
    return conversion.run(path.read_bytes(), inputs)[0]


@pytest.mark.slow
def test_folded_and_packed(tmp_path) -> None:
    """In onnxruntime, at another batch size, without comparisons; written is what was compared."""
    model = js.fold(js.sparsify(net(), (".*/kernel", js.Threshold())))
    packed = js.export.pack(js.sparsify(net(), ("./kernel", js.Top(density=0.3))), js.export.csr())
    lstm = CASES["lstm"]
    for name, one in {"net": model, "packed": packed}.items():
        path = tmp_path / f"{name}.onnx"
        kinds = {node.op_type for node in written(path, one, draw(2, 6)).graph.node}
        assert not kinds & {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Where"}
        x = np.asarray(draw(5, 6, seed=1))
        np.testing.assert_allclose(ran(path, x), outputs(one, x), rtol=1e-4, atol=1e-5)
    js.export.onnx(tmp_path / "lstm.onnx", lstm.make(rngs=nnx.Rngs(0)), lstm.inputs(0, 2))
    assert jnp.cumsum(jnp.ones((2, 3)), -1).shape == (2, 3)  # jax2onnx leaves another one behind


class LeNet(nnx.Module):
    def __init__(self, dtype: Any = jnp.float32):
        kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.conv = nnx.Conv(3, 4, (3, 3), **kinds)
        self.norm = nnx.BatchNorm(4, **kinds)
        self.head = nnx.Linear(64, 5, **kinds)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_net_keeps_its_dtype(dtype: str, tmp_path) -> None:
    """By layers in float32; a file of few bits is half as large, and its outputs are as exact."""
    path, model, x = tmp_path / "net.onnx", LeNet(dtype), draw(2, 8, 8, 3).astype(dtype)
    graph = written(path, model, x).graph
    assert ("MaxPool" in {node.op_type for node in graph.node}) == (dtype == "float32")
    x = draw(5, 8, 8, 3, seed=1).astype(dtype)
    found, expected = ran(path, x), np.asarray(outputs(model, x))
    assert found.dtype == expected.dtype == dtype
    scale = np.abs(expected.astype(np.float32)).max()
    close = {"rtol": 0, "atol": 4 * scale * float(jnp.finfo(dtype).eps)}
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), **close)
    held = sum(len(tensor.raw_data) for tensor in graph.initializer)
    weights = sum(v.size * v.dtype.itemsize for v in jax.tree.leaves(nnx.state(model)))
    assert held < weights + 1000


@pytest.mark.slow
def test_recurrent_nets_and_stacks(tmp_path) -> None:
    """A cell whose random stream is a constant; a loop over layers; a width other than float32."""
    for dtype in (jnp.float32, jnp.bfloat16):
        rnn = nnx.RNN(nnx.LSTMCell(6, 5, dtype=dtype, rngs=nnx.Rngs(0)))
        path, x = tmp_path / "rnn.onnx", draw(2, 7, 6)
        written(path, rnn, x)
        found = ran(path, draw(3, 7, 6, seed=1))
        np.testing.assert_allclose(found, rnn(draw(3, 7, 6, seed=1)), atol=1e-2)


class Beta(nnx.Module):
    def __init__(self) -> None:
        self.layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        x = self.layer(x)
        return jax.scipy.special.betainc(jnp.abs(x), 2.0, 0.5)


@pytest.mark.slow
@pytest.mark.slow
def test_a_batch_that_the_model_fixes_is_fixed_in_the_file(tmp_path) -> None:
    pytest.importorskip("jax2onnx")
    runtime: Any = pytest.importorskip("onnxruntime")

    class Fixed(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.Linear(8, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: Array) -> Array:
            return self.layer(x).reshape(2, 4)

    sparse = js.sparsify(Fixed().layer, ("kernel", js.Top(density=0.5)))  # folded by `onnx`
    for model, batch in ((Fixed(), 2), (sparse, "batch")):
        js.export.onnx(tmp_path / "model.onnx", model, draw(2, 8))
        session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
        assert session.get_inputs()[0].shape == [batch, 8]


@pytest.mark.slow
def test_arrays_by_name_are_inputs(tmp_path) -> None:
    pytest.importorskip("jax2onnx")
    runtime: Any = pytest.importorskip("onnxruntime")

    class Masked(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.Linear(8, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: Array, *, mask: Array, twice: bool) -> Array:
            return self.layer(x) * mask * (2 if twice else 1)

    model, x, mask = Masked(), draw(3, 8), np.float32(draw(3, 4) > 0)
    shape = jax.ShapeDtypeStruct((2, 4), np.float32)
    js.export.onnx(tmp_path / "model.onnx", model, (2, 8), mask=shape, twice=True)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, [np.asarray(x), mask], strict=True)))[0]
    np.testing.assert_allclose(found, model(x, mask=mask, twice=True), atol=1e-5)


@pytest.mark.slow
def test_the_operation_that_fails_is_named(tmp_path) -> None:
    where = r"`regularized_incomplete_beta` of float32 at .*test_onnx\.py:\d+: .* `export\.save`"
    with pytest.raises(NotImplementedError, match=where):
        written(tmp_path / "beta.onnx", Beta(), draw(2, 6))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_left_out(dtype: str, tmp_path) -> None:
    """The same outputs to the bit, in onnxruntime and, where installed, in OpenVINO."""
    layers = [nnx.Linear(n, m, param_dtype=dtype, rngs=nnx.Rngs(n)) for n, m in ((90, 80), (80, 9))]
    model = nnx.Sequential(layers[0], nnx.relu, layers[1])
    model = js.fold(js.sparsify(model, (".*/kernel", js.Top(density=0.05))))
    layers[0].bias[...] = 0
    dense, sparse = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    x = np.asarray(draw(3, 90))
    written(dense, model, x)
    graph = written(sparse, model, x, sparse=True).graph
    size = {"float32": 0.15, "bfloat16": 0.25}[dtype]
    assert sparse.stat().st_size < size * dense.stat().st_size
    assert [node.op_type for node in graph.node].count("Constant") >= 2
    np.testing.assert_array_equal(ran(dense, x), ran(sparse, x))
    openvino = pytest.importorskip("openvino")
    core, exact = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    one, other = (core.compile_model(core.read_model(path), "CPU", exact)([x])[0]
                  for path in (dense, sparse))  # fmt: skip
    np.testing.assert_array_equal(one, other)
