#!/usr/bin/env bash
# In IREE (-2) ** 2 and 0 ** 0 are NaN, if the exponent is an array.
#
# Guess: a program that JAX exports has the values of XLA, where a negative base has a power if the exponent is whole,
#   and 0 ** 0 is 1, as in IEEE 754 and NumPy.
# Versions: IREE 3.13.0 (compiler and runtime, CPU backend), JAX 0.10.2, NumPy 2.4.6.
# What happens: the power becomes an exponential of a logarithm, so bases that are not positive give NaN (0 with a
#   positive exponent is right). An exponent that is a whole Python number becomes products and is right.
# Who is hurt: whoever deploys a model with a learned or computed exponent (generalized means, gamma correction,
#   polynomials over `jnp.arange`), whose base can be 0, as after a ReLU or where weights were pruned.
# Remedy: take the power of |x| with the sign apart, and `jnp.where` for exponent 0; or fixed exponents.
#
# Output seen:
#   XLA:  [4.0, -8.0, 1.0, 0.0, 9.0]
#   IREE: [nan, nan, nan, 0.0, 9.0]
#   IREE, x ** 2: [4.0, 4.0, 0.0, 0.0, 9.0]

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


base, exponent = np.array([[-2, -2, 0, 0, 3], [2, 3, 0, 2, 2]], np.float32)


def power(base, exponent):
    return base**exponent


def square(base):
    return base**2


found, squares = in_iree(power, base, exponent), in_iree(square, base)
print(f"XLA:  {power(jnp.asarray(base), exponent).tolist()}\nIREE: {found.tolist()}")
print(f"IREE, x ** 2: {squares.tolist()}")
assert np.isnan(found[:3]).all() and np.array_equal(found[3:], [0, 9]), "powers are different now"
assert np.array_equal(squares, base**2), "squares are different now"
PYTHON
