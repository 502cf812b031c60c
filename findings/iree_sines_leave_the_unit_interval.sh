#!/usr/bin/env bash
# In IREE the sine of a large number is wrong, and that of a very large one does not lie between -1 and 1.
#
# Guess: the sine of a float32 is right but for its last bits, whatever its size, as in XLA and NumPy, or at least in
#   [-1, 1].
# Versions: IREE 3.13.0 (compiler and runtime, CPU backend), JAX 0.10.2, NumPy 2.4.6.
# What happens: the error grows with the number: 5e-6 at 100, 4e-3 at 1e5, 2e-2 at 1e6; at 1e9 the sine is 1.8e12.
# Who is hurt: whoever deploys position or time embeddings of large numbers (time stamps, byte positions, Fourier
#   features of coordinates in meters): they are slightly or entirely different, with no error.
# Remedy: take the argument modulo 2 pi in float64 before it becomes an input of the program.
#
# Output seen (argument, NumPy in float64, IREE):
#   1e+02 -0.50637 -0.50637
#   1e+05 0.03575 0.03954
#   1e+06 -0.34999 -0.37398
#   1e+09 0.54584 1.8e+12

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


given = np.array([1e2, 1e5, 1e6, 1e9], np.float32)


def sine(x):
    return jnp.sin(x)


expected, found = np.sin(given.astype(float)), in_iree(sine, given)
for x, right, got in zip(given, expected, found):
    print(f"{x:.0e} {right:.5f}", f"{got:.5f}" if abs(got) < 1 else f"{got:.1e}")
assert np.allclose(jnp.sin(given), expected, atol=1e-6), "XLA differs, too"
error = abs(found - expected)
assert error[0] < 1e-4 and error[1] > 1e-3 and error[2] > 1e-2 and found[3] > 1e6, "sines are different now"
PYTHON
