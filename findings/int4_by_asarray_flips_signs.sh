#!/usr/bin/env bash
# jnp.asarray(w, dtype=int4) and jnp.asarray(w).astype(int4) give different integers, one of the wrong sign.
#
# Guess: both are the same cast, which saturates as every float to int cast of XLA does; a scaled weight of
#   8 becomes 7, the largest int4.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, ml_dtypes 0.6.0, on a CPU.
# What happens: `astype` of a JAX array saturates, in and out of jit. `asarray` and `array` with a NumPy array
#   and a dtype convert with NumPy first, where a small integer keeps the low bits: 8 becomes -8, 9
#   becomes -7, 16 becomes 0. Nothing is raised, not even NumPy's "invalid value encountered in cast".
#   Casts from an integer dtype keep the low bits in both. uint4, int2 and int8 do the same.
# Who is hurt: symmetric quantization whose scale is max|w| / 7.5 or / 8 rounds the largest weights to 8, and
#   a percentile scale leaves outliers above 7: the weights that magnitude pruning was careful to keep
#   change their sign, and only when the caller happens to hold NumPy arrays (a checkpoint just read).
# Remedy: clip before the cast: jnp.clip(jnp.round(w / scale), -8, 7).astype(jnp.int4).
#
# Output seen:
#   w / scale                  [7.0, 8.0, 9.0, 16.0, -9.0]
#   asarray(w).astype(int4)    [7, 7, 7, 7, -8]
#   the same under jit         [7, 7, 7, 7, -8]
#   asarray(w, dtype=int4)     [7, -8, -7, 0, 7]
#   int8 values .astype(int4)  [7, -8, -7, 0, 7]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

w = np.array([7, 8, 9, 16, -9], np.float32)


def show(name, values):
    values = [int(value) for value in values]
    print(f"{name:26} {values}")
    return values


print(f"{'w / scale':26} {w.tolist()}")
saturated = [7, 7, 7, 7, -8]
assert show("asarray(w).astype(int4)", jnp.asarray(w).astype(jnp.int4)) == saturated
assert show("the same under jit", jax.jit(lambda w: w.astype(jnp.int4))(w)) == saturated
wrapped = [7, -8, -7, 0, 7]
assert show("asarray(w, dtype=int4)", jnp.asarray(w, dtype=jnp.int4)) == wrapped, "it saturates now"
narrow = jnp.asarray(w.astype(np.int8))
assert show("int8 values .astype(int4)", narrow.astype(jnp.int4)) == wrapped
PYTHON
