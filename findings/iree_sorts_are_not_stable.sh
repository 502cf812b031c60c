#!/usr/bin/env bash
# IREE sorts equal keys in any order, where JAX has asked for a stable sort.
#
# Guess: `jnp.argsort` leaves equal entries in their order, as its documentation says, wherever the program runs: the
#   sort of the exported StableHLO is marked as stable.
# Versions: IREE 3.13.0 (compiler and runtime, CPU backend), JAX 0.10.2, NumPy 2.4.6.
# What happens: with many ties the order among them changes; with all keys equal it does not, so a small check passes.
#   A sort of distinct keys is right.
# Who is hurt: whoever deploys a model that ranks or groups by integers or rounded scores (experts, buckets, masks of
#   0 and 1): other entries come first, and results differ from those of XLA, with no error.
# Remedy: sort pairs of key and position, `jax.lax.sort((key, position), num_keys=2)`.
#
# Output seen:
#   XLA:  [1, 3, 6, 7, 9, 0, 2, 4, 5, 8]
#   IREE: [3, 6, 7, 1, 9, 0, 2, 4, 5, 8]
#   IREE, pairs: [1, 3, 6, 7, 9, 0, 2, 4, 5, 8]

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


key = np.array([1, 0, 1, 0, 1, 1, 0, 0, 1, 0], np.float32)


def order(key):
    return jnp.argsort(key)


def pairs(key):
    return jax.lax.sort((key, jnp.arange(key.size)), num_keys=2)[1]


expected, found, whole = np.asarray(order(key)), in_iree(order, key), in_iree(pairs, key)
print(f"XLA:  {expected.tolist()}\nIREE: {found.tolist()}\nIREE, pairs: {whole.tolist()}")
assert np.array_equal(key[found], np.sort(key)), "it is not sorted at all"
assert not np.array_equal(found, expected), "the sort is stable now"
assert np.array_equal(whole, expected), "pairs are sorted differently"
PYTHON
