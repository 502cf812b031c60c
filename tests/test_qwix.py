"""Models that qwix quantizes or adapts: what it would pass over is refused, by path."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsparse as js
from jsparse._slots import walk_modules
from jsparse.export import csr, int8, left_dense, load, pack, save


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(nnx.relu(self.a(x)))


X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16)), jnp.float32)
HALF = ("a/kernel", js.Top(density=0.5, unit=js.Filter()))


def taken(model: Net) -> Net:
    """A copy as qwix leaves it: each module knows its path."""
    model = nnx.clone(model)
    for path, module in walk_modules(model):
        module.qwix_path = tuple(path.split("/"))  # type: ignore[attr-defined]
    return model


@flax.struct.dataclass
class Int8:
    """What may stand in the place of a kernel: variables in an object that is not a module."""

    q: Any
    scale: Any

    @property
    def value(self) -> jax.Array:
        return self.q[...].astype(jnp.float32) * self.scale[...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    def __getitem__(self, index: Any) -> jax.Array:
        return self.value[index]


def quantized(model: Net) -> Net:
    """A copy with such an object in each layer."""
    model = nnx.clone(model)
    for layer in (model.a, model.b):
        scale = jnp.abs(layer.kernel[...]).max(0, keepdims=True) / 127
        q = jnp.round(layer.kernel[...] / scale).astype(jnp.int8)
        held = Int8(nnx.Param(q), nnx.Param(scale))
        layer.kernel = nnx.data(held) if hasattr(nnx, "data") else held  # type: ignore[assignment]
    return model


def test_a_weight_with_a_rule_would_be_passed_over():
    message = r"a/kernel: qwix looks for nnx\.Params.*quantize_model\(jsparse\.fold\(model\)"
    model = js.sparsify(Net(), HALF)
    assert not hasattr(model.a.kernel, "qwix_path")
    with pytest.raises(TypeError, match=message):
        taken(model)
    assert taken(js.fold(model))(X).shape == (8, 4)
    with pytest.raises(TypeError, match=message):
        js.sparsify(taken(Net()), HALF)
    adapted: Any = taken(Net())
    adapted.b.kernel_lora_a, adapted.b.kernel_lora_b = (nnx.Param(jnp.ones((2, 2))) for _ in "ab")
    js.sparsify(adapted, HALF, ("b/kernel_lora_b", js.Held()))  # its LoRA is on the other layer
    with pytest.raises(TypeError, match="b/kernel: qwix looks"):
        js.sparsify(adapted, ("b/kernel", js.Held()))


def test_a_kernel_in_an_object_is_said_to_stay():
    model = quantized(js.fold(js.sparsify(Net(), HALF)))
    small, record = js.shrink(model, X)
    assert record.stayed.keys() == {"a/kernel", "b/kernel"} and not record.cuts
    assert "shrink the model first" in record.stayed["a/kernel"]
    np.testing.assert_array_equal(small(X), model(X))
    assert "its kernel is a Int8, not an array" in left_dense(model)["a"]
    with pytest.raises(ValueError, match=r"a: its kernel is a Int8.*with int8\(format\)"):
        pack(model, csr())
    cost = js.report.costs(model, X)
    assert cost.bytes == 16 * 32 + 32 * 4 + 2 * 4 * (32 + 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_with_qwix(tmp_path):
    qwix = pytest.importorskip("qwix")
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8")
    model = js.sparsify(Net(), HALF)
    for provider in (qwix.PtqProvider([rule]), qwix.QtProvider([rule])):
        with pytest.raises(TypeError, match=r"a/kernel: qwix looks for nnx\.Params"):
            qwix.quantize_model(model, provider, X)
    small, _ = js.shrink(model, X)
    by_qwix = qwix.quantize_model(small, qwix.PtqProvider([rule]), X)
    assert by_qwix.a.kernel.shape == (16, 16)  # half of the units
    ours = pack(js.sparsify(small, (".*/kernel", js.Top(density=0.2))), int8(csr()))
    assert ours(X).shape == by_qwix(X).shape
    save(tmp_path / "model", by_qwix, X)
    np.testing.assert_allclose(load(tmp_path / "model")(X), by_qwix(X), atol=1e-5)
    stayed = js.shrink(qwix.quantize_model(js.fold(model), qwix.PtqProvider([rule]), X), X)[1]
    assert stayed.stayed.keys() == {"a/kernel", "b/kernel"}
    with pytest.raises(ValueError, match="its kernel is a WithAux"):
        pack(by_qwix, csr())
