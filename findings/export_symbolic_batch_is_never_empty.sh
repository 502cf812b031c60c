#!/usr/bin/env bash
# A program exported with a symbolic batch refuses an empty one, also where the constraint `b >= 0` allows it.
#
# Guess: symbolic sizes count as 1 or more by default, and `constraints=["b >= 0"]`, which is accepted, lets
#   an exported program take a batch of 0 rows, as the jitted function does.
# Versions: jax 0.10.2, jaxlib 0.10.2 (the same on 0.8.1 and 0.12.0.1).
# What happens: `symbolic_shape` takes the constraint without a word, the export works, and the call with 0
#   rows raises ValueError, "Expected value >= 1 for dimension variable 'b'". A constraint can only narrow.
# Who is hurt: servers and evaluation loops whose last batch may be empty: the jitted function returned an
#   empty result for it, the exported program stops the process.
# Remedy: return early for an empty batch, of the shape that `exported.out_avals` tells.
#
# Output seen:
#   jit, 0 rows: (0, 3)
#   exported with b >= 0, 4 rows: (4, 3)
#   exported with b >= 0, 0 rows: ValueError, >= 1 wanted
#   exported with b >= 8, 4 rows: ValueError, as the constraint says

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp


def exported(constraint):
    (rows,) = jax.export.symbolic_shape("b", constraints=[constraint])
    return jax.export.export(double)(jax.ShapeDtypeStruct((rows, 3), jnp.float32))


def refused(program, rows):
    try:
        program.call(jnp.ones((rows, 3)))
    except ValueError as error:
        return str(error)
    raise SystemExit(f"{rows} rows are taken now")


double = jax.jit(lambda x: 2 * x)
print("jit, 0 rows:", double(jnp.ones((0, 3))).shape)
free = exported("b >= 0")
print("exported with b >= 0, 4 rows:", free.call(jnp.ones((4, 3))).shape)
assert ">= 1" in refused(free, 0)
print("exported with b >= 0, 0 rows: ValueError, >= 1 wanted")
assert "8" in refused(exported("b >= 8"), 4)
print("exported with b >= 8, 4 rows: ValueError, as the constraint says")
PYTHON
