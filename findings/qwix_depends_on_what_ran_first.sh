#!/usr/bin/env bash
# Whether qwix quantizes `x @ w`, and whether the float model stays one, depends on which ran first.
#
# Guess: quantize_model returns a new model; the product is quantized in it or not, as its rules say,
#   and the model given to it computes what it computed before.
# Versions: qwix 0.1.8, flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: qwix exchanges lax.dot_general while a model runs. JAX traces `@`, jnp.matmul and jnp.dot
#   once per shape, and whoever calls them first with these shapes fixes what is inside. Float model
#   first: the quantized one is the float one to the last bit, so training "with int4" trains in float32.
#   Quantized model first: the float one gives the int4 results. No warning. Another batch size is another
#   shape, and may behave the other way. nnx.Linear calls lax.dot_general itself and is right in both orders.
# Who is hurt: layers written by hand as `x @ (kernel * mask)`, the usual way to train with a mask, and any
#   comparison of float and quantized accuracy in one process.
# Remedy: lax.dot_general or jnp.einsum in the layer, or jax.clear_caches() between the two models.
#
# Output seen (relative errors of the outputs; int4 weights cost 0.1):
#   product       first call       float model  quantized model
#   matmul        float model      0.0000       0.0000
#   matmul        quantized model  0.1001       0.1001
#   dot           float model      0.0000       0.0000
#   dot           quantized model  0.1001       0.1001
#   dot_general   float model      0.0000       0.1001
#   dot_general   quantized model  0.0000       0.1001
#   einsum        float model      0.0000       0.1001
#   einsum        quantized model  0.0000       0.1001

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet qwix==0.1.8 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jax import lax

x = jax.random.normal(jax.random.key(0), (8, 64))
rules = [qwix.QtRule(module_path=".*", weight_qtype=jnp.int4)]


class Masked(nnx.Module):
    def __init__(self, product):
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(1), (64, 32)))
        self.mask = nnx.Variable(jax.random.bernoulli(jax.random.key(2), 0.3, (64, 32)))
        self.product = product

    def __call__(self, x):
        return self.product(x, self.kernel[...] * self.mask[...])


def matmul(x, w):
    return x @ w


def dot_general(x, w):
    return lax.dot_general(x, w, (((1,), (0,)), ((), ())))


def einsum(x, w):
    return jnp.einsum("ni,io->no", x, w)


def errors(product, float_first):
    """Relative errors of the float and the quantized model, called in one order."""
    jax.clear_caches()
    model = Masked(product)
    exact = np.asarray(x) @ np.asarray(model.kernel[...] * model.mask[...])

    def error(model):
        return float(np.linalg.norm(np.asarray(model(x)) - exact) / np.linalg.norm(exact))

    first = error(model) if float_first else None
    trained = qwix.quantize_model(model, qwix.QtProvider(rules), x)
    quantized = error(trained)
    return error(model) if first is None else first, quantized


print("product       first call       float model  quantized model")
found = {}
for product in (matmul, jnp.dot, dot_general, einsum):
    for float_first in (True, False):
        pair = found[product, float_first] = errors(product, float_first)
        order = "float model" if float_first else "quantized model"
        print(f"{product.__name__:<13} {order:<16} {pair[0]:<12.4f} {pair[1]:.4f}")

for product in (dot_general, einsum):
    for order in (True, False):
        assert found[product, order][0] < 1e-5 and found[product, order][1] > 0.03
for product in (matmul, jnp.dot):
    assert found[product, True][1] < 1e-5, "the quantized model is quantized now"
    assert found[product, False][0] > 0.03, "the float model stays in float now"
PYTHON
