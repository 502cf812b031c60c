#!/usr/bin/env bash
# qwix does not quantize a layer whose kernel is an nnx.Variable other than nnx.Param, and says nothing.
#
# Guess: rules name modules and operations, so a Linear that a rule matches is quantized whatever type of
#   variable holds its kernel; or qwix refuses.
# Versions: qwix 0.1.8, flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, on a CPU.
# What happens: the weight of a product is recognized by the nnx.Param it was read from. A kernel in another
#   Variable counts as no weight: quantization-aware training runs in float and the outputs are those of
#   the float model to the last bit. A subclass of nnx.Param is quantized.
# Who is hurt: frozen or masked weights kept in a Variable type of their own so that the optimizer's filter
#   leaves them out, the way NNX suggests for state that is not trained.
# Remedy: derive such types from nnx.Param and filter them out with nnx.Not, or quantize before freezing.
#
# Output seen:
#   kernel in       int4 output - float output, largest
#   Param           0.2393
#   Param subclass  0.2393
#   Variable type   0.0000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet qwix==0.1.8 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import qwix
from flax import nnx

x = jax.random.normal(jax.random.key(1), (8, 16))
rules = [qwix.QtRule(module_path=".*", weight_qtype=jnp.int4)]


class Trained(nnx.Param):
    pass


class Frozen(nnx.Variable):
    pass


class Model(nnx.Module):
    def __init__(self, kind, rngs):
        self.first = nnx.Linear(16, 16, rngs=rngs)
        self.second = nnx.Linear(16, 4, rngs=rngs)
        for layer in (self.first, self.second):
            layer.kernel = kind(layer.kernel[...])

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))


print("kernel in       int4 output - float output, largest")
found = {}
for name, kind in {"Param": nnx.Param, "Param subclass": Trained, "Variable type": Frozen}.items():
    model = Model(kind, nnx.Rngs(0))
    exact = model(x)
    quantized = qwix.quantize_model(model, qwix.QtProvider(rules), x)
    found[name] = float(jnp.abs(quantized(x) - exact).max())
    print(f"{name:<15} {found[name]:.4f}")

assert found["Param"] > 0.1 and found["Param subclass"] > 0.1
assert found["Variable type"] == 0, "other variables are quantized now"
PYTHON
