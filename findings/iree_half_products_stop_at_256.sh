#!/usr/bin/env bash
# In IREE a float16 product of 7,000 terms of 0.1 is 256: the sum stops growing.
#
# Guess: a matrix product of float16 is summed in float32 and rounded once, as XLA does on CPU, GPU and TPU.
# Versions: IREE 3.13.0 (compiler and runtime, CPU backend), JAX 0.10.2, NumPy 2.4.6.
# What happens: the sum is kept in float16, whose numbers near 256 are 0.25 apart: a term of 0.1 is rounded away.
#   `jnp.sum` of the same terms is right, and so is a product with `preferred_element_type=jnp.float32`.
# Who is hurt: whoever deploys a model in float16 with wide layers or long sums, such as means as products with ones.
#   The error depends on the size and sign of the terms, so narrow layers look right.
# Remedy: `preferred_element_type=jnp.float32` in products (also an argument of `nnx.Linear`), then a cast.
#
# Output seen:
#   XLA:  700.0
#   IREE: 256.0
#   IREE, preferred_element_type: 699.8

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet iree-base-compiler==3.13.0 iree-base-runtime==3.13.0 jax==0.10.2 \
  jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - 2> "$folder/errors" <<'PYTHON' || { tail -5 "$folder/errors"; exit 1; }
import iree.compiler
import iree.runtime
import jax
import jax.numpy as jnp
import numpy as np

CPU = "--iree-llvmcpu-target-cpu=generic"


def in_iree(function, *given):
    """What IREE makes of a function that JAX exports."""
    program = str(jax.export.export(jax.jit(function))(*given).mlir_module())
    options = dict(target_backends=["llvm-cpu"], input_type="stablehlo", extra_args=[CPU])
    context = iree.runtime.SystemContext(config=iree.runtime.Config("local-task"))
    binary = iree.compiler.compile_str(program, **options)
    context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, binary))
    return context.modules[f"jit_{function.__name__}"]["main"](*given).to_host()


x, w = np.ones((2, 7000), np.float16), np.full((7000, 2), 0.1, np.float16)


def product(x, w):
    return x @ w


def wide(x, w):
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


right, found, better = float(product(jnp.asarray(x), w)[0, 0]), in_iree(product, x, w), in_iree(wide, x, w)
print(f"XLA:  {right}\nIREE: {found[0, 0]}\nIREE, preferred_element_type: {better[0, 0]:.1f}")
assert abs(right - 700) < 1 and abs(better[0, 0] - 700) < 1, "XLA or the remedy is different now"
assert (found == 256).all(), "the sum is different now"
PYTHON
