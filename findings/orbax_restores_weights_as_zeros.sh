#!/usr/bin/env bash
# Orbax restores float weights into an int8 template as zeros, and into a boolean one as True, without a word.
#
# Guess: a template whose dtype is of another kind than that of the checkpoint is an error, as another shape or another
#   tree is; a change of precision alone may be allowed.
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2, numpy 2.4.6, on a CPU.
# What happens: StandardRestore casts to the dtype of the template, whichever it is, as astype does: toward 0 for
#   integers, so that weights between -1 and 1 vanish, and to "is not 0" for booleans.
# Who is hurt: a checkpoint of a float model loaded into its quantized form, whose tree has the same names, and a
#   template with a mask in the place of a weight: the model runs and answers with zeros.
# Remedy: compare the dtypes of manager.item_metadata(step) with those of the template before restoring.
#
# Output seen (10,000 weights drawn with standard deviation 0.1):
#   template    restored as  nonzeros  different numbers
#   float32     float32      10000     9998
#   bfloat16    bfloat16     10000     1702
#   int8        int8         0         1
#   bool        bool         10000     1
#   another shape is refused: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - "$folder" 2>/dev/null <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

weight = (0.1 * np.random.default_rng(0).normal(size=(100, 100))).astype(np.float32)
path = f"{sys.argv[1]}/checkpoint"
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, {"kernel": jnp.asarray(weight)})


def restored(shape, dtype):
    with ocp.StandardCheckpointer() as checkpointer:
        return np.asarray(checkpointer.restore(path, {"kernel": jax.ShapeDtypeStruct(shape, dtype)})["kernel"])


found = {}
print("template    restored as  nonzeros  different numbers")
for dtype in (jnp.float32, jnp.bfloat16, jnp.int8, jnp.bool_):
    back = restored((100, 100), dtype)
    name = jnp.dtype(dtype).name
    found[name] = str(back.dtype), np.count_nonzero(back), len(np.unique(back.astype(np.float32)))
    print(f"{name:<12}{found[name][0]:<13}{found[name][1]:<10}{found[name][2]}")
try:
    restored((100, 99), jnp.float32)
    refused = False
except ValueError:
    refused = True
print(f"another shape is refused: {refused}")
assert refused and found["float32"][:2] == ("float32", 10_000)
assert found["int8"] == ("int8", 0, 1), "floats are not cast to integers any more"
assert found["bool"] == ("bool", 10_000, 1)
PYTHON
